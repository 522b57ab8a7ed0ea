"""Look into a dataset by the small files of its repository, at a preflight; a local one against weights of the Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pi0q.jobs.dataset_checks import checks, policy_inputs
from pi0q.jobs.dataset_checks.contents import DatasetContents
from pi0q.jobs.dataset_checks.finding import Finding, Source
from pi0q.jobs.spec import Spec
from pi0q.workers.hub.access import AccessReport
from pi0q.workers.trainer import dataset_reader, local_weights
from pi0q.workers.trainer.interpreter import TrainerPython

#: Finds what was read of a job's local dataset; None where it has none.
LocalContents = Callable[[Spec], DatasetContents | None]


def findings(
    heard: AccessReport, spec: Spec, trainer: TrainerPython, meta: Path, local: LocalContents
) -> tuple[Finding, ...]:
    """Return what is wrong with the job's dataset; nothing where it could not be looked into.

    `meta` holds the small files that the Hub gave.
    """
    if spec.train.get("dataset.root"):
        contents = local(spec)
    elif heard.names is not None:
        contents = dataset_reader.read(trainer.python, meta, spec.train, names=heard.names)
    else:
        contents = None
    if contents is None:
        return ()
    source = Source(repo_id=str(spec.train["dataset.repo_id"]))
    return checks.findings(contents, inputs_of(heard, spec, trainer), spec.train, source)


def inputs_of(heard: AccessReport, spec: Spec, trainer: TrainerPython) -> policy_inputs.PolicyInputs:
    """Return what the job's policy takes, by the config.json of its weights where the Hub showed it."""
    shown = (files.contents.get("config.json") for fetch, _, files in heard.models if fetch.kind == "base")
    base = next((content for content in shown if content is not None), None)
    return policy_inputs.of_job(spec.train, base=base or local_weights.config(spec), lerobot=trainer.lerobot)

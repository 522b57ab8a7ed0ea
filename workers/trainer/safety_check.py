"""The last look at what a trainer is about to read: no code from data.

Right before each start the files of the base, the resumed checkpoint and the tokenizers are judged as they lie on the
disk, whatever a preflight said of them before (jobs/safety/pretrained.py says what is found).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pi0q.jobs.estimates import policy_sizes
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.safety.configs import code_repositories
from pi0q.jobs.safety.findings import Finding, Use, Verdict, describe
from pi0q.jobs.schema import trained_model
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.host.model_files import code_hashes, judge_directory
from pi0q.workers.hub import requirements, snapshots
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.runs.stop import Stop
from pi0q.workers.trainer import owner_rules

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One directory that the trainer will read a model from."""

    #: As the user knows it.
    name: str
    directory: Path
    use: Use
    #: Whether pi0q or the box's owner chose where it lies.
    trusted: bool


def refuse_unsafe(spec: Spec, settings: Settings, lerobot: str, resume: Saved | None) -> None:
    """Raise Stop where the trainer of this job would run code that comes with its data.

    `spec` names its base as a directory of this box; `resume` is the checkpoint that it goes on from.
    """
    if (not resume or policy_sizes.adapted_base(spec)) and (why := owner_rules.weights_problem(spec, settings)):
        raise Stop(Reason.UNSAFE_WEIGHTS, why)
    try:
        allowed = code_hashes(settings)
    except (OSError, ValueError) as error:
        raise Stop(Reason.UNSAFE_WEIGHTS, f"the list in PI0Q_ALLOW_CODE can't be read: {error}") from None
    verdict = Verdict()
    for source in sources(spec, settings, lerobot, resume):
        found = judge_directory(source.directory, source.use, lerobot, allowed=allowed, trusted=source.trusted)
        _stop_on(source.name, found.findings)
        verdict |= found
    code = verdict.code_from | code_repositories(trained_model.kind(spec.train), lerobot)
    for repository in sorted(code):
        # One that does not lie here yet the trainer would fetch by itself, and nobody would have seen it.
        fetch = Fetch(kind="code", repo_id=repository, repo_type="model")
        if (snapshot := _cached(fetch, settings)) is None:
            _stop_on(
                repository, [Finding(file="*.py", what="LeRobot runs its code, and it is not in this box's cache")]
            )
        else:
            _stop_on(repository, judge_directory(snapshot, Use.CODE, lerobot, allowed=allowed, trusted=True).findings)


#: What the trainer finds by its name in the Hub's cache, and what it is read for.
_BY_NAME = {"tokenizer": Use.TOKENIZER, "backbone": Use.TOKENIZER, "own backbone": Use.NUMBERS}


def sources(spec: Spec, settings: Settings, lerobot: str, resume: Saved | None) -> Iterator[Source]:
    """The directories that LeRobot reads for this start, but for repositories that run code."""
    if resume:
        model = Path(resume.path) / "pretrained_model"
        yield Source(name=f"checkpoint {resume.step}", directory=model, use=Use.CHECKPOINT, trusted=True)
    base = policy_sizes.adapted_base(spec) if resume else policy_sizes.base(spec)
    if base:
        use = Use.POLICY if spec.train.get("policy.path") else Use.WEIGHTS
        directory = Path(base)
        own = (settings.hf_home, settings.home, *settings.weights_roots)
        trusted = any(directory.resolve().is_relative_to(root.resolve()) for root in own)
        yield Source(name=_shown(directory), directory=directory, use=use, trusted=trusted)
    brought = [fetch for fetch in requirements.wanted(spec, resuming=True, lerobot=lerobot) if fetch.kind in _BY_NAME]
    for fetch in brought:
        if snapshot := _cached(fetch, settings):
            yield Source(name=fetch.repo_id, directory=snapshot, use=_BY_NAME[fetch.kind], trusted=True)


def _cached(fetch: Fetch, settings: Settings) -> Path | None:
    """The snapshot that the trainer finds by this name; None where there is none."""
    sha = snapshots.read_ref(fetch.folder(settings.hf_home), snapshots.names(fetch)[0])
    return fetch.snapshot(settings.hf_home, sha) if sha else None


def _shown(directory: Path) -> str:
    """A snapshot of the cache by its repository and commit, any other directory by its path."""
    if directory.parent.name != "snapshots":
        return str(directory)
    repository = directory.parent.parent.name.removeprefix("models--").replace("--", "/")
    return f"{repository} at {directory.name[:8]}"


def _stop_on(name: str, findings: Iterable[Finding]) -> None:
    if found := list(findings):
        text = describe(name, found)
        log.warning("refused: %s", text)
        raise Stop(Reason.UNSAFE_WEIGHTS, text)

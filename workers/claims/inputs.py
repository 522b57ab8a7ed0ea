"""What a job reads from this box's disks, before a claim: its dataset's directory and its weights'.

    refusals(job) -> announced -> settle: the job is held once no box that is up has it -> look_again: some box has it

A dataset is looked into by a process of its own, in a thread: the claiming thread waits a moment and no more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, TimeoutError
from pathlib import Path
from typing import Any

from pi0q.jobs import transition
from pi0q.jobs.dataset_checks import checks, policy_inputs
from pi0q.jobs.dataset_checks.contents import DatasetContents
from pi0q.jobs.dataset_checks.finding import Finding, Source
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.record_codecs import reason_of
from pi0q.jobs.spec import Spec
from pi0q.queue import job_inputs
from pi0q.queue.refusals import BadInput, DatasetLook, Refusal
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.trainer import dataset_reader, local_datasets, local_weights, owner_rules
from pi0q.workers.trainer.interpreter import TrainerPython

logger = logging.getLogger(__name__)

#: Seconds that the claiming thread waits for a look; most datasets take less.
PATIENCE_SECONDS = 0.2
#: Looks that are remembered.
MAX_REMEMBERED = 200
#: Seconds between two looks at the jobs that are held because nobody had what they read.
AGAIN_SECONDS = 20.0

#: A directory, what of it may have changed, and the episodes that a job uses.
_Key = tuple[str, tuple[int, ...], str]


class JobInputs:
    """Looks at what jobs read from this box's disks."""

    def __init__(self, settings: Settings, store: Store, box: str, *, on_done: Callable[[], None]) -> None:
        """`on_done` is called by a thread after each look."""
        self.settings, self.store, self.box, self.on_done = settings, store, box, on_done
        self._looks: dict[_Key, Future[DatasetContents | None]] = {}
        self._reading = threading.Lock()
        self._next_look = 0.0

    # -- why this box does not take a job ------------------------------------------------------------

    def refusals(self, job: Record, spec: Spec, trainer: TrainerPython) -> list[Refusal]:
        """Return what of the job's inputs is not on this box, or not fit."""
        bad = [one for one in (local_datasets.problem(spec.train, self.settings), self._weights(job, spec)) if one]
        if bad or job.started_ms is not None:
            # One that has trained is not judged anew: what it read was good, and its run says what is not.
            return list(bad)
        look = self.contents(spec, trainer)
        if look is None:
            return []
        if not look.done():
            return [DatasetLook()]
        contents = look.result()
        found = self.findings(contents, spec, trainer, base=local_weights.config(spec)) if contents else ()
        return [_bad(found)] if found else []

    def _weights(self, job: Record, spec: Spec) -> BadInput | None:
        # Of a directory that jobs may not name nothing is told, not even whether it is there.
        if why := owner_rules.weights_problem(spec, self.settings):
            return BadInput(what=local_weights.WEIGHTS, why=why, reason=Reason.UNSAFE_WEIGHTS.value)
        return local_weights.problem(job, spec)

    def contents(self, spec: Spec, trainer: TrainerPython) -> Future[DatasetContents | None] | None:
        """Return the look into the job's local dataset, which may be under way; None where it has none here."""
        root = local_datasets.local_root(spec.train, self.settings)
        if root is None:
            return None
        key = (str(root), _stamp(root), str(spec.train.get("dataset.episodes")))
        if key not in self._looks:
            while len(self._looks) >= MAX_REMEMBERED:
                del self._looks[next(iter(self._looks))]
            look = self._looks[key] = Future()
            ask = (look, trainer.python, root, dict(spec.train))
            # A worker that ends does not wait for it.
            threading.Thread(target=self._look, args=ask, name="dataset-look", daemon=True).start()
            try:
                look.result(PATIENCE_SECONDS)
            except TimeoutError:
                look.add_done_callback(lambda _: self.on_done())
        return self._looks[key]

    def _look(self, look: Future[DatasetContents | None], python: str, root: Path, train: dict[str, Any]) -> None:
        contents = None
        try:
            # One at a time: each reads as fast as its disk goes.
            with self._reading:
                contents = dataset_reader.read(python, root, train)
        except Exception:
            logger.exception("can't look into %s; jobs may be claimed without it", root)
        look.set_result(contents)

    def findings(
        self, contents: DatasetContents, spec: Spec, trainer: TrainerPython, *, base: bytes | None
    ) -> tuple[Finding, ...]:
        """Return what is wrong with a dataset that was looked into. `base`: config.json of the weights."""
        inputs = policy_inputs.of_job(spec.train, base=base, lerobot=trainer.lerobot)
        root = local_datasets.local_root(spec.train, self.settings)
        source = Source(repo_id=str(spec.train["dataset.repo_id"]), root=str(root or ""))
        return checks.findings(contents, inputs, spec.train, source)

    # -- what follows where no box has it --------------------------------------------------------------

    def settle(self, refused: Mapping[str, Sequence[Refusal]], silent_seconds: float) -> None:
        """Hold the jobs of which this box has announced that it lacks their inputs, where no other box has them."""
        for job_id, why in refused.items():
            if not any(isinstance(one, BadInput) for one in why):
                continue
            job = self.store.get(job_id)
            found = job_inputs.verdict(job, self.store.boxes(about=job_id), silent_seconds)
            if found is None:
                continue
            if found.in_file:
                moved = self.store.move(
                    job_id, transition.refused(_reason(found.lack.reason), f"preflight: {found.why}")
                )
            else:
                lacks: dict[str, Any] = {"what": found.lack.what, "why": found.lack.why, "reason": found.lack.reason}
                lacks["since_ms"] = self.store.now_ms()
                moved = self.store.move(job_id, transition.held_for_input(found.why, lacks))
            if moved:
                logger.info("%s %s is %s: %s", job_id, job.name, moved.label, found.why)

    def look_again(self, trainer: TrainerPython, spec_of: Callable[[Record], Spec | str]) -> None:
        """Let jobs go on that were held for what this box has now; end those whose user's time is over."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + AGAIN_SECONDS
        lacking = self.store.lacking()
        now_ms = self.store.now_ms() if lacking else 0
        for job in self.store.records(lacking):
            spec = spec_of(job)
            if not job.lacks or isinstance(spec, str):
                continue
            if not self.refusals(job, spec, trainer):
                self.store.move(job.id, transition.found_input(f"{self.box} has what it reads"))
            elif spec.input_seconds is not None and now_ms - _since_ms(job) > 1000 * spec.input_seconds:
                detail = f"nobody got what it reads in {spec.input_seconds:.0f} s: {job.lacks.get('why')}"
                self.store.move(job.id, transition.gave_up_input(_reason(str(job.lacks.get("reason"))), detail))


def _bad(found: Sequence[Finding]) -> BadInput:
    in_file = all(finding.in_file for finding in found)
    return BadInput(
        what=local_datasets.DATASET, why=checks.sentence(found), reason=checks.reason(found).value, in_file=in_file
    )


def _reason(told: str) -> Reason:
    return reason_of(told) or Reason.DATASET_MISSING


def _since_ms(job: Record) -> int:
    since = job.lacks.get("since_ms")
    return since if type(since) is int else job.updated_ms


def _stamp(root: Path) -> tuple[int, ...]:
    """Return what changes when someone mends the dataset: times and sizes of what lies in meta/ and at the top."""
    found = list[int]()
    for path in (root, root / "meta", root / "data", root / "videos", root / "meta/info.json", root / "meta/stats.json",
                 root / "meta/tasks.parquet"):  # fmt: skip
        try:
            info = path.stat()
            found += [info.st_mtime_ns, info.st_size]
        except OSError:
            found.append(-1)
    return tuple(found)

"""Fetch what waiting jobs read while this box has no card: its GPU hours then begin with training.

    notice(True) -> round: choose (plan.py) -> preflight (claims) -> fetch (hub) -> state, which the heartbeat announces

A thread of the worker; the bytes go through the helper process of every download, which hashes them as they come.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.outcome import MAX_REST_SECONDS, OUTCOMES
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.queue import capacity
from pi0q.queue.capacity import CardRoom
from pi0q.queue.refusals import PreflightRuns, Refusal, TooLittleDisk
from pi0q.workers.claims.admission import Admission
from pi0q.workers.host.probe import Host
from pi0q.workers.hub import requirements, snapshots
from pi0q.workers.hub.errors import HubError
from pi0q.workers.hub.fetch import Abandoned
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.hub.session import Pins
from pi0q.workers.staging import inputs, plan
from pi0q.workers.staging.plan import JobNeed, Room
from pi0q.workers.staging.state import StagingState
from pi0q.workers.storage.disk_needs import DiskNeeds
from pi0q.workers.trainer.interpreter import NoTrainer, TrainerPython

logger = logging.getLogger(__name__)

#: Waiting jobs that are looked at, the next ones first.
DEPTH = 50
#: Seconds between two questions whether the job still waits whose inputs are being fetched.
CHECK_SECONDS = 5.0
#: Seconds between two looks at a queue that had something left to fetch or to check.
LOOK_SECONDS = 1.0
#: Seconds before a fetch that failed is tried again, at the least; and for which what can't be had keeps a box on.
PAUSE_SECONDS, PATIENCE_SECONDS = 60.0, 1800.0


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a stager reads of its box."""

    measure: Callable[[], Host]
    trainer: Callable[[], TrainerPython | NoTrainer]
    #: Name and MiB of each card that it has at other times; empty where nobody knows.
    cards: Callable[[], Sequence[Mapping[str, Any]]]
    #: Set once the worker is to stop.
    stopping: threading.Event


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """A fetch that failed; it is tried again."""

    why: str
    until: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A waiting job whose inputs may be fetched."""

    job: Record
    spec: Spec
    wanted: tuple[Fetch, ...]
    need: JobNeed


def _rooms(cards: Sequence[Mapping[str, Any]]) -> list[CardRoom]:
    """Return what these cards have while nothing runs on them."""
    sizes = [(str(card["name"]), int(card["total_mib"])) for card in cards]
    return [CardRoom(name=name, total_mib=mib, measured_mib=mib, free_mib=mib) for name, mib in sizes]


def _misfit(job: Record, box: str, rooms: Sequence[CardRoom]) -> Refusal | None:
    """Return why a box of this name with these cards would not take the job; None if it may. No cards: unknown ones."""
    need = capacity.needed(job)
    if not rooms:
        named = replace(need, choice=replace(need.choice, gpu=()))
        return capacity.not_chosen(named, box, rooms)
    return capacity.not_chosen(need, box, rooms) or capacity.shortage(need, rooms)


class Stager(threading.Thread):
    """Fetches the inputs of waiting jobs, one job after the other, as long as it is told that the box has no card."""

    def __init__(self, admission: Admission, disk_needs: DiskNeeds, around: Surroundings) -> None:
        super().__init__(name="staging", daemon=True)
        self._admission, self._disk_needs, self._around = admission, disk_needs, around
        #: How far it is. Replaced as a whole, so that other threads may read it.
        self.state = StagingState()
        self._active, self._due = False, threading.Event()
        #: Commits that were fetched and verified here since the worker's start, by what was wanted and pinned.
        self._commits: dict[tuple[Fetch, str | None], str] = {}
        #: Jobs that have all that they read.
        self._ready: set[str] = set()
        self._failures: dict[str, _Failure] = {}
        #: Since when a job's inputs can't be had for a reason that may pass.
        self._since: dict[str, float] = {}
        self._asked_at = 0.0

    @property
    def busy(self) -> bool:
        """Whether there is still something to fetch: such a box does not count as idle."""
        return self._active and self.state.busy

    def notice(self, active: bool) -> None:
        """Learn whether the box is to fetch now; called at each of its looks."""
        if active and not self.is_alive():
            self.start()
        self._active = active
        self._due.set()

    def run(self) -> None:
        while not self._around.stopping.is_set():
            self._due.wait(LOOK_SECONDS if self.busy else None)
            self._due.clear()
            try:
                while self._active and self._round():
                    pass
            except redis.RedisError as error:
                logger.warning("can't ask the queue for jobs whose inputs to fetch (%s)", error)
            except Pi0qError as error:
                logger.error("%s", error)
            except Exception:
                logger.exception("can't fetch the inputs of waiting jobs; it is tried again")

    # -- one look ----------------------------------------------------------------------------------------

    def _round(self) -> bool:
        """Fetch for the first job that lacks something; return whether to look again at once."""
        jobs = self._admission.store.waiting(DEPTH)
        self._forget({job.id for job in jobs})
        candidates, problems = self._candidates(jobs)
        host = self._around.measure()
        room = Room(data_mib=host.data.free_mib, hub_mib=host.hub.free_mib if host.hub else None)
        lacking = plan.lacks([one.need for one in candidates], room)
        ready, pending, due = list[str](), False, list[_Candidate]()
        for one in candidates:
            if lack := lacking.get(one.job.id):
                path = (host.hub or host.data).path
                full = TooLittleDisk(needed_mib=lack.needed_mib, free_mib=lack.free_mib, path=path)
                problems[one.job.id] = str(full)
            elif self._is_here(one):
                ready.append(one.job.id)
            elif failed := self._waits(one.job.id):
                problems[one.job.id] = failed.why
                pending = self._is_worth_a_wait(one.job.id) or pending
            elif refusal := self._admission.preflight.refusal(one.job, one.spec):
                pending = isinstance(refusal, PreflightRuns) or self._is_worth_a_wait(one.job.id) or pending
                problems[one.job.id] = str(refusal)
            else:
                due.append(one)
        left = len(jobs) - len(ready)
        busy = pending or bool(due)
        self._show(StagingState(busy=busy, ready=tuple(ready), left=left, problems=problems))
        return bool(due) and self._fetch(due[0])

    def _forget(self, waiting: set[str]) -> None:
        """Forget jobs that wait no more."""
        self._failures = {job: failed for job, failed in self._failures.items() if job in waiting}
        self._since = {job: at for job, at in self._since.items() if job in waiting - self._ready}
        self._ready &= waiting

    def _candidates(self, jobs: Sequence[Record]) -> tuple[list[_Candidate], dict[str, str]]:
        """Return the jobs that this box may fetch for, and why not for the others."""
        found, problems = list[_Candidate](), dict[str, str]()
        trainer, box, rooms = self._around.trainer(), self._admission.preflight.box, _rooms(self._around.cards())
        for job in jobs:
            against: list[str | Refusal] = list(self._admission.fetch_problems(job, trainer))
            spec = self._admission.spec(job)
            if misfit := _misfit(job, box, rooms):
                against.append(misfit)
            if against or isinstance(spec, str):
                problems[job.id] = "; ".join(map(str, against))
                continue
            wanted = inputs.wanted(job, spec, self._admission.preflight.lerobot)
            need = plan.need_of(job.id, self._disk_needs.plan(job, spec))
            found.append(_Candidate(job=job, spec=spec, wanted=wanted, need=need))
        return found, problems

    def _is_here(self, one: _Candidate) -> bool:
        """Return whether all that the job reads was fetched since the worker's start, and is still there."""
        return one.job.id in self._ready and not self._missing(one)

    def _missing(self, one: _Candidate) -> list[Fetch]:
        """Return what of its inputs was not fetched, or is gone again."""
        known = ((fetch, self._commits.get((fetch, one.job.pins.get(fetch.pin)))) for fetch in one.wanted)
        home = self._admission.settings.hf_home
        return [fetch for fetch, sha in known if sha is None or not snapshots.is_complete(fetch, home, sha)]

    def _waits(self, job_id: str) -> _Failure | None:
        failed = self._failures.get(job_id)
        return failed if failed and time.monotonic() < failed.until else None

    def _is_worth_a_wait(self, job_id: str) -> bool:
        """Return whether the box stays on for inputs that can't be had now: for a while, not for ever."""
        return time.monotonic() - self._since.setdefault(job_id, time.monotonic()) < PATIENCE_SECONDS

    # -- one job -----------------------------------------------------------------------------------------

    def _fetch(self, one: _Candidate) -> bool:
        """Fetch what one job reads; return whether to look for more at once."""
        job, began = one.job, time.monotonic()
        logger.info("fetching what %s %s reads, for when this box has its card", job.id, job.name)
        self._show(replace(self.state, job=job.id))
        try:
            self._bring(one)
        except Abandoned:
            logger.info("%s needs its inputs here no more, or this box has other things to do", job.id)
            return self._active and not self._around.stopping.is_set()
        except HubError as error:
            self._note_failure(job.id, error)
            return True
        self._ready.add(job.id)
        self._failures.pop(job.id, None)
        logger.info("%s %s: its inputs are here and verified (%.0f s)", job.id, job.name, time.monotonic() - began)
        return True

    def _bring(self, one: _Candidate) -> None:
        """Fetch what is not here. Raises HubError, Abandoned."""
        job, settings = one.job, self._admission.settings
        commits = inputs.fetch(
            self._missing(one),
            settings,
            pins=Pins(job.pins, job.uncompared),
            on_phase=self._say,
            may_go_on=lambda: self._may_go_on(job.id),
        )
        self._commits |= {
            (fetch, job.pins.get(fetch.pin)): commits[fetch.pin] for fetch in one.wanted if fetch.pin in commits
        }
        if job.checkpoint is None:
            pins = {fetch.pin: self._commits[(fetch, job.pins.get(fetch.pin))] for fetch in one.wanted}
            spec = requirements.at_home(one.spec, one.wanted, hf_home=settings.hf_home, pins=pins)
            inputs.fetch_torch_weights(spec, settings, self._admission.preflight.lerobot)

    def _note_failure(self, job_id: str, error: HubError) -> None:
        before, now = self._failures.get(job_id), time.monotonic()
        asked = max(OUTCOMES[error.reason].rest_seconds, error.asked_seconds, PAUSE_SECONDS)
        seconds = min(MAX_REST_SECONDS, max(asked, 2 * before.seconds if before else 0.0))
        self._failures[job_id] = _Failure(why=error.why, until=now + seconds, seconds=seconds)
        logger.warning("%s: %s; tried again in %.0f s", job_id, error.why, seconds)

    def _may_go_on(self, job_id: str) -> bool:
        """Return whether the job still waits, and the box still is to fetch."""
        if not self._active or self._around.stopping.is_set():
            return False
        if time.monotonic() - self._asked_at < CHECK_SECONDS:
            return True
        self._asked_at = time.monotonic()
        try:
            return job_id in self._admission.store.still_waiting([job_id])
        except redis.RedisError:
            # What comes is of use all the same.
            return True

    def _say(self, phase: str) -> None:
        self.state = replace(self.state, phase=phase)

    def _show(self, state: StagingState) -> None:
        """Replace the state; a change that a user waits for is announced at once."""
        before, self.state = self.state, state
        if (before.busy, before.job, before.ready) != (state.busy, state.job, state.ready):
            with contextlib.suppress(redis.RedisError):
                self._admission.store.wake(self._admission.preflight.box, "")

"""What a job needs of the Hub and of WandB, asked before any GPU is claimed and off the thread that claims.

    questions(job) -> ask (a thread, a process for each way to the Hub) -> found -> the record, for every box

A mistake that only its user can mend ends the job with its cure. What is wrong with this box, or with the network,
only keeps the job from this box for now.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import redis

from pi0q.jobs import aftermath, copies, dataset, transition
from pi0q.jobs.dataset import Facts
from pi0q.jobs.outcome import MAX_REST_SECONDS, OUTCOMES, Next, Reason
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers import accounts
from pi0q.workers.run import fetches, inquiries, snapshots
from pi0q.workers.run.fetches import Fetch
from pi0q.workers.run.refusals import Refused

logger = logging.getLogger("pi0q")

#: Jobs that are asked about at once.
AT_ONCE = 2
#: Jobs whose result is kept in memory.
REMEMBERED = 2000
#: Refusals that another account might not meet: private repositories look like none.
_OF_ACCOUNT = frozenset({Reason.NEEDS_ACCESS, Reason.NOT_ON_HUB})
ASKING = "preflight: the Hub and WandB are asked for what the job needs"


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is to be asked outside for one job."""

    #: Repositories that are not known to lie here.
    fetches: tuple[Fetch, ...] = ()
    #: Where the trained policy is pushed to, owner/name; "" if nowhere.
    push: str = ""
    #: Where copies of its checkpoints go on the Hub, owner/name; "" if nowhere.
    copies: str = ""
    #: Whether the WandB key matters.
    wandb: bool = False

    def __bool__(self) -> bool:
        return bool(self.fetches or self.push or self.copies or self.wandb)


def questions(job: Record, spec: Spec, *, laid: Callable[[Fetch, str], bool]) -> Questions:
    """Pure but for `laid`: whether a repository lies here whole at a commit."""
    wanted = fetches.wanted(spec, resuming=job.checkpoint is not None)
    missing = tuple(one for one in wanted if not (one.pin in job.pins and laid(one, job.pins[one.pin])))
    talks = fetches.talks_to(spec)
    return Questions(
        fetches=missing,
        push=aftermath.push_to(spec) or "",
        copies=copies.repository(copies.place_of(spec)),
        wandb="wandb" in talks,
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of it."""

    #: Why the job can't run anywhere: its reason and what its user can do.
    refused: Refused | None = None
    #: Why it can't run here now, and for how long it is left alone.
    away: str = ""
    rest_seconds: float = 0.0
    #: The dataset's facts, where they are known.
    facts: Facts | None = None
    #: Bytes of its repositories, by pin, where the Hub told them.
    sizes: Mapping[str, int] = field(default_factory=dict)
    #: As accounts.WandB has it; "" if it was not asked.
    wandb: str = ""
    #: What its user should know.
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """For the record; nothing empty, which a script would write as something else."""
        told = {"ok": True, "seconds": round(self.seconds, 1), "notes": list(self.notes), "wandb": self.wandb}
        told["dataset"] = asdict(self.facts) if self.facts else None
        told["sizes"] = dict(self.sizes)
        return {name: value for name, value in told.items() if value not in ("", None, [], {})}


def judge(heard: inquiries.Heard, said: accounts.WandB | None, spec: Spec, *, push: str) -> Found:
    """What follows from the answers. Pure."""
    facts = Facts.read(heard.info) if heard.info is not None else None
    refused = next((one for one in heard.refusals if OUTCOMES[one.reason].next is not Next.REST), None)
    if refused is None and facts and (why := dataset.fault(facts, spec.train)):
        why = why[0].upper() + why[1:]
        refused = Refused(reason=Reason.SPEC_REFUSED, why=why, detail=why)
    notes = []
    refused = refused or no_copies(heard, copies.place_of(spec))
    if heard.push == "refused":
        detail = f"The trained policy can't be pushed to {push}: {heard.push_why}"
        cure = ". Run `hf auth login` on the box, or mend policy.repo_id, then submit again."
        refused = refused or Refused(reason=Reason.NEEDS_ACCESS, why=detail, detail=detail + cure)
    elif push and heard.push != "ok":
        notes.append(
            f"whether {push} can be pushed to could not be asked ({heard.push_why or 'the Hub was not reached'})"
        )
    if said and said.state != "ok":
        notes.append(f"WandB: {WANDB[said.state]}; the run is kept on the box (offline)")
    away = next((one for one in heard.refusals if OUTCOMES[one.reason].next is Next.REST), None)
    return Found(
        refused=refused,
        away=away.why if away else "",
        rest_seconds=max(OUTCOMES[away.reason].rest_seconds, away.asked_seconds) if away else 0.0,
        facts=facts,
        sizes=heard.sizes,
        wandb=said.state if said else "",
        notes=(*heard.notes, *notes),
    )


def no_copies(heard: inquiries.Heard, place: str) -> Refused | None:
    """Why the copies that its user asked for can't be made; None if they can, or nobody could say."""
    if heard.copies not in ("refused", "public"):
        return None
    why = f"Checkpoints can't be copied to {place}: {heard.copies_why}"
    public = heard.copies == "public"
    cure = "Make it private in its settings" if public else "Run `hf auth login` on the box"
    reason = Reason.SPEC_REFUSED if public else Reason.NEEDS_ACCESS
    return Refused(reason=reason, why=why, detail=f"{why}. {cure}, or mend checkpoints.copy_to, then submit again.")


#: What is wrong with a WandB key, in words.
WANDB = {
    "none": "this box has no key (`wandb login` on it)",
    "refused": "it refuses this box's key (`wandb login` on it)",
    "away": "it does not answer",
}


def facts_of(job: Record) -> Facts | None:
    """What any box found out about its dataset."""
    for found in job.preflight.values():
        told = found.get("dataset")
        if isinstance(told, Mapping) and set(told) == set(Facts.__dataclass_fields__):
            return Facts(**told)
    return None


@dataclass
class _Rest:
    """A job that is left alone for a while."""

    why: str
    until: float
    seconds: float


@dataclass
class Preflight:
    """The preflights of one box."""

    settings: Settings
    store: Store
    box: str
    _passed: dict[str, str] = field(default_factory=dict)
    _asking: set[str] = field(default_factory=set)
    _rests: dict[str, _Rest] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pool: ThreadPoolExecutor | None = None

    def online(self, job: Record, spec: Spec) -> bool:
        """Whether the job needs anything of the network."""
        return bool(questions(job, spec, laid=self._laid))

    def refusal(self, job: Record, spec: Spec, *, ahead: bool = False) -> str:
        """Why the job may not be claimed yet; "" if it may. Begins to ask where nobody has.

        `ahead`: the box has no room for it now; what another box knows is enough.
        """
        if job.id in self._passed or job.preflight.get(self.box, {}).get("ok") or self.trained_here(job):
            return ""
        if ahead and any(found.get("ok") for found in job.preflight.values()):
            return ""
        asked = questions(job, spec, laid=self._laid)
        if not asked:
            self._pass(job.id)
            return ""
        with self._lock:
            # It may have been answered since.
            if job.id in self._passed:
                return ""
            rest = self._rests.get(job.id)
            if rest and (left := rest.until - time.monotonic()) > 0:
                return f"preflight: {rest.why}; asked again in {left:.0f} s"
            if job.id not in self._asking:
                self._asking.add(job.id)
                self._pool = self._pool or ThreadPoolExecutor(AT_ONCE, thread_name_prefix="preflight")
                self._pool.submit(self._ask, job, spec, asked)
        return ASKING

    def trained_here(self, job: Record) -> bool:
        """It ran on this box already: all was there, and what is not any more the run itself will say."""
        return job.box == self.box and job.started_ms is not None

    def _laid(self, fetch: Fetch, sha: str) -> bool:
        return snapshots.was_laid(fetch, self.settings.hf_home, sha)

    def _pass(self, job_id: str) -> None:
        if len(self._passed) >= REMEMBERED:
            self._passed.clear()
        self._passed[job_id] = ""

    def _ask(self, job: Record, spec: Spec, asked: Questions) -> None:
        began, found = time.monotonic(), Found()
        try:
            found = self.found(job, spec, asked)
            self._act(job, found, time.monotonic() - began)
        except redis.RedisError as error:
            # Its result is lost, and asked for again.
            logger.warning("preflight of %s: can't reach the queue (%s)", job.id, error)
        except Exception:
            # A fault of ours must keep no job from its run, which asks for all of it again.
            logger.exception("preflight of %s failed; it is taken for good", job.id)
            self._pass(job.id)
        finally:
            with self._lock:
                self._asking.discard(job.id)

    def found(self, job: Record, spec: Spec, asked: Questions) -> Found:
        """Asks outside; up to a minute."""
        with ThreadPoolExecutor(1) as pool:
            key = pool.submit(accounts.wandb, self.settings, os.environ, user_home=Path.home()) if asked.wandb else None
            heard = inquiries.ask(asked.fetches, self.settings, pins=job.pins, push=asked.push, copies=asked.copies)
            return judge(heard, key.result() if key else None, spec, push=asked.push)

    def _act(self, job: Record, found: Found, seconds: float) -> None:
        refused = found.refused
        if refused and refused.reason in _OF_ACCOUNT and self._others_may(job.id):
            self.store.preflight(job.id, self.box, {"ok": False, "why": refused.why})
            self._rest(job.id, f"{refused.why} (another box may)", MAX_REST_SECONDS)
        elif refused:
            detail = f"preflight: {refused.detail}"
            logger.info("%s %s: %s", job.id, job.name, detail)
            self.store.move(job.id, transition.refused(refused.reason, detail))
        elif found.away:
            self._rest(job.id, found.away, found.rest_seconds)
        else:
            with self._lock:
                self._rests.pop(job.id, None)
            told = Found(**{**vars(found), "seconds": seconds})
            if self.store.preflight(job.id, self.box, told.to_json()):
                self._pass(job.id)

    def _others_may(self, job_id: str) -> bool:
        """Whether a box that lives may yet find with its own account what this one's is refused."""
        said, silent = self.store.get(job_id).preflight, self.settings.timing.silent
        living = {
            box["name"]
            for box in self.store.boxes()
            if float(box["seen_seconds"]) < silent and box.get("status") != "stopped"
        }
        unheard = any(said.get(name, {}).get("ok") is not False for name in living - {self.box})
        return unheard or any(found.get("ok") for name, found in said.items() if name != self.box)

    def _rest(self, job_id: str, why: str, seconds: float) -> None:
        with self._lock:
            before = self._rests.get(job_id)
            pause = min(MAX_REST_SECONDS, max(seconds, 2 * before.seconds if before else 0.0))
            self._rests[job_id] = _Rest(why=why, until=time.monotonic() + pause, seconds=pause)

    def close(self) -> None:
        """Waits for nothing."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

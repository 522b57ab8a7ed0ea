"""How a run's end comes to the queue: decided, written down, and told until it is heard."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import redis

from pi0q.jobs import transition
from pi0q.jobs.diagnosis import Diagnosis
from pi0q.jobs.errors import NotFound
from pi0q.jobs.outcome import OUTCOMES, Next, Reason
from pi0q.jobs.record import Record
from pi0q.jobs.transition import Transition
from pi0q.queue.store import NotOwner
from pi0q.workers.run.owner import Owner
from pi0q.workers.run.report import Reporter

#: How far the run came: fields of the record that belong to its end.
FAR = ("step", "loss", "lr", "checkpoint", "copied", "copy_detail", "vram_peak_mib", "wandb_run_id", "wandb_url",
       "wandb_dir", "save_seconds", "save_served", "save_step", "save_detail")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class End:
    """Why a run ended."""

    reason: Reason
    #: What happened, for its user.
    detail: str
    #: How long the job is to rest, if whoever refused it said so.
    asked_seconds: float = 0.0
    #: What its trainer died of.
    found: Diagnosis | None = None

    def last_move(self, record: Record, epoch: int) -> Transition:
        """The move that it makes; a wish to cancel wins over all but a success."""
        if self.reason is Reason.CANCELLED_BY_USER:
            return transition.cancelled(epoch, text=self.detail)
        if record.wish == "cancel" and OUTCOMES[self.reason].next is not Next.DONE:
            return transition.cancelled(epoch, text=f"cancelled; {self.detail}")
        evidence = self.found.to_json() if self.found else {}
        return transition.ended(
            record, epoch, self.reason, self.detail, asked_seconds=self.asked_seconds, evidence=evidence
        )


@dataclass(frozen=True, kw_only=True)
class Farewell:
    """The last words of one run."""

    owner: Owner
    reporter: Reporter
    end: End
    #: Processes of it that SIGKILL did not end.
    undead: list[int]

    def write(self) -> None:
        """Puts the end into the ledger: the box tells it where this process dies before the server has heard it."""
        self.reporter.note()
        self.owner.ending(self._last(self.owner.known))

    def tell(self) -> bool:
        """Whether the server knows now how the run ended, or that the job is another's."""
        try:
            if not self.reporter.report():
                return self.owner.lease.revoked
            if self.undead:
                self._drain(f"process {self.undead[0]} of {self.owner.ledger.job_id} can't be killed")
            if self.end.reason is Reason.GPU_LOST:
                self._drain(self.end.detail)
            last = self._last(self.owner.store.get(self.owner.ledger.job_id))
            self.owner.ending(last)
            if self.owner.move(last) is None and self._catch_up():
                self.owner.move(last)
        except NotOwner:
            return True
        except (redis.RedisError, NotFound):
            return False
        return True

    def _last(self, record: Record) -> Transition:
        last = self.end.last_move(record, self.owner.ledger.epoch)
        # A server with older data is told of the end by the ledger, and of nothing that was reported before it.
        told = {name: self.owner.ledger.fields[name] for name in FAR if name in self.owner.ledger.fields}
        return replace(last, fields={**told, **last.fields})

    def _catch_up(self) -> bool:
        """Whether a server that lost its last second had to be told how far the job was."""
        known = self.owner.known
        began = transition.preparing(self.owner.ledger.epoch, attempt=known.attempt, run_dir=known.run_dir or "")
        lived = transition.running(self.owner.ledger.epoch, text="its trainer lived", started_ms=None)
        return [self.owner.move(began), self.owner.move(lived)] != [None, None]

    def _drain(self, why: str) -> None:
        """Keeps the box from new jobs: a GPU that broke or whose process is undead is not free, whatever its driver
        says."""
        with contextlib.suppress(NotFound):
            self.owner.store.drain(self.owner.ledger.box, "drain", text=f"{why}: restart the machine")

"""End of a run: decided, written into the ledger, and reported until the queue has it."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field, replace
from typing import Any

import redis

from pi0q.jobs import transition
from pi0q.jobs.errors import BadRecord, NotFound
from pi0q.jobs.failures.diagnosis import Diagnosis
from pi0q.jobs.outcome import OUTCOMES, Next, Reason
from pi0q.jobs.record import Record, Use, keys_for
from pi0q.jobs.transition import Transition
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.workers.host import process_tree
from pi0q.workers.postrun.plan import plan_tasks
from pi0q.workers.runner.receipts import note_end
from pi0q.workers.runner.reporter import Reporter
from pi0q.workers.runner.run_session import RunSession
from pi0q.workers.runs.ownership import Ownership
from pi0q.workers.runs.stop import Stop

log = logging.getLogger(__name__)

#: Refusals of a server that answers, after which a runner ends: the worker tells the end once the server takes it.
MOST_REFUSALS = 6
#: How far the run came: fields of the record that belong to its end.
FINAL = keys_for(Use.FINAL)


@dataclass(frozen=True, kw_only=True)
class End:
    """Why a run ended."""

    reason: Reason
    #: What happened, for its user.
    detail: str
    #: Seconds that the Hub asked to wait, if it did.
    asked_seconds: float = 0.0
    #: Why its trainer ended, if it had one.
    found: Diagnosis | None = None

    def last_move(self, record: Record, epoch: int) -> Transition:
        """Return the final transition; a requested cancel wins over all but a success."""
        if self.reason is Reason.CANCELLED_BY_USER:
            return transition.cancelled(epoch, text=self.detail)
        if record.wish == "cancel" and OUTCOMES[self.reason].next is not Next.DONE:
            return transition.cancelled(epoch, text=f"cancelled; {self.detail}")
        evidence = self.found.to_json() if self.found else {}
        return transition.ended(
            record, epoch, self.reason, self.detail, asked_seconds=self.asked_seconds, evidence=evidence
        )


@dataclass(frozen=True, kw_only=True)
class FinalReport:
    """Brings the end of one run to the queue."""

    ownership: Ownership
    reporter: Reporter
    end: End
    #: Processes of it that SIGKILL did not end.
    undead: list[int]
    #: Answers in a row of a server that has no such job, or whose script fails on it.
    refusals: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Write the end into the ledger: the box reports it where this process dies before the server has it."""
        self.reporter.note()
        self.ownership.ending(self._last(self.ownership.known))

    def deliver(self) -> bool:
        """Report the end; return whether the server has it now, or the job is another claim's."""
        try:
            if not self.reporter.report():
                self._count(self.ownership.script_error)
                return self.ownership.lease.revoked
            if self.undead:
                self._drain(f"process {self.undead[0]} of {self.ownership.ledger.job_id} can't be killed")
            if self.end.reason is Reason.GPU_LOST:
                self._drain(self.end.detail)
            last = self._last(self._record())
            self.ownership.ending(last)
            if self.ownership.move(last) is None and self._catch_up():
                self.ownership.move(last)
        except OwnershipLost:
            return True
        except NotFound:
            self._count("it does not know the job")
            return False
        except redis.RedisError:
            self._count(self.ownership.script_error)
            return False
        return True

    def _count(self, refusal: str) -> None:
        """Count an answer that waiting does not change; any other begins anew."""
        if refusal:
            self.refusals.append(refusal)
        else:
            self.refusals.clear()

    @property
    def hopeless(self) -> str:
        """Why the server will not take the end; "" while it may."""
        return self.refusals[-1] if len(self.refusals) >= MOST_REFUSALS else ""

    def _record(self) -> Record:
        """Return the record by which the end is decided: the ledger's where the server's was damaged meanwhile."""
        try:
            return self.ownership.store.get(self.ownership.ledger.job_id)
        except BadRecord as error:
            log.warning("%s its end is decided by this box's ledger", str(error).partition("\n")[0])
            return self.ownership.known

    def _last(self, record: Record) -> Transition:
        last = self.end.last_move(record, self.ownership.ledger.epoch)
        # On a server with older data the ledger replays the final transition alone: include the last progress.
        reported = {name: self.ownership.ledger.fields[name] for name in FINAL if name in self.ownership.ledger.fields}
        return replace(last, fields={**reported, **last.fields})

    def _catch_up(self) -> bool:
        """Bring a server that lost its last second to `running`; return whether that was necessary."""
        known = self.ownership.known
        began = transition.preparing(self.ownership.ledger.epoch, attempt=known.attempt, run_dir=known.run_dir or "")
        lived = transition.running(self.ownership.ledger.epoch, text="its trainer lived", started_ms=None)
        return [self.ownership.move(began), self.ownership.move(lived)] != [None, None]

    def _drain(self, why: str) -> None:
        """Keep the box from new jobs: a GPU that broke, or is held by a process that can't be killed, is not free."""
        with contextlib.suppress(NotFound):
            self.ownership.store.drain(self.ownership.ledger.box, "drain", text=f"{why}: restart the machine")


def finish(session: RunSession, stop: Stop) -> None:
    """End the run: clean up, write the end into the ledger, then report it until the queue can be reached.

    The first caller alone does; another thread waits for it.
    """
    with session.end.once() as first:
        if not first:
            return
        session.replicator.close()
        undead = _end_processes(session)
        disk_plan = session.disk.close(stop.reason, session.lease, session.progress.fields.get("checkpoint"))
        log.info("%s", stop)
        session.progress.update(**disk_plan, **_plan_tasks(session, stop.reason))
        session.log.close()
        session.reporter.stop()
        end = End(reason=stop.reason, detail=stop.detail, asked_seconds=stop.asked_seconds, found=stop.found)
        report = FinalReport(ownership=session.ownership, reporter=session.reporter, end=end, undead=undead)
        report.write()
        note_end(session.context, end.last_move(session.ownership.known, session.context.epoch).to)
        retry_seconds = session.context.settings.timing.retry
        while not report.deliver():
            if why := report.hopeless:
                log.warning("the queue's server does not take the end of this run (%s); it stays in the ledger", why)
                return
            if session.stops.terminated.wait(retry_seconds):
                return


def _plan_tasks(session: RunSession, reason: Reason) -> dict[str, Any]:
    """Plan the post-run tasks; none for a job that another claim may own now."""
    if not session.lease.is_valid():
        return {}
    return plan_tasks(session.context, reason, behind=session.replicator.behind())


def _end_processes(session: RunSession) -> list[int]:
    """Kill what is left of the run; return the processes that can't be killed."""
    context, trainer = session.context, session.stops.trainer
    known = bool(trainer and trainer.process.undead)
    undead = process_tree.kill_all(context.job_id, context.epoch, patience=0.0 if known else None)
    if undead:
        log.info("process %d can't be killed: %s takes no new jobs until it is restarted", undead[0], context.box)
    return undead

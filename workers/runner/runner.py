"""The run of one job: prepare -> rehearse -> train -> finish.

A run ends in exactly one way, or another claim owns the job by then.
"""

from __future__ import annotations

import contextlib
import os
import traceback

import redis

from pi0q.jobs import transition
from pi0q.jobs.errors import BadRecord, Pi0qError
from pi0q.jobs.outcome import Reason
from pi0q.jobs.printable import printable
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.queue.store import Store
from pi0q.workers.checkpoints import hand_back
from pi0q.workers.host import process_tree
from pi0q.workers.runner import messages
from pi0q.workers.runner.finish import finish
from pi0q.workers.runner.prepare import prepare
from pi0q.workers.runner.receipts import Receipts
from pi0q.workers.runner.rehearsal import rehearse
from pi0q.workers.runner.run_session import RunSession
from pi0q.workers.runner.stop_requests import StopRequests
from pi0q.workers.runner.train import train
from pi0q.workers.runs.job_trust import NotTrustedJob
from pi0q.workers.runs.lease import LeaseExpired
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.run_request import RunRequest
from pi0q.workers.runs.stop import Stop, StopCause


def run(context: RunContext, store: Store, stops: StopRequests) -> None:
    """Take the claim in hand and bring the run to its end."""
    try:
        session = RunSession(context, store, stops)
    except OwnershipLost:
        # A message that came twice.
        return
    except BadRecord as error:
        refuse(context.request, store, error)
        return
    except OSError as error:
        report_failed_start(context, store, error)
        return
    with session:
        Receipts(context, session.progress).begin()
        stops.leave_by(lambda _: leave(session))
        stop = carry_out(session)
        if stop is None:
            process_tree.kill_all(context.job_id, context.epoch)
            return
        hand_back.await_last_copy(
            session.replicator,
            stop.reason,
            session.lease,
            give_up=lambda: stops.cause in (StopCause.CANCEL, StopCause.LOST),
        )
        finish(session, stop)


def carry_out(session: RunSession) -> Stop | None:
    """Run the job; return how its run ends, None where another claim owns the job."""
    try:
        prepared = prepare(session)
        rehearse(session, prepared)
        return Stop(Reason.FINISHED, train(session, prepared))
    except Stop as stopped:
        return stopped
    except LeaseExpired:
        return Stop(Reason.STOPPED_BY_BOX, "the lease was over before it could be renewed; nothing was changed")
    except OwnershipLost:
        return None
    except Exception as error:
        traceback.print_exc()
        return Stop.by(error)


def leave(session: RunSession) -> None:
    """End a run that still prepares, and this process: downloads go on from where they are the next time."""
    cause = session.stops.cause
    if session.end.begun or cause is None:
        return
    if cause is not StopCause.LOST:
        finish(session, Stop(cause.reason, messages.stopped(cause, None)))
    os._exit(0)


def refuse(request: RunRequest, store: Store, error: Pi0qError) -> None:
    """End a job that was claimed and cannot be read: it was changed since, and would be claimed for ever."""
    detail = f"{request.box or 'its box'} cannot run it: {printable(str(error)).partition(chr(10))[0]}"
    print(f"{request.job_id} was claimed and cannot be run, it is ended: {printable(str(error))}", flush=True)
    with contextlib.suppress(redis.RedisError, OwnershipLost):
        reason = Reason.NOT_TRUSTED if isinstance(error, NotTrustedJob) else Reason.SPEC_REFUSED
        store.move(request.job_id, transition.unreadable(request.epoch, detail, reason), box=request.box)


def report_failed_start(context: RunContext, store: Store, error: OSError) -> None:
    """End a run that can't make its directory or its log. Where the server is away the worker reports the death."""
    traceback.print_exc()
    with contextlib.suppress(redis.RedisError, OwnershipLost):
        record, detail = store.get(context.job_id), Stop.by(error).detail
        last = transition.ended(record, context.epoch, Reason.RUNNER_LOST, detail)
        store.move(record.id, last, box=context.box)

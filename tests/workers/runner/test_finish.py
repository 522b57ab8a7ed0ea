"""The last words of a run, on a real queue: what a box tells for a runner that died has all that the run came to."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.state import State
from pi0q.queue.timing import timing
from pi0q.workers.runner.finish import End, FinalReport
from pi0q.workers.runner.reporter import Reporter
from tests.workers.runs.test_ownership import SAVED, Held, held

__all__ = ["held"]


def test_an_older_server_is_told_how_far_the_run_came(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS.md row 7: the end is replayed to a server that knows the claim and nothing of what came after it."""
    assert held.owner.move(transition.running(held.epoch, text="trainer 7", started_ms=None))
    before = held.copied()
    news: list[dict[str, Any]] = [{"step": 40, "checkpoint": SAVED, "loss": 0.5}]
    reporter = Reporter(
        held.owner,
        timing(600.0, 0.8),
        collect_changes=lambda: (news.pop() if news else {}, ""),
        resend_all=lambda: None,
        request_stop=lambda cause: None,
    )
    end = End(reason=Reason.FINISHED, detail="all")
    report = FinalReport(ownership=held.owner, reporter=reporter, end=end, undead=[])

    def away(*_: Any, **__: Any) -> str:
        raise redis.ConnectionError("Connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(held.store, "report", away)
        report.write()
        assert not report.deliver()
    held.older(before)
    ending = held.on_disk().ending
    assert ending is not None
    assert held.store.move(held.job, ending.transition(held.epoch), box="box-a") is State.SUCCEEDED
    record = held.store.get(held.job)
    assert (record.step, record.loss, record.checkpoint, record.detail) == (40, 0.5, SAVED, "all")

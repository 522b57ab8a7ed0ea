"""The lease is kept, progress told, the user's wish heard, on a real queue; time is a number we set."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pi0q.queue.store import Store
from pi0q.queue.store_types import UserRequests
from pi0q.queue.timing import timing
from pi0q.workers.runner.reporter import HELD_LOG, Reporter
from pi0q.workers.runs.lease import Lease
from pi0q.workers.runs.ledger import Ledger
from pi0q.workers.runs.ownership import Ownership
from pi0q.workers.runs.stop import StopCause

if TYPE_CHECKING:
    from tests.conftest import JobDriver

PATIENCE = 30.0
TIMING = timing(600.0, 0.8)


class Run:
    """A reporter with what it collects, what it heard and its clock in our hands."""

    def __init__(self, store: Store, job: str, epoch: int, place: Path) -> None:
        self.store, self.job, self.epoch = store, job, epoch
        self.now, self.stops, self.agains = 0.0, list[StopCause](), 0
        self.news: tuple[dict[str, Any], str] = ({}, "")
        self.said = threading.Event()
        self.lease = Lease(place / "lease", seconds=600.0, fence=480.0, since=0.0, clock=lambda: self.now)
        ledger = Ledger(job_id=job, epoch=epoch, box="box-a", boot="1", fields=store.raw(job))
        self.owner = Ownership(store, ledger, place / "ledger.json", self.lease)
        self.reporter = Reporter(
            self.owner,
            TIMING,
            collect_changes=self.collect,
            resend_all=self.again,
            request_stop=self.request_stop,
        )

    def again(self) -> None:
        self.agains += 1

    def collect(self) -> tuple[dict[str, Any], str]:
        news, self.news = self.news, ({}, "")
        return news

    def request_stop(self, cause: StopCause) -> None:
        self.stops.append(cause)
        self.said.set()


@pytest.fixture
def run(store: Store, driver: JobDriver, tmp_path: Path) -> Iterator[Run]:
    job = driver.submit()
    made = Run(store, job, driver.run(job), tmp_path)
    yield made
    made.reporter.stop()
    if made.reporter.is_alive():
        made.reporter.join()


@pytest.fixture
def away(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Takes the server away from the reporter, and gives it back."""
    report = run.store.report

    def gone(*args: Any, **kwargs: Any) -> str:
        raise redis.ConnectionError("Connection refused")

    def away(yes: bool) -> None:
        monkeypatch.setattr(run.store, "report", gone if yes else report)

    return away


def lease(run: Run) -> float:
    return float(run.store.client.zscore(run.store.prefix + "leases", run.job) or 0)


def test_news_is_due_and_without_news_only_the_lease(run: Run) -> None:
    assert not run.reporter.due()
    run.news = ({"step": 5}, "")
    assert run.reporter.due()
    assert run.reporter.report() and not run.reporter.due()
    run.now += TIMING.renew - 0.1
    assert not run.reporter.due()
    run.now += 0.2
    assert run.reporter.due()


def test_a_report_renews_the_lease_and_carries_everything(run: Run) -> None:
    run.store.client.zadd(run.store.prefix + "leases", {run.job: 1})
    began = run.store.now_ms()
    run.news = ({"step": 5, "loss": 0.5, "phase": ""}, "line\n")
    assert run.reporter.report()
    record = run.store.get(run.job)
    assert (record.step, record.loss) == (5, 0.5)
    assert run.store.tail(run.job)[0] == "line\n"
    assert lease(run) >= began + 600_000


def test_what_could_not_be_told_is_told_later_newest_first_of_each_field(
    run: Run, away: Callable[[bool], None]
) -> None:
    away(True)
    for step in (1, 2, 3):
        run.news = ({"step": step, f"seen{step}": step}, f"line {step}\n")
        assert not run.reporter.report()
    away(False)
    assert run.reporter.report()
    assert run.store.get(run.job).step == 3
    assert run.store.tail(run.job)[0] == "line 1\nline 2\nline 3\n"
    assert run.store.client.hget(f"{run.store.prefix}job:{run.job}", "seen1") == "1"


def test_a_long_absence_takes_no_memory_and_its_log_is_counted(run: Run, away: Callable[[bool], None]) -> None:
    away(True)
    for _ in range(20):
        run.news = ({}, "x" * 8000 + "\n")
        run.reporter.report()
    away(False)
    run.news = ({}, "last\n")
    run.reporter.report()
    text, total = run.store.tail(run.job)
    assert text.endswith("last\n") and len(text) <= HELD_LOG
    assert total == 20 * 8001 + 5


def test_it_is_fenced_at_four_fifths_of_the_lease_and_not_before(run: Run, away: Callable[[bool], None]) -> None:
    away(True)
    run.now = 479.0
    assert not run.reporter.report()
    assert not run.lease.fenced()
    run.now = 480.0
    assert run.lease.fenced() and run.lease.is_valid()
    run.reporter.start()
    assert run.said.wait(PATIENCE) and run.stops[0] is StopCause.FENCED


def test_one_report_in_time_starts_the_fence_afresh(run: Run, away: Callable[[bool], None]) -> None:
    run.now = 400.0
    assert run.reporter.report()
    away(True)
    run.now = 800.0
    assert not run.reporter.report() and not run.lease.fenced()


def test_a_renewal_counts_from_before_it_was_sent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer may have been on its way for as long as the lease lasts, and the machine asleep meanwhile."""
    report = run.store.report

    def slow(*args: Any, **kwargs: Any) -> UserRequests:
        wish = report(*args, **kwargs)
        run.now += 590.0
        return wish

    monkeypatch.setattr(run.store, "report", slow)
    run.now = 5.0
    assert run.reporter.report()
    assert (run.lease.since, run.now) == (5.0, 595.0)
    assert run.lease.fenced() and run.lease.is_valid()
    run.now = 605.0
    assert not run.lease.is_valid()


def test_a_former_owner_hears_that_it_is_one(run: Run, driver: JobDriver) -> None:
    driver.let_lease_run_out(run.job)
    assert run.store.sweep() == [run.job]
    run.news = ({"step": 99}, "late\n")
    assert not run.reporter.report()
    assert run.stops == [StopCause.LOST]
    record = run.store.get(run.job)
    assert record.step is None and run.store.tail(run.job)[0] == ""


def test_a_wish_is_heard_with_the_next_report(run: Run) -> None:
    run.store.cancel(run.job, text="cancelled")
    run.reporter.report()
    assert run.stops == [StopCause.CANCEL]


def test_the_thread_hears_a_wish_without_waiting_for_a_report(run: Run) -> None:
    run.reporter.start()
    channel = f"{run.store.prefix}wish:{run.job}"
    while not run.store.client.pubsub_numsub(channel)[0][1]:
        assert run.reporter.is_alive()
    run.store.cancel(run.job, text="cancelled")
    assert run.said.wait(PATIENCE)
    assert set(run.stops) == {StopCause.CANCEL}


def test_stopped_from_its_own_callback_it_ends(run: Run) -> None:
    """A runner that is cancelled while it prepares ends itself from the reporter's thread."""
    done = threading.Event()

    def request_stop(cause: StopCause) -> None:
        if not run.stops:
            run.stops.append(cause)
            run.reporter.stop()
            run.reporter.report()
            done.set()

    run.reporter.request_stop = request_stop
    run.store.cancel(run.job, text="cancelled")
    run.news = ({"step": 1}, "")
    run.reporter.start()
    assert done.wait(PATIENCE)
    run.reporter.join(PATIENCE)
    assert not run.reporter.is_alive()

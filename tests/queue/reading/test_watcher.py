"""One read of the server for each change, for any number of clients."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from pi0q.queue.job_list import Counts
from pi0q.queue.reading import watcher as watchers
from pi0q.queue.reading.values import FleetView
from pi0q.queue.reading.watcher import StoreSource, Watcher
from pi0q.queue.store import Store
from tests.conftest import PATIENCE, JobDriver


def view(number: int) -> FleetView:
    return FleetView(now_ms=number, boxes=(), running=(), queue=(), held=(), ended=(), broken=(), counts=Counts())


class Scripted:
    """A source whose changes a test makes."""

    errors: tuple[type[Exception], ...] = (ConnectionError,)

    def __init__(self) -> None:
        self.changes = queue.Queue[Exception | None]()
        self.reads = 0

    def read(self) -> FleetView:
        self.reads += 1
        return view(self.reads)

    def wait(self, seconds: float, ending: threading.Event) -> None:
        if error := self.changes.get(timeout=PATIENCE):
            raise error


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    monkeypatch.setattr(watchers, "FASTEST", 0.0)
    monkeypatch.setattr(watchers, "RETRY_SECONDS", 0.0)
    return Scripted()


@pytest.fixture
def watcher(source: Scripted) -> Iterator[Watcher]:
    one = Watcher(source)
    one.start()
    yield one
    one.stop()
    source.changes.put(None)
    one.join(PATIENCE)
    assert not one.is_alive()


def test_nothing_is_read_while_nobody_listens(watcher: Watcher, source: Scripted) -> None:
    assert watcher.state.view is None and source.reads == 0
    assert watcher.newer(0, PATIENCE).version == 1
    source.changes.put(None)
    watcher.newer(1, PATIENCE)
    assert source.reads == 2


def test_many_clients_cost_one_read_and_each_sees_the_newest(watcher: Watcher, source: Scripted) -> None:
    woken, heard = threading.Semaphore(0), [0] * 20

    def client(number: int) -> None:
        heard[number] += 1
        woken.release()

    leaves = [watcher.listen(lambda number=number: client(number)) for number in range(20)]  # type: ignore[misc]
    for _ in range(20):
        assert woken.acquire(timeout=PATIENCE)
    assert source.reads == 1 and set(heard) == {1}
    for leave in leaves[1:]:
        leave()
    source.changes.put(None)
    assert woken.acquire(timeout=PATIENCE)
    assert watcher.state.view == view(2) and heard == [2, *[1] * 19]


def test_client_that_raises_or_is_gone_harms_no_other(watcher: Watcher, source: Scripted) -> None:
    def gone() -> None:
        raise RuntimeError("Event loop is closed")

    watcher.listen(gone)
    assert watcher.newer(0, PATIENCE).view is not None
    source.changes.put(None)
    assert watcher.newer(1, PATIENCE).version == 2


def test_lost_link_keeps_the_last_view_and_says_since_when(watcher: Watcher, source: Scripted) -> None:
    watcher.listen(lambda: None)
    watcher.newer(0, PATIENCE)
    failed, reading = ConnectionError("refused"), source.read
    away = threading.Event()

    def read() -> FleetView:
        if not away.is_set():
            raise failed
        return reading()

    source.read = read  # type: ignore[method-assign]
    source.changes.put(None)
    lost = watcher.newer(1, PATIENCE)
    assert lost.view == view(1) and lost.away_since is not None and lost.error is failed
    away.set()
    back = watcher.newer(lost.version, PATIENCE)
    assert back.view == view(2) and back.away_since is None and back.error is None


def test_fresh_takes_what_is_young_enough_and_else_reads(watcher: Watcher, source: Scripted) -> None:
    assert watcher.fresh(3600, PATIENCE).view == view(1)
    assert watcher.fresh(3600, PATIENCE).view == view(1) and source.reads == 1
    source.changes.put(None)
    assert watcher.fresh(0, PATIENCE).view == view(2)


def test_store_source_sees_a_job_as_soon_as_it_is_queued(driver: JobDriver, store: Store) -> None:
    one = Watcher(StoreSource(store, store, 60.0, live=10, ended=10))
    one.start()
    leave = one.listen(lambda: None)
    try:
        empty = one.newer(0, PATIENCE)
        assert empty.view and not empty.view.queue
        job, state = driver.submit(), empty
        while not (state.view and state.view.queue):
            state = one.newer(state.version, PATIENCE)
            assert state.error is None
        assert [known.id for known in state.view.queue] == [job]
    finally:
        leave()
        one.stop()
        one.join(PATIENCE)

"""Watch the fleet for any number of clients: one read of the server for each change, only the newest view is kept.

A client that is slow skips views and holds up nothing. While no client listens nothing is read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from pi0q.queue.reading import views
from pi0q.queue.reading.values import FleetView
from pi0q.queue.resp_protocol import RespError
from pi0q.queue.store_reads import StoreReads

if TYPE_CHECKING:
    from redis.client import PubSub

    from pi0q.queue.settings import Settings
    from pi0q.queue.store import Store

#: Seconds after which the fleet is read again though nothing was heard: boxes fall silent without a word.
SLOWEST = 5.0
#: Seconds between two reads at the least; a slow read spaces the next by so many times its own length.
FASTEST, SPACING = 0.5, 4.0
#: Seconds between two tries to reach a server that is away.
RETRY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class FleetState:
    """The newest view, and whether the server answers."""

    #: None before the first read.
    view: FleetView | None = None
    #: Grows by one with each new view, and when the link is lost or comes back.
    version: int = 0
    #: When the view was read, and since when the server has not answered: seconds of the watcher's clock.
    read_at: float = 0.0
    away_since: float | None = None
    #: Why it does not answer, as its client says it; never shown to a stranger, it may hold the server's address.
    error: Exception | None = None


class Source(Protocol):
    """Where views come from. Each call may raise one of `errors`."""

    #: What is raised while the server can't be reached or refuses.
    errors: tuple[type[Exception], ...]

    def read(self) -> FleetView:
        """Return the fleet as it is now."""

    def wait(self, seconds: float, ending: threading.Event) -> None:
        """Return when something changed, soon after `ending` is set, and after `seconds` at the latest."""


class Watcher(threading.Thread):
    """Thread that reads the fleet whenever it changes, while somebody listens."""

    def __init__(self, source: Source, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name="fleet-watcher", daemon=True)
        self._source, self._clock = source, clock
        self._state = FleetState()
        self._changed = threading.Condition()
        self._listeners: dict[int, Callable[[], None]] = {}
        self._number = 0
        self._ending = threading.Event()

    @property
    def state(self) -> FleetState:
        """Return the newest state; asks nobody."""
        return self._state

    def listen(self, notify: Callable[[], None]) -> Callable[[], None]:
        """Call `notify` after each new state until the function that is returned is called.

        The watcher's thread calls it: it must not block. An event loop wakes itself by `call_soon_threadsafe`.
        """
        with self._changed:
            self._number += 1
            number = self._number
            self._listeners[number] = notify
            self._changed.notify_all()

        def leave() -> None:
            with self._changed:
                self._listeners.pop(number, None)

        return leave

    def newer(self, version: int, seconds: float) -> FleetState:
        """Wait for a state after `version`, `seconds` at most; return the newest."""
        leave = self.listen(lambda: None)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._state.version > version or self._ending.is_set(), seconds)
                return self._state
        finally:
            leave()

    def fresh(self, max_age: float, seconds: float) -> FleetState:
        """Return a state that was read at most `max_age` seconds ago; waits for one `seconds` at most."""
        state = self._state
        if state.view is not None and state.away_since is None and self._clock() - state.read_at <= max_age:
            return state
        return self.newer(state.version, seconds)

    def stop(self) -> None:
        """End the thread after its present read or wait."""
        with self._changed:
            self._ending.set()
            self._changed.notify_all()

    def run(self) -> None:
        """Read while somebody listens. Whatever the source raises is told in the state; the thread goes on."""
        while self._is_wanted():
            began = self._clock()
            try:
                view = self._source.read()
                now = self._clock()
                self._publish(FleetState(view=view, read_at=now))
                self._ending.wait(max(FASTEST, SPACING * (now - began)))
                self._source.wait(SLOWEST, self._ending)
            except Exception as error:
                self._away(error)
                self._ending.wait(RETRY_SECONDS)

    def _is_wanted(self) -> bool:
        """Wait until somebody listens; return False once the watcher is to end."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._listeners) or self._ending.is_set())
        return not self._ending.is_set()

    def _away(self, error: Exception) -> None:
        if self._state.away_since is not None:
            return
        if not isinstance(error, self._source.errors):
            # A fault of ours: a view that can't be made must be as visible as a server that is away.
            import logging

            logging.getLogger(__name__).exception("the fleet can't be shown")
        self._publish(replace(self._state, away_since=self._clock(), error=error))

    def _publish(self, state: FleetState) -> None:
        with self._changed:
            self._state = replace(state, version=self._state.version + 1)
            listeners = list(self._listeners.values())
            self._changed.notify_all()
        for notify in listeners:
            # A client that is gone, its event loop closed, must not end the others' views.
            with suppress(RuntimeError):
                notify()


class StoreSource:
    """Reads from the queue's server, and hears from it of changes."""

    def __init__(self, reads: StoreReads, store: Store, silent_seconds: float, *, live: int, ended: int) -> None:
        """`reads`: reads the views, by the light client where it can: redis-py takes a third longer for each job."""
        import redis

        self.errors: tuple[type[Exception], ...] = (redis.RedisError, RespError, OSError)
        self._reads, self._store, self._silent = reads, store, silent_seconds
        self._live, self._ended = live, ended
        self._pubsub: PubSub | None = None

    def read(self) -> FleetView:
        """Return the fleet; subscribed before, so that no change falls between the two."""
        if self._pubsub is None:
            self._pubsub = self._store.subscribe("changes")
        return views.read(self._reads, self._silent, live=self._live, ended=self._ended)

    def wait(self, seconds: float, ending: threading.Event) -> None:
        """Return when a job or a box changed, or `ending` is set."""
        from pi0q.queue.store import await_news, heard

        if self._pubsub is not None and await_news(self._pubsub, None, seconds, ending):
            # What was said meanwhile is in the next read.
            for _ in heard(self._pubsub, 0.0):
                pass


def watch(settings: Settings, *, live: int = views.MOST_LIVE, ended: int = views.MOST_ENDED) -> Watcher:
    """Return a watcher of the queue that the settings name, started. Raises UsageError for an address that is none."""
    from pi0q.queue.connection import connect, connect_briefly
    from pi0q.queue.store import Store

    reads, store = StoreReads(connect_briefly(settings), settings.prefix), Store(connect(settings), settings.prefix)
    watcher = Watcher(StoreSource(reads, store, settings.timing.silent, live=live, ended=ended))
    watcher.start()
    return watcher

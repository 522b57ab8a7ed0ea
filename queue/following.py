"""Look at the queue whenever something changed, also across lost links: for `pi0q watch` and `pi0q logs -f`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pi0q.jobs.errors import NotFound
from pi0q.queue.store import Store, await_news

if TYPE_CHECKING:
    from redis.client import PubSub

T = TypeVar("T")
#: Seconds after which a follower looks again, whether or not it heard of anything new.
SLOWEST = 5.0
#: Seconds between two tries to reach a server that is away.
RETRY_SECONDS = 1.0
#: Seconds after a lost link in which a job that the server does not know may come back: boxes restore their jobs to a
#: server with older data (`Timing.claim_holdoff`, 60 s at most, and a heartbeat).
RESTORE_SECONDS = 75.0


class Follower:
    """Asks the server again after a lost link. The first question fails as in any command."""

    def __init__(
        self,
        store: Store,
        on_away: Callable[[float], None],
        on_back: Callable[[float], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`on_away` and `on_back` take the seconds since the link was lost; the first is called at each vain try."""
        self.store = store
        self._pubsub: PubSub | None = None
        self._on_away, self._on_back = on_away, on_back
        self._clock, self._sleep = clock, sleep
        self._reached = False
        self._lost_at: float | None = None

    def look(self, ask: Callable[[], T]) -> T:
        """Return what `ask` returns, as soon as the server answers. Raises what else it raises."""
        import redis

        since: float | None = None
        while True:
            try:
                if self._pubsub is None:
                    self._pubsub = self.store.subscribe("changes")
                found = ask()
            except (redis.ConnectionError, redis.TimeoutError, NotFound) as error:
                if not self._passes(error):
                    raise
                since = self._clock() if since is None else since
                self._on_away(self._clock() - since)
                self._sleep(RETRY_SECONDS)
                continue
            if since is not None:
                self._on_back(self._clock() - since)
            self._reached = True
            return found

    def wait(self, job_id: str | None, seconds: float = SLOWEST) -> bool:
        """Wait for news of a job, or of any, `seconds` at most; return whether there may be some."""
        return self._pubsub is None or await_news(self._pubsub, job_id, seconds)

    def _passes(self, error: Exception) -> bool:
        """Return whether the server may answer later; remembers when the link was lost."""
        import redis

        if not self._reached or isinstance(error, redis.AuthenticationError):
            return False
        if isinstance(error, NotFound):
            return self._lost_at is not None and self._clock() - self._lost_at < RESTORE_SECONDS
        self._lost_at = self._clock()
        return True


def link_words() -> tuple[Callable[[float], None], Callable[[float], None]]:
    """Return what a follower in a pipe says on standard error: once when the link is lost, once when it is back."""
    said = False

    def away(seconds: float) -> None:
        nonlocal said
        if not said:
            print("pi0q: The queue's server does not answer; trying again. Jobs keep running.", file=sys.stderr)
        said = True

    def back(seconds: float) -> None:
        nonlocal said
        said = False
        print(f"pi0q: The queue's server answers again after {seconds:.0f} s.", file=sys.stderr)

    return away, back

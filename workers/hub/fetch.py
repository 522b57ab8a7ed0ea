"""Download what a run needs of the Hub before its trainer starts, at pinned commits, to the data disk.

    requirements.wanted -> prepare -> requirements.at_home, offline_env

After `prepare` the trainer can start with the network cut; `requirements` says how it gets the paths.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pi0q.queue.settings import Settings
from pi0q.workers.host import helper_process, usage_locks
from pi0q.workers.host.helper_process import Helper
from pi0q.workers.hub import blobs, snapshots
from pi0q.workers.hub.errors import lacking, unreachable
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.hub.session import HubSession, Pins, Request
from pi0q.workers.network import routes
from pi0q.workers.network.routes import MODELSCOPE, Route, Ways

#: Seconds before each further round over all routes.
PAUSES_SECONDS = (2.0, 10.0)
#: The longest that a run waits, with its GPU, because the Hub asked for it; beyond that the job is requeued.
LONGEST_WAIT_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Downloading:
    """So many bytes of all are on the disk."""

    done_bytes: int
    total_bytes: int

    def __str__(self) -> str:
        return f"downloading {blobs.amount(self.done_bytes, self.total_bytes)}"


@dataclass(frozen=True)
class Waiting:
    """A pause before the Hub is asked again."""

    seconds: float

    def __str__(self) -> str:
        return f"waiting {self.seconds:.0f} s before asking the Hub again"


Phase = Downloading | Waiting


class Abandoned(Exception):
    """The caller wants no more of it; what came stays, and is resumed by the next download."""


def prepare(
    fetches: Iterable[Fetch],
    settings: Settings,
    *,
    pins: Pins,
    on_phase: Callable[[Phase], None],
    may_go_on: Callable[[], bool] = lambda: True,
) -> Pins:
    """Download everything into the cache; return the commit of each.

    Args:
        settings: Of this box, for its cache and its routes to the Hub.
        pins: Commits of an earlier run of this job; they win over what the Hub has now.
        on_phase: Called with what is going on, about twice a second while that changes.
        may_go_on: Asked about twice a second while it downloads.

    Raises:
        Abandoned: `may_go_on` said no.
        HubError: The Hub or the disk failed, and the cache does not hold all of it either.
    """
    requests = [pins.request(fetch) for fetch in fetches]
    session = FetchSession(requests, settings, on_phase)
    session.may_go_on = may_go_on
    session.run()
    commits = {request.fetch.pin: str(request.pin) for request in requests}
    own = [one.fetch for one in requests if snapshots.is_uncompared(one.fetch, settings.hf_home, str(one.pin))]
    for fetch in own:
        log.warning("%s %s came from ModelScope and was not compared with the Hub", fetch.kind, fetch.repo_id)
    return Pins(commits, {fetch.pin: commits[fetch.pin] for fetch in own})


class FetchSession(HubSession):
    """All downloads of one run."""

    helper = Helper(argv=helper_process.module("pi0q.workers.hub.download_main"), name="the download")

    def __init__(self, requests: Iterable[Request], settings: Settings, on_phase: Callable[[Phase], None]) -> None:
        super().__init__(requests, settings)
        self.hf_home, self._on_phase = settings.hf_home, on_phase
        #: Whether the caller still wants it.
        self.may_go_on: Callable[[], bool] = lambda: True
        self._last_phase: Phase | None = None
        self._next_report = 0.0
        #: Names of the routes that were asked in this round.
        self._asked: set[str] = set()

    def run(self) -> None:
        """Download what is not complete yet. Raises HubError."""
        for request in self.requests:
            usage_locks.hold(usage_locks.of_hub(self.hf_home), request.fetch.folder(self.hf_home).name)
            request.done = bool(request.pin) and snapshots.is_complete(request.fetch, self.hf_home, str(request.pin))
        if self.pending():
            snapshots.remove_abandoned_parts(self.hf_home / "hub")
            self._fetch_all()
        for request in self.requests:
            self._finish(request)

    def _fetch_all(self) -> None:
        """Try all routes round after round, as long as that may help."""
        if routes.offline():
            for request in self.pending():
                request.error = unreachable(request.what, "HF_HUB_OFFLINE is set on this box")
                request.final = True
        for pause in (*PAUSES_SECONDS, None):
            self.try_routes()
            for request in self.pending():
                self._take_cached(request)
            errors = [request.error for request in self.pending() if request.error]
            asked = max((error.asked_seconds for error in errors), default=0.0)
            if not self.pending() or pause is None or asked > LONGEST_WAIT_SECONDS:
                return
            waiting = Waiting(max(pause, asked))
            log.info("%s", waiting)
            self._report(waiting)
            time.sleep(max(asked, pause * random.uniform(0.75, 1.25)))

    def try_routes(self) -> None:
        self._asked.clear()
        super().try_routes()

    def try_modelscope(self, route: Route) -> None:
        """Ask the Hub what its files are first: the bytes of just those are taken from elsewhere."""
        others = [way for way in self.known if way.name not in {MODELSCOPE, *self._asked}]
        for way in Ways("plans", others, self.settings.home).probed() if others else ():
            unknown = [one for one in self.pending() if not (one.planned or one.foreign)]
            if requests := [one for one in unknown if way.trusted or not one.guarded]:
                self.send(way, requests, {"plan_only": True})
        super().try_modelscope(route)

    def send(self, route: Route, requests: Sequence[Request], extra: Mapping[str, Any]) -> None:
        self._asked.add(route.name)
        super().send(route, requests, extra)
        for request in requests:
            error = request.missed if route.name == MODELSCOPE else request.error
            if request.pending and error:
                log.warning("%s", error.why)

    def on_answer(self, request: Request, line: Mapping[str, Any]) -> None:
        request.pin, request.done = request.sha, True

    def on_note(self, text: str) -> None:
        log.warning("%s", text)

    def on_tick(self, requests: Sequence[Request]) -> None:
        """Report how far the downloads are. Raises Abandoned."""
        if not self.may_go_on():
            raise Abandoned
        if time.monotonic() < self._next_report:
            return
        self._next_report = time.monotonic() + helper_process.TICK_SECONDS
        wanted = {request.fetch.folder(self.hf_home) / "blobs": request.blobs for request in requests}
        done, total = blobs.progress(wanted)
        if done < total:
            self._report(Downloading(done, total))

    def on_tried(self, route: Route, requests: Sequence[Request]) -> None:
        """Remember a route that served, and forget one that did not."""
        unguarded = [request for request in requests if not request.guarded]
        for ways, served in ((self.public, unguarded), (self.hub, requests)):
            if not served or route.name not in [way.name for way in ways.routes]:
                continue
            if any(self._served(request, route) for request in served):
                ways.remember(route)
            elif all(request.pending for request in served):
                ways.forget(route)

    @staticmethod
    def _served(request: Request, route: Route) -> bool:
        """Return whether most of it came over the route: the Hub may only have added what ModelScope lacks."""
        return request.brought if route.name == MODELSCOPE else request.done and not request.brought

    def _report(self, phase: Phase) -> None:
        if phase != self._last_phase:
            self._last_phase = phase
            self._on_phase(phase)

    # -- without the Hub ------------------------------------------------------------------------------

    def _take_cached(self, request: Request) -> None:
        """Use the commit that the cache holds, since the Hub failed."""
        if request.error and (sha := request.cached_commit(self.hf_home)):
            log.warning("%s; using the copy in this box's cache (commit %s)", request.error.why, sha[:8])
            request.pin, request.done, request.ref = sha, True, None

    def _finish(self, request: Request) -> None:
        """Make sure that it is there, and point its names to it. Raises HubError."""
        if not request.done:
            self._take_cached(request)
        if not request.done and request.error:
            raise request.error
        fetch, sha = request.fetch, str(request.pin)
        if not snapshots.has_essentials(fetch, self.hf_home, sha):
            raise lacking(request.what, snapshots.ESSENTIAL[fetch.kind][0], sha)
        for name in {request.ref, "main" if fetch.repo_type == "model" and not fetch.revision else None} - {None}:
            snapshots.write_ref(fetch.folder(self.hf_home), str(name), sha)

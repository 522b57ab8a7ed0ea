"""Requests to the Hub, sent over one route after the other until each is answered.

`fetch` and `access` say what is requested and what becomes of an answer. Each route gets a helper process of its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pi0q.jobs.outcome import Reason
from pi0q.queue.settings import Settings
from pi0q.workers.host import helper_process
from pi0q.workers.host.helper_process import ChildFailed, Helper
from pi0q.workers.hub import snapshots
from pi0q.workers.hub.blobs import Blob
from pi0q.workers.hub.errors import HubError, unreachable
from pi0q.workers.hub.modelscope import Given, is_tokenizer, shipped_tokenizer
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.network import roads, routes
from pi0q.workers.network.routes import MODELSCOPE, Route, Ways

#: What no other route to the same Hub changes.
_DENIED = frozenset({Reason.NEEDS_ACCESS, Reason.NOT_ON_HUB})


@dataclass(kw_only=True)
class Request:
    """One fetch, and how far it is."""

    fetch: Fetch
    #: The commit of an earlier run, which wins; once it is done, the one that was taken.
    pin: str | None
    done: bool = False
    #: The commit that the Hub named last.
    sha: str = ""
    #: Branch or tag that named the commit.
    ref: str | None = None
    #: Why the last try failed.
    error: HubError | None = None
    #: Whether the mirror has no answer to it: gated, private, or not there at all.
    guarded: bool = False
    #: Whether asking again would change nothing.
    final: bool = False
    #: What it takes, by path, as the route said that was asked last.
    files: dict[str, Blob] = field(default_factory=dict)
    #: Whether the pin is a commit of ModelScope's own, which the Hub does not know.
    foreign: bool = False
    #: Whether the Hub, or its mirror, said what it takes.
    planned: bool = False
    #: Whether the Hub shows it to some accounts only: ModelScope, which may not, is not asked for it.
    closed: bool = False
    #: Why ModelScope did not have it.
    missed: HubError | None = None
    #: Whether files of it came from ModelScope.
    brought: bool = False

    @property
    def what(self) -> str:
        return f"{self.fetch.kind} {self.fetch.repo_id}"

    @property
    def pending(self) -> bool:
        return not self.done and not self.final

    @property
    def blobs(self) -> list[Blob]:
        return list(self.files.values())

    def fail(self, error: HubError, *, trusted: bool) -> None:
        """Note why it failed, and whether another route may do better."""
        self.error = error
        if error.reason in _DENIED and not trusted:
            self.guarded = True
        else:
            self.final = error.reason is not Reason.NETWORK

    def given(self) -> Given:
        """Return what ModelScope is asked for in the Hub's stead."""
        return Given(sha=self.sha, ref=self.ref, files=self.files)

    def cached_commit(self, hf_home: Path) -> str | None:
        """Return the commit that the cache holds in the Hub's stead; None where a full disk is what failed."""
        if self.error is not None and self.error.reason is Reason.DISK_FULL:
            return None
        folder = self.fetch.folder(hf_home)
        names = snapshots.names(self.fetch)
        commits = [self.pin] if self.pin else [snapshots.read_ref(folder, name) for name in names]
        return next((sha for sha in commits if sha and snapshots.is_usable(self.fetch, hf_home, sha)), None)


@dataclass(frozen=True)
class Pins:
    """Commits of a job's repositories, by `Fetch.pin`."""

    commits: Mapping[str, str]
    #: Those of them that are ModelScope's own, and were not compared with the Hub.
    uncompared: Mapping[str, str] = field(default_factory=dict)

    def request(self, fetch: Fetch) -> Request:
        """Return the request for a repository at its commit."""
        pin = self.commits.get(fetch.pin)
        return Request(fetch=fetch, pin=pin, foreign=pin is not None and self.uncompared.get(fetch.pin) == pin)


class HubSession:
    """All requests of one run, and this box's routes to the Hub."""

    #: The helper process that serves them.
    helper: Helper

    def __init__(
        self, requests: Iterable[Request], settings: Settings, *, env: Mapping[str, str] | None = None
    ) -> None:
        """`env`: what the helpers' environment is made of; None: that of this process."""
        self.requests, self.settings = list(requests), settings
        self.env = env = os.environ if env is None else env
        #: Seconds without a line after which a route is given up.
        self.stall_seconds = settings.stall_seconds
        turbo = routes.read_turbo(settings.network_turbo)
        self.known = known = roads.roads(settings, env, turbo)
        self.modelscope = next(iter(roads.modelscope(settings, env, turbo)), None)
        self.public = Ways("public", self.public_routes(known), settings.home)
        self.hub = Ways("hub", [route for route in known if route.trusted], settings.home)

    def pending(self) -> list[Request]:
        return [request for request in self.requests if request.pending]

    def try_routes(self) -> None:
        """Try each route once, until nothing is pending."""
        self._try_tokenizer()
        candidates = self.candidates()
        # Not a `for`: finding the next route may take seconds.
        while self.is_open() and (route := next(candidates, None)):
            if route.name == MODELSCOPE:
                self.try_modelscope(route)
                continue
            asked = [request for request in self.pending() if not request.foreign]
            requests = [request for request in asked if route.trusted or not request.guarded]
            extra = self.extra(route)
            if requests or extra:
                self.send(route, requests, extra)
                self.on_tried(route, requests)
        for request in self.pending():
            request.error = request.error or _no_road(request, self.settings)

    def try_modelscope(self, route: Route) -> None:
        """Ask ModelScope for what the Hub named, and for its own where neither the Hub nor this box has it."""
        requests = [request for request in self.pending() if not request.guarded and self._may_come_from(request)]
        given = {str(n): one.given().to_json() for n, one in enumerate(requests) if one.planned}
        if requests:
            self.send(route, requests, {"given": given})
            self.on_tried(route, requests)

    def _may_come_from(self, request: Request) -> bool:
        """Return whether ModelScope is to be asked, all routes to the Hub having been."""
        if request.planned or request.foreign:
            return not request.closed
        # What an earlier run took from the Hub is never replaced by what nobody compared, nor is code, nor what may be
        # gated; and a Hub that asks to be left alone for a while is there.
        waits = request.error is not None and request.error.asked_seconds > 0
        own = request.pin is None and request.fetch.kind in ("dataset", "base") and not waits
        return own and request.cached_commit(self.settings.hf_home) is None

    def _try_tokenizer(self) -> None:
        """Ask ModelScope for pi0's gated tokenizer first, where this box's owner wants that."""
        requests = [one for one in self.pending() if is_tokenizer(one.fetch, one.pin)]
        if self.modelscope and requests and self.settings.modelscope_tokenizer:
            shipped = shipped_tokenizer().to_json()
            self.send(self.modelscope, requests, {"given": {str(n): shipped for n in range(len(requests))}})

    def send(self, route: Route, requests: Sequence[Request], extra: Mapping[str, Any]) -> None:
        """Send requests over one route; afterwards each is done or has an error, or was only planned."""
        before = {id(request): request.error for request in requests}
        for request in requests:
            request.error = None
        order = {
            **extra,
            "fetches": [asdict(request.fetch) for request in requests],
            "pins": {request.fetch.pin: request.pin for request in requests if request.pin},
        }
        running = run_over(
            route, self.helper, order, hf_home=self.settings.hf_home, env=self.env, stall_seconds=self.stall_seconds
        )
        why = f"{self.helper.name} ended too early"
        try:
            # What the caller's own code raises must end the helper, too.
            with contextlib.closing(running):
                for line in running:
                    self._dispatch(line, requests, route)
        except ChildFailed as error:
            why = str(error)
        for request in requests:
            if not request.done and request.error is None and not (extra.get("plan_only") and request.planned):
                self._fail(request, unreachable(request.what, f"{why} ({routes.named(route)})"), route)
            if route.name == MODELSCOPE and not request.done:
                # What the Hub said of it counts.
                request.missed, request.error = request.error, before[id(request)] or request.error

    def _fail(self, request: Request, error: HubError, route: Route) -> None:
        if route.name == MODELSCOPE:
            # No other route has to have what it lacks, nor lack it.
            request.error = error if error.reason is Reason.DISK_FULL else error.of_the_network()
            request.final = error.reason is Reason.DISK_FULL
        else:
            request.fail(error, trusted=route.trusted)

    def _dispatch(self, line: Mapping[str, Any] | None, requests: Sequence[Request], route: Route) -> None:
        if line is None:
            self.on_tick(requests)
        elif "bug" in line:
            raise RuntimeError(line["bug"])
        elif "say" in line:
            self.on_note(line["say"])
        elif "n" not in line:
            self.on_extra(line)
        elif "sha" in line:
            request = requests[line["n"]]
            request.sha, request.ref = line["sha"], line["ref"]
            blobs = [Blob(name=name, size=size) for name, size in line["blobs"]]
            request.files = dict(zip(line["paths"], blobs, strict=True))
            request.planned = request.planned or route.name != MODELSCOPE
            request.closed = request.closed or bool(line.get("closed"))
        elif "brought" in line:
            requests[line["n"]].brought |= route.name == MODELSCOPE
        elif "refused" in line:
            self._fail(requests[line["n"]], HubError.from_json(line["refused"]), route)
        else:
            self.on_answer(requests[line["n"]], line)

    # -- what a subclass says -------------------------------------------------------------------------

    def public_routes(self, known: Sequence[Route]) -> Sequence[Route]:
        """Return the routes to public files among which the best is taken."""
        return known

    def candidates(self) -> Iterator[Route]:
        """Yield each route once, best first."""
        return routes.each(self.public, self.hub)

    def is_open(self) -> bool:
        """Return whether another route is worth trying."""
        return bool(self.pending())

    def extra(self, route: Route) -> Mapping[str, Any]:
        """Return what else is asked over this route."""
        return {}

    def on_answer(self, request: Request, line: Mapping[str, Any]) -> None:
        """Take the answer to a request."""
        raise NotImplementedError

    def on_extra(self, line: Mapping[str, Any]) -> None:
        """Take a line that answers no request."""

    def on_note(self, text: str) -> None:
        """Take a text for the user."""

    def on_tick(self, requests: Sequence[Request]) -> None:
        """Do what is due while the helper works."""

    def on_tried(self, route: Route, requests: Sequence[Request]) -> None:
        """Learn from how a route served these."""


def _no_road(request: Request, settings: Settings) -> HubError:
    """Return the error of what nobody could be asked for."""
    named = f"PI0Q_ROADS={','.join(settings.roads)}"
    if request.foreign:
        at = f"commit {str(request.pin)[:8]}"
        why = f"{request.what} came from ModelScope at an earlier claim ({at}), and this box has no road there"
        return HubError(reason=Reason.NETWORK, why=why, fix=f"pip install 'pi0q[modelscope]' on the box; {named}")
    why = f"{request.what}: this box has none of the roads that it may take ({named})"
    return HubError(reason=Reason.NETWORK, why=why, fix="Set PI0Q_ROADS=mirror,turbo,hub,modelscope on the box")


def run_over(
    route: Route,
    helper: Helper,
    request: Mapping[str, Any],
    *,
    hf_home: Path,
    env: Mapping[str, str],
    stall_seconds: float,
) -> Generator[dict[str, Any] | None]:
    """Yield what a helper answers over one route, and None at every tick. Raises ChildFailed.

    Secrets reach the helper by its environment alone, which the route has cleared of those that are not for it.
    """
    order = {"fetches": [], "pins": {}, **request}
    order |= {"hf_home": str(hf_home), "endpoint": route.endpoint, "trusted": route.trusted, "road": route.name}
    child_env = helper_process.environment(route.environment(env)) | {"HF_HOME": str(hf_home)}
    return helper_process.run_jsonl(helper, order, env=child_env, stall_seconds=stall_seconds)

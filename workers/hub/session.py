"""Requests to the Hub, sent over one route after the other until each is answered.

`fetch` and `access` say what is requested and what becomes of an answer. Each route gets a helper process of its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
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
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.network import routes
from pi0q.workers.network.routes import Route, Ways

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
    blobs: list[Blob] = field(default_factory=list)

    @property
    def what(self) -> str:
        return f"{self.fetch.kind} {self.fetch.repo_id}"

    @property
    def pending(self) -> bool:
        return not self.done and not self.final

    def fail(self, error: HubError, *, trusted: bool) -> None:
        """Note why it failed, and whether another route may do better."""
        self.error = error
        if error.reason in _DENIED and not trusted:
            self.guarded = True
        else:
            self.final = error.reason is not Reason.NETWORK

    def cached_commit(self, hf_home: Path) -> str | None:
        """Return the commit that the cache holds in the Hub's stead; None where a full disk is what failed."""
        if self.error is not None and self.error.reason is Reason.DISK_FULL:
            return None
        folder = self.fetch.folder(hf_home)
        names = snapshots.names(self.fetch)
        commits = [self.pin] if self.pin else [snapshots.read_ref(folder, name) for name in names]
        return next((sha for sha in commits if sha and snapshots.is_usable(self.fetch, hf_home, sha)), None)


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
        known = routes.hub_routes(settings, env, routes.read_turbo(settings.network_turbo))
        self.public = Ways("public", known, settings.home)
        self.hub = Ways("hub", [route for route in known if route.trusted], settings.home)

    def pending(self) -> list[Request]:
        return [request for request in self.requests if request.pending]

    def try_routes(self) -> None:
        """Try each route once, until nothing is pending."""
        candidates = routes.each(self.public, self.hub)
        # Not a `for`: finding the next route may take seconds.
        while self.is_open() and (route := next(candidates, None)):
            requests = [request for request in self.pending() if route.trusted or not request.guarded]
            extra = self.extra(route)
            if requests or extra:
                self.send(route, requests, extra)
                self.on_tried(route, requests)

    def send(self, route: Route, requests: Sequence[Request], extra: Mapping[str, Any]) -> None:
        """Send requests over one route; afterwards each is done or has an error."""
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
            if not request.done and request.error is None:
                request.fail(unreachable(request.what, f"{why} ({routes.named(route)})"), trusted=route.trusted)

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
            request.blobs = [Blob(name=name, size=size) for name, size in line["blobs"]]
        elif "refused" in line:
            requests[line["n"]].fail(HubError.from_json(line["refused"]), trusted=route.trusted)
        else:
            self.on_answer(requests[line["n"]], line)

    # -- what a subclass says -------------------------------------------------------------------------

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
    order |= {"hf_home": str(hf_home), "endpoint": route.endpoint, "trusted": route.trusted}
    child_env = helper_process.environment(route.environment(env)) | {"HF_HOME": str(hf_home)}
    return helper_process.run_jsonl(helper, order, env=child_env, stall_seconds=stall_seconds)

"""The caches before the trainer: what a run needs of the Hub, at pinned commits, on the data disk.

    wanted -> prepare -> at_home, offline_env

After `prepare` the trainer can start with the network cut; `fetches` says how it is told where things lie.
Every way to the Hub is tried (`network`), each by a process of its own (`errand`, `download`).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi0q.jobs.outcome import Reason
from pi0q.queue.settings import Settings
from pi0q.workers import network, uses
from pi0q.workers.network import Route, Ways
from pi0q.workers.run import child, errand, snapshots
from pi0q.workers.run.fetches import Fetch, at_home, needs_network, offline_env, wanted
from pi0q.workers.run.refusals import Refused, lacking, unreachable
from pi0q.workers.run.transfer import Blob, progress

__all__ = ["Fetch", "Refused", "at_home", "needs_network", "offline_env", "prepare", "wanted"]

Say = Callable[[str], None]

#: Before each further round over all ways.
PAUSES_SECONDS = (2.0, 10.0)
#: The longest that a run waits, with its GPU, because the Hub asked for it; beyond that the job goes back to the queue.
LONGEST_WAIT_SECONDS = 60.0
#: What no other way to the same Hub changes.
_DENIED = frozenset({Reason.NEEDS_ACCESS, Reason.NOT_ON_HUB})


@dataclass(kw_only=True)
class _Case:
    """One fetch and how far it is."""

    fetch: Fetch
    #: The commit of an earlier run, which wins; once it is done, the one that was taken.
    pin: str | None
    done: bool = False
    #: The commit that whoever was asked last named.
    sha: str = ""
    #: Branch or tag that named the commit.
    ref: str | None = None
    #: The last refusal.
    refused: Refused | None = None
    #: Whether the mirror has no answer to it: gated, private, or not there at all.
    guarded: bool = False
    #: Whether asking again would change nothing.
    settled: bool = False
    blobs: list[Blob] = field(default_factory=list)

    @property
    def what(self) -> str:
        return f"{self.fetch.kind} {self.fetch.repo_id}"

    @property
    def open(self) -> bool:
        return not self.done and not self.settled

    def hear(self, refused: Refused, route: Route) -> None:
        self.refused = refused
        if refused.reason in _DENIED and not route.trusted:
            self.guarded = True
        else:
            self.settled = refused.reason is not Reason.NETWORK


def prepare(
    fetches: Iterable[Fetch],
    settings: Settings,
    *,
    pins: Mapping[str, str],
    say: Say,
) -> dict[str, str]:
    """Brings everything into the cache; gives the commit of each, by `Fetch.pin`.

    Args:
        settings: Of this box, for its cache and its ways to the Hub.
        pins: Commits of an earlier run of this job; they win over what the Hub has now.
        say: Told a line at a time what goes on, about twice a second.

    Raises:
        Refused: The Hub would not, or the disk, and the cache does not hold all of it either.
    """
    desk = _Desk([_Case(fetch=fetch, pin=pins.get(fetch.pin)) for fetch in fetches], settings.hf_home, say)
    desk.run(settings)
    return {case.fetch.pin: str(case.pin) for case in desk.cases}


class _Desk:
    """All fetches of one run."""

    def __init__(self, cases: Sequence[_Case], hf_home: Path, say: Say) -> None:
        self.cases, self.hf_home, self.say = cases, hf_home, say
        self._told, self._next_look = "", 0.0

    def run(self, settings: Settings) -> None:
        for case in self.cases:
            uses.hold(uses.of_hub(self.hf_home), case.fetch.folder(self.hf_home).name)
            case.done = bool(case.pin) and snapshots.was_laid(case.fetch, self.hf_home, str(case.pin))
        if self.open():
            snapshots.tidy(self.hf_home / "hub")
            self.fetch_all(settings)
        for case in self.cases:
            self.close(case)

    def open(self) -> list[_Case]:
        return [case for case in self.cases if case.open]

    def fetch_all(self, settings: Settings) -> None:
        """Round after round over the ways, as long as that may help."""
        if offline():
            for case in self.open():
                case.refused, case.settled = unreachable(case.what, "HF_HUB_OFFLINE is set on this box"), True
        turbo = network.read_turbo(settings.network_turbo)
        routes = network.hub_routes(settings, os.environ, turbo)
        public = Ways("public", routes, settings.home)
        hub = Ways("hub", [route for route in routes if route.trusted], settings.home)
        for pause in (*PAUSES_SECONDS, None):
            self.round(public, hub, settings.stall_seconds)
            for case in self.open():
                self.take_cached(case)
            asked = max((case.refused.asked_seconds for case in self.open() if case.refused), default=0.0)
            if not self.open() or pause is None or asked > LONGEST_WAIT_SECONDS:
                return
            self.say(f"waiting {max(pause, asked):.0f} s before the Hub is asked again")
            time.sleep(max(asked, pause * random.uniform(0.75, 1.25)))

    def round(self, public: Ways, hub: Ways, stall_seconds: float) -> None:
        """Each way once, until nothing is open."""
        for route in each(public, hub):
            if not self.open():
                return
            asked = [case for case in self.open() if route.trusted or not case.guarded]
            if not asked:
                continue
            self.send(route, asked, stall_seconds)
            for ways, cases in ((public, [case for case in asked if not case.guarded]), (hub, asked)):
                if any(route.name == way.name for way in ways.routes) and cases:
                    _learn(ways, route, cases)

    def send(self, route: Route, asked: Sequence[_Case], stall_seconds: float) -> None:
        """One process over one way; afterwards each of these cases is done or has a refusal."""
        for case in asked:
            case.refused = None
        pins = {case.fetch.pin: case.pin for case in asked if case.pin}
        heard = errand.send(
            route, [case.fetch for case in asked], pins=pins, hf_home=self.hf_home, stall_seconds=stall_seconds
        )
        why = "its download ended too early"
        try:
            for line in heard:
                if line is not None and "n" in line:
                    self.note(asked[line["n"]], line, route)
                elif line is not None and "say" in line:
                    self.say(line["say"])
                elif line is not None and "bug" in line:
                    raise RuntimeError(line["bug"])
                else:
                    self.show(asked)
        except child.Broken as error:
            why = str(error)
        for case in asked:
            if not case.done and case.refused is None:
                case.hear(unreachable(case.what, f"{why} ({named(route)})"), route)
            if case.open and case.refused:
                self.say(case.refused.why)

    def note(self, case: _Case, line: Mapping[str, Any], route: Route) -> None:
        """What the process said of one case."""
        if "sha" in line:
            case.sha, case.ref = line["sha"], line["ref"]
            case.blobs = [Blob(name=name, size=size) for name, size in line["blobs"]]
        elif "refused" in line:
            case.hear(Refused.from_json(line["refused"]), route)
        else:
            case.pin, case.done = case.sha, True

    def show(self, asked: Iterable[_Case]) -> None:
        """Says how far it is, if that changed and was not said just now."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + child.TICK_SECONDS
        line = progress({case.fetch.folder(self.hf_home) / "blobs": case.blobs for case in asked})
        if line and line != self._told:
            self._told = line
            self.say(line)

    # -- without the Hub ----------------------------------------------------------------------------

    def take_cached(self, case: _Case) -> None:
        """Goes on with the commit that the cache holds whole, since the Hub failed us."""
        refused, folder = case.refused, case.fetch.folder(self.hf_home)
        if refused is None or refused.reason is Reason.DISK_FULL:
            return
        cached = [case.pin] if case.pin else [snapshots.read_ref(folder, name) for name in snapshots.names(case.fetch)]
        for sha in cached:
            if sha and snapshots.is_whole(case.fetch, self.hf_home, sha):
                self.say(f"{refused.why}; going on with the copy in this box's cache (commit {sha[:8]})")
                case.pin, case.done, case.ref = sha, True, None
                return

    def close(self, case: _Case) -> None:
        """Makes sure that it is there, and what its names point to."""
        if not case.done:
            self.take_cached(case)
        if not case.done and case.refused:
            raise case.refused
        fetch, sha = case.fetch, str(case.pin)
        if not snapshots.has_essentials(fetch, self.hf_home, sha):
            raise lacking(case.what, snapshots.ESSENTIAL[fetch.kind][0], sha)
        for name in {case.ref, "main" if fetch.repo_type == "model" and not fetch.revision else None} - {None}:
            snapshots.point(fetch.folder(self.hf_home), str(name), sha)


def each(public: Ways, hub: Ways) -> Iterator[Route]:
    """Every way once: the best for public files, then the best for the others; known only when it is asked for."""
    first, *others = public.order()
    yield first
    trusted = hub.order()
    yield from (route for route in trusted if route.name != first.name)
    yield from (route for route in others if route.name not in {way.name for way in trusted})


def _learn(ways: Ways, route: Route, cases: Iterable[_Case]) -> None:
    """Remembers a way that served, and forgets one that did not."""
    cases = list(cases)
    if any(case.done for case in cases):
        ways.remember(route)
    elif all(case.open for case in cases):
        ways.forget(route)


def named(route: Route) -> str:
    """A way in words."""
    return {"mirror": "over the mirror", "turbo": "over AutoDL's proxy"}.get(route.name, "directly from the Hub")


def offline() -> bool:
    """Whether this box's owner wants nothing asked of the Hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")

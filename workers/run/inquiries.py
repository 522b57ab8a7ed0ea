"""Asks the Hub whether a job's repositories can be had, over every way that may help; see inquiry.py."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi0q.jobs.outcome import Reason
from pi0q.queue.settings import Settings
from pi0q.workers import network
from pi0q.workers.network import Route, Ways
from pi0q.workers.run import cache, child, errand, snapshots
from pi0q.workers.run.fetches import Fetch
from pi0q.workers.run.refusals import Refused, unreachable

MODULE = "pi0q.workers.run.inquiry"
#: Seconds without an answer after which a way is given up; no file of any size is asked for.
SILENCE_SECONDS = 20.0
_DENIED = frozenset({Reason.NEEDS_ACCESS, Reason.NOT_ON_HUB})


@dataclass(kw_only=True)
class Heard:
    """What was heard of one job."""

    #: Why repositories can't be had, one each; empty: all can.
    refusals: list[Refused] = field(default_factory=list)
    #: `meta/info.json` of its dataset; None where it was not read.
    info: Any = None
    #: "ok", "refused" or "unknown"; "" if nobody could be asked.
    push: str = ""
    push_why: str = ""
    #: The same of the repository of copies; also "public".
    copies: str = ""
    copies_why: str = ""
    #: Bytes of what is wanted of each repository, by pin.
    sizes: dict[str, int] = field(default_factory=dict)
    #: What its user should know.
    notes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class _Case:
    fetch: Fetch
    refused: Refused | None = None
    #: Whether nothing is left to be asked.
    settled: bool = False


def ask(fetches: Iterable[Fetch], settings: Settings, *, pins: Mapping[str, str], push: str, copies: str = "") -> Heard:
    """Asks for all; a repository that lies here whole is had, whatever the network does."""
    heard, cases = Heard(), [_Case(fetch=fetch) for fetch in fetches]
    if cache.offline():
        for case in cases:
            case.refused = unreachable(case.fetch.repo_id, "HF_HUB_OFFLINE is set on this box")
    else:
        _ask_all(heard, cases, settings, pins, push, copies)
    for case in cases:
        if case.refused and case.refused.reason is not Reason.DISK_FULL:
            _take_cached(heard, case, settings.hf_home, pins)
    heard.refusals = [case.refused for case in cases if case.refused]
    return heard


def _ask_all(
    heard: Heard, cases: Sequence[_Case], settings: Settings, pins: Mapping[str, str], push: str, copies: str
) -> None:
    routes = network.hub_routes(settings, os.environ, network.read_turbo(settings.network_turbo))
    public = Ways("public", routes, settings.home)
    hub = Ways("hub", [route for route in routes if route.trusted], settings.home)
    for route in cache.each(public, hub):
        todo = [case for case in cases if not case.settled]
        more = {"push": "" if heard.push else push, "copies": "" if heard.copies else copies} if route.trusted else {}
        if todo or any(more.values()):
            _send(heard, route, todo, settings.hf_home, pins, more)


def _send(
    heard: Heard,
    route: Route,
    cases: Sequence[_Case],
    hf_home: Path,
    pins: Mapping[str, str],
    more: Mapping[str, str],
) -> None:
    """One process over one way."""
    for case in cases:
        case.refused = unreachable(f"{case.fetch.kind} {case.fetch.repo_id}", f"{cache.named(route)} came no answer")
    lines = errand.send(
        route,
        [case.fetch for case in cases],
        pins={pin: sha for pin, sha in pins.items() if any(pin == case.fetch.pin for case in cases)},
        hf_home=hf_home,
        stall_seconds=SILENCE_SECONDS,
        module=MODULE,
        more=more,
    )
    with contextlib.suppress(child.Broken):
        for line in lines:
            if line is None:
                continue
            if "bug" in line:
                raise RuntimeError(line["bug"])
            if "push" in line:
                heard.push, heard.push_why = line["push"], line["why"]
            elif "copies" in line:
                heard.copies, heard.copies_why = line["copies"], line["why"]
            elif "say" in line:
                heard.notes.append(line["say"])
            elif "blobs" in line:
                heard.sizes[cases[line["n"]].fetch.pin] = sum(int(size) for _, size in line["blobs"])
            elif "open" in line:
                case = cases[line["n"]]
                case.refused, case.settled = None, True
                heard.info = line.get("info", heard.info)
            elif "refused" in line:
                case, refused = cases[line["n"]], Refused.from_json(line["refused"])
                case.refused = refused
                # The mirror has nothing that is gated or private.
                case.settled = refused.reason is not Reason.NETWORK and (route.trusted or refused.reason not in _DENIED)


def _take_cached(heard: Heard, case: _Case, hf_home: Path, pins: Mapping[str, str]) -> None:
    fetch, folder = case.fetch, case.fetch.folder(hf_home)
    pin = pins.get(fetch.pin)
    for sha in [pin] if pin else [snapshots.read_ref(folder, name) for name in snapshots.names(fetch)]:
        if sha and case.refused and snapshots.is_whole(fetch, hf_home, sha):
            heard.notes.append(f"{case.refused.why}; there is a copy in this box's cache (commit {sha[:8]})")
            case.refused = None
            return

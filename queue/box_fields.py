"""The fields that a box announces, as they lie on the server. Pure.

What a box says of single jobs (`refusals`, `plans`) is long and is read for one job at a time: each such field is a
hash of its own, `refusals:<box>`, with a text of JSON for each job. All others lie in `box:<box>`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pi0q.jobs.record_codecs import MAX_GPUS, json_of, mapping, whole
from pi0q.queue.idle_outlook import Outlook

#: Fields whose value is a JSON object with an entry for each job.
PER_JOB = ("refusals", "plans")
#: All others; what is absent of these, an older version does not announce.
FIELDS = (
    "box_id", "status", "boot", "version", "gpus", "free_mib", "holders", "busy", "gauges", "disk_free_mib", "disk_mib",
    "home", "hf_home", "slots", "running", "used_slots", "lerobot", "note", "blocked", "drain", "drain_text",
    "warm", "caches", "staging", "idle",
)  # fmt: skip
#: What a gauge of a GPU may hold (`gauges`, one object a GPU), and the most of it: percent, degrees Celsius.
GAUGES = {"use": 100, "celsius": 200}
#: Repositories that a box announces with their sizes (`caches`), at the most.
MOST_CACHES = 20
#: What a reader asks `box:<box>` for. Boxes of the version before this one keep those of PER_JOB there, too.
ASKED = [*FIELDS, *PER_JOB]
#: Stands for all jobs where a reader asks for what a box says of one.
EVERY_JOB = "*"


def written(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields as heartbeat.lua takes them: those of PER_JOB as an object of texts, the others as text."""
    return {name: _by_job(text) if name in PER_JOB else text for name, text in fields.items()}


def joined(by_job: Mapping[str, str]) -> str:
    """Return what `written` took apart: one text of JSON."""
    return "{" + ", ".join(f"{json.dumps(job)}: {told}" for job, told in by_job.items()) + "}"


def read(about: str, values: Sequence[str | None], refused: int, *by_job: Any) -> dict[str, str]:
    """Return a box's fields with `refused`, and those of PER_JOB for the job that was asked about.

    `values` are those of ASKED, `by_job` the entries of PER_JOB, of one job or of all.
    """
    fields = {name: value for name, value in zip(ASKED, values, strict=True) if value is not None}
    # Kept for one release, see ASKED.
    older = {name: fields.pop(name) for name in PER_JOB if name in fields}
    older = readable(older)
    told = {}
    for name, entries in zip(PER_JOB, by_job, strict=False):
        known = entries if isinstance(entries, dict) else {about: entries} if entries else {}
        told[name] = joined(known)
    count = len(json.loads(older["refusals"] or "{}")) if "refusals" in older else refused
    return {**readable({**fields, **told}), **older, "refused": str(count)}


def readable(fields: Mapping[str, str]) -> dict[str, str]:
    """Return the fields without those that no box can have announced: readers take their defaults for them."""
    return {name: text for name, text in fields.items() if _is_readable(name, text)}


def _is_readable(name: str, text: str) -> bool:
    read = _READERS.get(name)
    try:
        if read and text:
            read(text)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return False
    return True


def _whole(text: str) -> None:
    whole(int(text))


def _cards(text: str) -> None:
    for card in json_of(text):
        str(card["name"])
        whole(card.get("total_mib", 0))
        whole(card.get("free_mib", 0))


def _holders(text: str) -> None:
    for held in json_of(text) or ():
        if not isinstance(held["shared"], bool) or not all(isinstance(job, str) for job in held["jobs"]):
            raise ValueError


def _gauges(text: str) -> None:
    found = json_of(text)
    if not isinstance(found, list) or len(found) > MAX_GPUS:
        raise ValueError
    for gauge in found:
        for name, most in GAUGES.items():
            if gauge.get(name) is not None:
                whole(gauge[name], most=most)


def _ends(text: str) -> None:
    for seconds in json_of(text) or ():
        if seconds is not None:
            whole(seconds)


def _numbers(text: str) -> None:
    for number in json_of(text) or ():
        whole(max(number, 0))


def _names(text: str) -> None:
    if not all(isinstance(name, str) for name in json_of(text)):
        raise ValueError


def _objects(text: str) -> None:
    mapping(json_of(text))


def _plans(text: str) -> None:
    for plan in mapping(json_of(text)).values():
        if plan:
            whole(mapping(plan)["lacks_mib"])
            for item in plan.get("items", ()):
                whole(item.get("here_mib") or 0)
                if not all(isinstance(item[name], str) for name in ("kind", "what", "place")):
                    raise ValueError


def _caches(text: str) -> None:
    """The repositories that lie complete in the box's cache: name and MiB of the largest."""
    found = json_of(text)
    if not isinstance(found, list) or len(found) > MOST_CACHES:
        raise ValueError
    for one in found:
        if not isinstance(one["name"], str):
            raise ValueError
        whole(one["mib"])


def _staging(text: str) -> None:
    """What a box without cards does for waiting jobs (workers/staging/state.py)."""
    told = mapping(json_of(text))
    for name in ("job", "phase"):
        if not isinstance(told.get(name, ""), str):
            raise ValueError
    for name in ("ready_count", "left"):
        whole(told.get(name, 0))
    cards = told.get("cards", [])
    if not isinstance(cards, list) or len(cards) > MAX_GPUS:
        raise ValueError
    for card in cards:
        str(card["name"])
        whole(card["total_mib"])
    if not all(isinstance(why, str) for why in mapping(told.get("problems", {})).values()):
        raise ValueError


def _outlook(text: str) -> None:
    Outlook.of_json(json_of(text))


_READERS: Mapping[str, Callable[[str], object]] = {
    "disk_free_mib": _whole,
    "disk_mib": _whole,
    "gauges": _gauges,
    "running": _whole,
    "slots": _whole,
    "gpus": _cards,
    "free_mib": _numbers,
    "holders": _holders,
    "busy": _ends,
    "used_slots": _whole,
    "caches": _caches,
    "staging": _staging,
    "refusals": _objects,
    "plans": _plans,
    "warm": _names,
    "idle": _outlook,
}


def _by_job(text: str) -> dict[str, str]:
    value = json.loads(text or "{}")
    return {str(job): json.dumps(told, ensure_ascii=False) for job, told in value.items()} if value else {}

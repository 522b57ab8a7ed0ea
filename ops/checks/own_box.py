"""What the worker of this machine has announced to the queue: its cards, and why it takes no jobs.

The doctor, `box setup` and `box status` ask here, so that they tell what `pi0q boxes` and `pi0q why` tell.
"""

from __future__ import annotations

import json
from contextlib import suppress

import redis

from pi0q.jobs.errors import Pi0qError
from pi0q.queue import box_status
from pi0q.queue.box_status import Announced
from pi0q.queue.connection import connect
from pi0q.queue.settings import Settings
from pi0q.queue.store_reads import StoreReads
from pi0q.workers.host import probe
from pi0q.workers.host.identity import box_name

#: What asking raises where the queue's server does not answer.
UNREACHABLE = (Pi0qError, redis.RedisError, OSError)


def announced(settings: Settings) -> Announced | None:
    """Return what this machine's worker announced last; None where none is up, or the server does not answer."""
    with suppress(*UNREACHABLE):
        return ask(settings)
    return None


def ask(settings: Settings) -> Announced | None:
    """Return what this machine's worker announced last; None where none is up. Raises UNREACHABLE."""
    known = StoreReads(connect(settings), settings.prefix).boxes()
    own = (one for one in known if one["name"] == box_name(settings) and one.get("home") == str(settings.home))
    return next((one for one in own if box_status.is_up(one, settings.timing.silent)), None)


def refuses(own: Announced) -> tuple[str, str]:
    """Return why the box takes no job at all, and the cure; "" and "" where it takes jobs. Pure."""
    if own.get("drain"):
        return own.get("drain_text") or "drained", f"pi0q drain {own['name']} --undo"
    if own.get("blocked"):
        return str(box_status.blocked(own)), f"pi0q boxes show {own['name']}"
    return "", ""


def cards(settings: Settings) -> tuple[tuple[probe.Gpu, ...], str]:
    """Return this machine's GPUs, and why if there are none: those that its worker simulates count for it, too."""
    if settings.fake_gpus is not None:
        return probe.fake_gpus(settings.fake_gpus, "here"), ""
    found, fault = probe.nvml_gpus()
    if not found and (own := announced(settings)):
        found = simulated(own)
    return found, fault


def simulated(own: Announced) -> tuple[probe.Gpu, ...]:
    """Return the GPUs that a worker's PI0Q_FAKE_GPUS describes, as it announced them. Pure."""
    return tuple(
        probe.Gpu(
            uuid=str(card.get("uuid", "")),
            name=str(card["name"]),
            total_mib=int(card.get("total_mib", 0)),
            free_mib=int(card.get("free_mib", 0)),
            simulated=True,
        )
        for card in json.loads(own.get("gpus") or "[]")
        if card.get("simulated")
    )

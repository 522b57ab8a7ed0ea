"""Sends the process of copying.py on its errand, and ends it where nothing moves any more."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from pi0q.jobs import copies
from pi0q.queue.settings import Settings
from pi0q.workers import network
from pi0q.workers.run import child

MODULE = "pi0q.workers.run.copying"


def send(order: Mapping[str, Any], settings: Settings, *, over: threading.Event) -> Iterator[dict[str, Any]]:
    """What it says, line by line, until it ends or `over` is set. Raises child.Broken."""
    heard = child.hear(
        command(),
        {**order, "endpoint": settings.hf_endpoint},
        env=environment(str(order["place"]), settings, xet=bool(order.get("xet", True))),
        stall_seconds=settings.stall_seconds,
        what="the process that copies",
        silence="nothing moved",
        spared=True,
    )
    with closing(heard):
        for line in heard:
            if over.is_set():
                return
            if line is not None:
                yield line


def command() -> list[str]:
    """Its command line."""
    return [sys.executable, "-m", MODULE]


def environment(place: str, settings: Settings, *, xet: bool = True) -> dict[str, str]:
    """Its environment; the Hub's own address and the way to it where it talks to the Hub.

    Without `xet` large files go to the Hub's older store, which is another host: where one can't be reached, the
    other may.
    """
    env = network.environment("hub", os.environ, settings) if copies.repository(place) else os.environ
    kept = child.environment(env)
    return kept if xet else {**kept, "HF_HUB_DISABLE_XET": "1"}

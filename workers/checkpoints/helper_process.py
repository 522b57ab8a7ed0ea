"""Parent side of replicate_main.py: its environment, and how it is started and stopped."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from pi0q.jobs import replicas
from pi0q.queue.settings import Settings
from pi0q.workers.host import helper_process
from pi0q.workers.host.helper_process import Helper
from pi0q.workers.network import routes

HELPER = Helper(
    argv=helper_process.module("pi0q.workers.checkpoints.replicate_main"),
    name="the process that copies",
    silence="nothing moved",
    excluded=True,
)


def send(order: Mapping[str, Any], settings: Settings, *, over: threading.Event) -> Iterator[dict[str, Any]]:
    """Yield the lines of the helper until it ends or `over` is set. Raises ChildFailed."""
    running = helper_process.run_jsonl(
        HELPER,
        {**order, "endpoint": settings.hf_endpoint, "roots": list(map(str, settings.copy_roots))},
        env=environment(str(order["place"]), settings, xet=bool(order.get("xet", True))),
        stall_seconds=settings.stall_seconds,
        stop=over,
    )
    with closing(running):
        yield from (line for line in running if line is not None)


def environment(place: str, settings: Settings, *, xet: bool = True) -> dict[str, str]:
    """Return its environment; where it talks to the Hub with the Hub's own address and the route to it.

    Without `xet` large files go to the Hub's older store, which is another host: where one can't be reached, the
    other may.
    """
    env = routes.environment("hub", os.environ, settings) if replicas.repository(place) else os.environ
    kept = helper_process.environment(env)
    return kept if xet else {**kept, "HF_HUB_DISABLE_XET": "1"}

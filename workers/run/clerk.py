"""Sends the process of copying.py on its errand, and ends it where nothing moves any more."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pi0q.jobs import copies
from pi0q.queue.settings import Settings
from pi0q.workers import network
from pi0q.workers.run import process

MODULE = "pi0q.workers.run.copying"
#: Seconds between two looks at whether the run is over.
TICK_SECONDS = 0.5
#: Seconds that the process may take to start on a busy machine.
START_SECONDS = 60.0
#: Seconds after SIGKILL in which it dies, unless a dead disk holds it.
DEATH_SECONDS = 5.0
#: Left out of its environment: it has no business with the queue.
_DROPPED = ("PI0Q_REDIS_URL", "CELERY_", "WANDB_")
_QUIET = {"HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class Broken(Exception):
    """It did not come to its end; the text says how."""


def send(order: Mapping[str, Any], settings: Settings, *, over: threading.Event) -> Iterator[dict[str, Any]]:
    """What it says, line by line, until it ends or `over` is set. Raises Broken.

    Called by the thread that outlives it: the kernel ends the process with that thread.
    """
    child = subprocess.Popen(
        command(),
        env=environment(str(order["place"]), settings, xet=bool(order.get("xet", True))),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None and child.stdout is not None
    process.spare(child.pid)
    try:
        told = {**order, "parent": os.getpid(), "endpoint": settings.hf_endpoint}
        child.stdin.write(json.dumps(told).encode() + b"\n")
        child.stdin.close()
        yield from _heard(child.stdout.fileno(), settings.stall_seconds, over)
        if not over.is_set() and child.wait() != 0:
            how = f"signal {-child.returncode}" if child.returncode < 0 else "an error: see runner.log"
            raise Broken(f"the process that copies was ended by {how}")
    finally:
        child.kill()
        try:
            child.wait(DEATH_SECONDS)
            process.spare(child.pid, no_more=True)
        except subprocess.TimeoutExpired:
            # It hangs on its disk, and holds nothing that anyone waits for.
            pass
        child.stdout.close()


def command() -> list[str]:
    """Its command line."""
    return [sys.executable, "-m", MODULE]


def environment(place: str, settings: Settings, *, xet: bool = True) -> dict[str, str]:
    """Its environment; the Hub's own address and the way to it where it talks to the Hub.

    Without `xet` large files go to the Hub's older store, which is another host: where one can't be reached, the
    other may.
    """
    env = network.environment("hub", os.environ, settings) if copies.repository(place) else dict(os.environ)
    kept = {name: value for name, value in env.items() if not name.startswith(_DROPPED)} | _QUIET
    return kept if xet else {**kept, "HF_HUB_DISABLE_XET": "1"}


def _heard(out: int, stall_seconds: float, over: threading.Event) -> Iterator[dict[str, Any]]:
    rest, patience = b"", max(stall_seconds, START_SECONDS)
    heard = time.monotonic()
    while not over.is_set():
        if select.select([out], [], [], TICK_SECONDS)[0]:
            if not (data := os.read(out, 1 << 16)):
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield json.loads(line)
            heard, patience = time.monotonic(), stall_seconds
        elif time.monotonic() - heard > patience:
            raise Broken(f"nothing moved for {patience:.0f} s")

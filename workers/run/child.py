"""A child process that is given one order and tells what becomes of it, line by line; killed where it falls silent."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from pi0q.jobs.phrases import signal_name
from pi0q.workers.run import process

#: Seconds between two looks at what it says.
TICK_SECONDS = 0.5
#: Seconds that it may take to start on a busy machine, before its silence counts.
START_SECONDS = 60.0
#: Seconds after SIGKILL in which it dies, unless a dead disk holds it.
DEATH_SECONDS = 5.0
#: Left out of its environment: it has no business with the queue.
_DROPPED = ("PI0Q_REDIS_URL", "CELERY_", "WANDB_")
_QUIET = {"HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class Broken(Exception):
    """It did not come to its end; the text says how."""


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """`base` without what is not for it."""
    return {name: value for name, value in base.items() if not name.startswith(_DROPPED)} | _QUIET


def hear(
    argv: Sequence[str],
    order: Mapping[str, Any],
    *,
    env: Mapping[str, str],
    stall_seconds: float,
    what: str,
    silence: str,
    spared: bool = False,
) -> Generator[dict[str, Any] | None]:
    """What it says, line by line, and None at every tick; `what` it is and `silence` are its Broken in words.

    Called by a thread that outlives it: the kernel ends it with that thread. `spared`: `process.kill_all` leaves it.
    """
    try:
        child = subprocess.Popen(list(argv), env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise Broken(f"{what} could not be started: {error}") from None
    assert child.stdin is not None and child.stdout is not None
    if spared:
        process.spare(child.pid)
    try:
        # One that is dead before it was told tells how below.
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(json.dumps({**order, "parent": os.getpid()}).encode() + b"\n")
        yield from _lines(child.stdout.fileno(), stall_seconds, silence)
        if (code := child.wait()) != 0:
            raise Broken(
                f"{what} " + (f"was ended by {signal_name(-code)}" if code < 0 else "broke off: see runner.log")
            )
    finally:
        # Also when the one who listens has heard enough.
        child.kill()
        # One that hangs on its disk holds nothing that anyone waits for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(DEATH_SECONDS)
            process.spare(child.pid, no_more=True)
        child.stdout.close()


def _lines(out: int, stall_seconds: float, silence: str) -> Iterator[dict[str, Any] | None]:
    rest, heard, patience = b"", time.monotonic(), max(stall_seconds, START_SECONDS)
    while True:
        if select.select([out], [], [], min(TICK_SECONDS, stall_seconds))[0]:
            if not (data := os.read(out, 1 << 16)):
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from map(json.loads, lines)
            heard, patience = time.monotonic(), stall_seconds
        elif time.monotonic() - heard > patience:
            raise Broken(f"{silence} for {patience:.0f} s")
        yield None

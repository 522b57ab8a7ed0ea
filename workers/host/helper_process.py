"""Parent side of a helper process: it gets one JSON request, answers in lines of JSON, and is killed when it stalls.

The child side is `helper_base`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pi0q.jobs.failures.wording import signal_name
from pi0q.workers.host import process_tree

#: Seconds between two checks of the caller's, at most.
TICK_SECONDS = 0.5
#: Seconds that a helper may take to start on a busy machine, before its silence counts.
START_SECONDS = 60.0
#: Seconds after SIGKILL in which a process dies, unless a dead disk holds it.
DEATH_SECONDS = 5.0
#: Variables that no helper needs: none has business with the queue.
_DROPPED = ("PI0Q_REDIS_URL", "CELERY_", "WANDB_", "SWANLAB_")
_QUIET = {"HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class ChildFailed(Exception):
    """The helper did not finish; the text says how."""


@dataclass(frozen=True, kw_only=True)
class Helper:
    """One kind of helper process, as its parent knows it."""

    argv: tuple[str, ...]
    #: Subject of its errors: "the download".
    name: str
    #: What its silence means: "no byte came".
    silence: str = "no byte came"
    #: The file that its standard error goes to, which is its parent's.
    log: str = "runner.log"
    #: Whether `process_tree.kill_all` leaves it alone.
    excluded: bool = False


def module(name: str) -> tuple[str, ...]:
    """Return the command line of a module of pi0q."""
    return (sys.executable, "-m", name)


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return `base` without what no helper needs."""
    return {name: value for name, value in base.items() if not name.startswith(_DROPPED)} | _QUIET


def run_jsonl(
    helper: Helper,
    request: Mapping[str, Any],
    *,
    env: Mapping[str, str],
    stall_seconds: float,
    stop: threading.Event | None = None,
) -> Generator[dict[str, Any] | None]:
    """Start a helper, send it the request and yield its lines, and None at every tick.

    Closing the generator or setting `stop` kills the helper. Call from a thread that outlives the helper:
    PDEATHSIG fires when that thread exits. Raises ChildFailed.
    """
    try:
        child = subprocess.Popen(helper.argv, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise ChildFailed(f"{helper.name} could not be started: {error}") from None
    assert child.stdin is not None and child.stdout is not None
    if helper.excluded:
        process_tree.exclude(child.pid)
    try:
        # The exit code of one that died before it read the request is reported below.
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(json.dumps({**request, "parent": os.getpid()}).encode() + b"\n")
        for line in _lines(child.stdout.fileno(), stall_seconds, helper.silence):
            if stop is not None and stop.is_set():
                return
            yield line
        if (code := child.wait()) != 0:
            how = f"was ended by {signal_name(-code)}" if code < 0 else f"broke off: see {helper.log}"
            raise ChildFailed(f"{helper.name} {how}")
    finally:
        # The caller may have closed this generator.
        child.kill()
        # One that hangs on its disk holds nothing that anyone waits for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(DEATH_SECONDS)
            process_tree.include(child.pid)
        child.stdout.close()


def _lines(out: int, stall_seconds: float, silence: str) -> Iterator[dict[str, Any] | None]:
    rest, last_line, patience = b"", time.monotonic(), max(stall_seconds, START_SECONDS)
    while True:
        if select.select([out], [], [], min(TICK_SECONDS, stall_seconds))[0]:
            if not (data := os.read(out, 1 << 16)):
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from map(json.loads, lines)
            last_line, patience = time.monotonic(), stall_seconds
        elif time.monotonic() - last_line > patience:
            raise ChildFailed(f"{silence} for {patience:.0f} s")
        yield None

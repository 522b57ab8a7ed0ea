"""One process that talks to the Hub, sent over one way, watched: killed when no byte comes for too long."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pi0q.jobs.phrases import signal_name
from pi0q.workers.network import Route
from pi0q.workers.run.fetches import Fetch

#: What the child's command line names.
MODULE = "pi0q.workers.run.download"
#: Seconds between two looks at the progress.
TICK_SECONDS = 0.5
#: Seconds that the child may take to start on a busy machine, before silence is the network's.
START_SECONDS = 60.0
#: Left out of the child's environment: it has no business with the queue.
_DROPPED = ("PI0Q_REDIS_URL", "CELERY_", "WANDB_")
_QUIET = {"HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1"}


class Stalled(Exception):
    """No byte came for too long; the child was killed."""


class Ended(Exception):
    """The child ended without a word, by a signal or the memory limit."""


def send(
    route: Route,
    fetches: Sequence[Fetch],
    *,
    pins: Mapping[str, str],
    hf_home: Path,
    stall_seconds: float,
    module: str = MODULE,
    more: Mapping[str, Any] = {},
) -> Iterator[dict[str, Any] | None]:
    """What the child says, line by line, and None at every tick. Raises Stalled, or Ended.

    `module` is what it runs, a download if nothing is said, and `more` what else that is told.
    Secrets reach the child by its environment alone, which the route has cleared of those that are not for it.
    """
    env = {name: value for name, value in route.environment(os.environ).items() if not name.startswith(_DROPPED)}
    order = {
        **more,
        "fetches": [asdict(fetch) for fetch in fetches],
        "pins": dict(pins),
        "hf_home": str(hf_home),
        "endpoint": route.endpoint,
        "trusted": route.trusted,
        "parent": os.getpid(),
    }
    child = subprocess.Popen(
        [sys.executable, "-m", module],
        env=env | _QUIET | {"HF_HOME": str(hf_home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps(order).encode() + b"\n")
        child.stdin.close()
        yield from _heard(child.stdout.fileno(), stall_seconds)
        if child.wait() != 0:
            how = (
                f"was ended by {signal_name(-child.returncode)}"
                if child.returncode < 0
                else "broke off: see runner.log"
            )
            raise Ended(f"the download {how}")
    finally:
        # Also when the one who listens has heard enough.
        child.kill()
        child.wait()
        child.stdout.close()


def _heard(out: int, stall_seconds: float) -> Iterator[dict[str, Any] | None]:
    rest, patience = b"", max(stall_seconds, START_SECONDS)
    heard = time.monotonic()
    while True:
        if select.select([out], [], [], min(TICK_SECONDS, stall_seconds))[0]:
            if not (data := os.read(out, 1 << 16)):
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield json.loads(line)
            heard, patience = time.monotonic(), stall_seconds
        elif time.monotonic() - heard > patience:
            raise Stalled(f"no byte came for {patience:.0f} s")
        yield None

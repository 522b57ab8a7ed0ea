"""A worker that starts itself anew in place: the same process, so that whoever watches over it sees none end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass, field

#: Carries what the next life must know; taken out of the environment at its start, so that no runner inherits it.
VARIABLE = "PI0Q_WORKER_AGAIN"
#: Seconds of the longest pause before a new life.
LONGEST_PAUSE = 60.0
#: Seconds of life after which earlier ends are forgotten.
HEALTHY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Lives:
    """What a worker knows of its earlier lives."""

    #: How many ended in a row, each soon after its start.
    count: int = 0
    #: Children of whoever started the worker in its own place (a shell's `exec`): pid -> start time.
    strangers: dict[int, int] = field(default_factory=dict)

    def after(self, lived_seconds: float) -> Lives:
        """What the next life knows."""
        return Lives(count=1 if lived_seconds > HEALTHY_SECONDS else self.count + 1, strangers=self.strangers)

    def pause(self, first: float) -> float:
        """Seconds before the next life: `first`, and twice as long each time up to the longest."""
        return min(LONGEST_PAUSE, first * 2.0 ** min(self.count - 1, 16))


def earlier(env: MutableMapping[str, str]) -> Lives | None:
    """The earlier lives of this process; None in its first."""
    text = env.pop(VARIABLE, "")
    if not text:
        return None
    raw = json.loads(text)
    return Lives(count=raw["count"], strangers={int(pid): start for pid, start in raw["strangers"].items()})


def begin(lives: Lives) -> None:
    """Starts this very command anew; never returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    env = {**os.environ, VARIABLE: json.dumps(asdict(lives))}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], env)

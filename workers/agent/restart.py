"""Restart a worker in place: the same process, which owns its runners, executes the command again."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass, field

from pi0q.workers.host.backoff import Backoff

#: Carries what the restarted worker must know; removed from the environment at once: no runner inherits it.
VARIABLE = "PI0Q_WORKER_AGAIN"
#: Seconds of the longest pause before a restart.
LONGEST_PAUSE = 60.0
#: Seconds of uptime after which earlier restarts are forgotten.
HEALTHY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """What a worker knows of its earlier restarts."""

    #: Restarts in a row, each soon after the start before it.
    count: int = 0
    #: Children of the process that the worker replaced (a shell's `exec`): pid -> start time.
    foreign_children: dict[int, int] = field(default_factory=dict)

    def after(self, uptime_seconds: float) -> Restarts:
        """Return what the restarted worker is to know."""
        count = 1 if uptime_seconds > HEALTHY_SECONDS else self.count + 1
        return Restarts(count=count, foreign_children=self.foreign_children)

    def pause(self, first: float) -> float:
        """Return the seconds before the restart: `first`, twice as long each time, at most LONGEST_PAUSE."""
        return Backoff(first=first, longest=LONGEST_PAUSE).delay(self.count)


def earlier(env: MutableMapping[str, str]) -> Restarts | None:
    """Return the earlier restarts of this process; None at its first start."""
    text = env.pop(VARIABLE, "")
    if not text:
        return None
    raw = json.loads(text)
    # `strangers`: the name that workers of earlier versions write, which restart into this one after an upgrade.
    return Restarts(count=raw["count"], foreign_children={int(pid): start for pid, start in raw["strangers"].items()})


def begin(restarts: Restarts) -> None:
    """Execute this very command again; never returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    known = {"count": restarts.count, "strangers": restarts.foreign_children}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, VARIABLE: json.dumps(known)})

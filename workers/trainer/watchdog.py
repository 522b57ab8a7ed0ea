"""Hang detection: no step for far longer than the trainer's steps take."""

from __future__ import annotations

import logging
import math
import re
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.stop import StopCause

#: Steps whose lengths are known; a trainer may be silent for this many of the median one.
WINDOW, STEPS_OF_SILENCE = 100, 20
#: So much longer than for a step it may take to its first one: imports, weights, the first batch.
START = 3
#: Seconds that a cold compile of pi0 may take at the least (more than ten minutes were measured on an H100).
COMPILE_SECONDS = 3600.0
#: Seconds of silence that one look adds at most: while this process stood still, the trainer could not be heard.
LOOK_SECONDS = 2.0

log = logging.getLogger(__name__)

#: Python's own library, in which everything waits.
LIBRARY = re.compile(r"/lib/python3\.\d+/(?!site-packages)")
#: As faulthandler prints a thread and a frame of it.
THREAD = re.compile(r"(?:Current thread|Thread) 0x\w+.*most recent call first")
FRAME = re.compile(r'\s+File "(?P<file>.+)", line (?P<line>\d+) in (?P<name>.+)')


def where(stacks: Sequence[str]) -> str:
    """Return where faulthandler saw the trainer: `_try_get_data (dataloader.py:1288)`; "" if unknown."""
    threads = [index for index, line in enumerate(stacks) if THREAD.search(line)]
    for index in reversed(threads):
        frames = list(takewhile(bool, (FRAME.match(line) for line in stacks[index + 1 :])))
        # Data loaders print theirs as well: the trainer's own has the train script in it.
        if any(frame and "lerobot_train" in frame["file"] for frame in frames):
            own = next((frame for frame in frames if frame and not LIBRARY.search(frame["file"])), frames[0])
            return f"{own['name']} ({own['file'].rpartition('/')[2]}:{own['line']})" if own else ""
    return ""


def keep(stacks: Sequence[str], path: Path) -> Path | None:
    """Write the stacks to a file beside the log, which rotates; None if there are none, or no room."""
    if not any(THREAD.search(line) for line in stacks):
        return None
    try:
        path.write_text("\n".join([*stacks, ""]), encoding="utf-8")
    except OSError:
        return None
    return path


class Watchdog(TrainerListener):
    """Decides from the hook's events whether the trainer hangs; times are seconds of a monotonic clock."""

    def __init__(self, seconds: float, *, compiles: bool, now: float) -> None:
        """`seconds`: the least silence that counts, see Settings.hang_seconds."""
        self.seconds, self.compiles = seconds, compiles
        self._lengths: deque[float] = deque(maxlen=WINDOW)
        #: When the last step was done; None where something else came since.
        self._stepped: float | None = None
        self._began, self._busy, self._done = False, False, False
        self._silent, self._looked = 0.0, now
        #: Whether the trainer sends its steps itself; else it can't be told whether it hangs.
        self._hooked = True
        #: How long it had been silent when it was found to hang, seconds.
        self.hung_after: float | None = None

    def on_event(self, event: Mapping[str, Any]) -> None:
        self.event(event, time.monotonic())

    def check(self) -> StopCause | None:
        silent = self.look(time.monotonic())
        if silent is None or not self._hooked:
            return None
        self.hung_after = silent
        log.info("no step for %.0f s: the hung trainer is stopped; its threads' stacks follow", silent)
        return StopCause.HUNG

    def event(self, event: Mapping[str, Any], now: float) -> None:
        """Note a sign of life. Saves, evaluations, stops and what follows the last step may take any time."""
        self._silent, self._looked, kind = 0.0, now, event.get("event")
        if kind == "start":
            self._hooked = bool(event.get("hooked", True))
        self.compiles = self.compiles or kind == "compiling"
        self._busy = kind in ("saving", "stopping", "evaluating")
        if kind in ("ready", "step"):
            self._done = event.get("step") == event.get("steps")
        if kind == "step" and self._stepped is not None:
            self._lengths.append(now - self._stepped)
        self._began = self._began or kind == "step"
        self._stepped = now if kind == "step" else None

    def limit(self) -> float:
        """Return the seconds that the trainer may be silent now."""
        if self._busy or self._done:
            return math.inf
        if not self._began:
            return max(START * self.seconds, COMPILE_SECONDS if self.compiles else 0.0)
        # A last batch of another size is compiled anew.
        least = START * self.seconds if self.compiles else self.seconds
        return max(least, STEPS_OF_SILENCE * statistics.median(self._lengths or [0.0]))

    def look(self, now: float) -> float | None:
        """Return the seconds that the trainer has been silent if it hangs; None if it does not."""
        self._silent += min(now - self._looked, LOOK_SECONDS)
        self._looked = now
        return self._silent if self._silent >= self.limit() else None

"""Which checkpoints of a run its user keeps: beside them on the disk, for all who remove some."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

#: A file below `checkpoints/`: a list of steps.
NAME = "pi0q.kept.json"


def read(checkpoints: Path) -> frozenset[int]:
    """The steps that are kept, as this disk has it; none where nobody wrote any down."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return frozenset(map(int, json.loads((checkpoints / NAME).read_text())))
    return frozenset()


class Pins:
    """The steps of one run, as the queue said last."""

    def __init__(self, checkpoints: Path, steps: Iterable[int], say: Callable[[str], None]) -> None:
        self.checkpoints, self.say = checkpoints, say
        self._lock = threading.Lock()
        self.steps = frozenset(steps)
        self.write()

    def set(self, steps: Iterable[int]) -> None:
        """These and no others."""
        with self._lock:
            if self.steps != (wanted := frozenset(steps)):
                self.steps = wanted
                self.write()

    def add(self, step: int) -> None:
        """This one too."""
        with self._lock:
            self.steps |= {step}
            self.write()

    def write(self) -> None:
        """Puts them beside the checkpoints, once there are any: LeRobot wants to make their directory itself."""
        path = self.checkpoints / NAME
        try:
            if self.steps and self.checkpoints.is_dir():
                fresh = path.with_suffix(".new")
                fresh.write_text(json.dumps(sorted(self.steps)))
                fresh.replace(path)
            elif not self.steps:
                path.unlink(missing_ok=True)
        except OSError as error:
            self.say(f"which checkpoints are kept could not be written down beside them: {error}")

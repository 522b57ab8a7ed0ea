"""Which checkpoints of a run its user keeps: written beside them, for everything that removes checkpoints."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from pi0q.workers.host import files

log = logging.getLogger(__name__)

#: A file below `checkpoints/`: a list of steps.
NAME = "pi0q.kept.json"


def read(checkpoints: Path) -> frozenset[int]:
    """Return the pinned steps as this disk has them; none where the file is missing."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return frozenset(map(int, json.loads((checkpoints / NAME).read_text())))
    return frozenset()


class Pins:
    """The steps of one run that are kept: pinned, as the queue last reported them, and the best one."""

    def __init__(self, checkpoints: Path, steps: Iterable[int]) -> None:
        self.checkpoints = checkpoints
        self._lock = threading.Lock()
        self._pinned, self._best = frozenset(steps), frozenset[int]()
        self.write()

    @property
    def steps(self) -> frozenset[int]:
        """Return all steps whose checkpoints are kept."""
        return self._pinned | self._best

    def set(self, steps: Iterable[int]) -> None:
        """Pin these steps and no others."""
        with self._lock:
            if self._pinned != (wanted := frozenset(steps)):
                self._pinned = wanted
                self.write()

    def add(self, step: int) -> None:
        """Pin one more step."""
        with self._lock:
            self._pinned |= {step}
            self.write()

    def keep_best(self, step: int | None) -> None:
        """Keep this step as the best one in place of the one before; None for none."""
        with self._lock:
            if self._best != (wanted := frozenset(() if step is None else (step,))):
                self._best = wanted
                self.write()

    def write(self) -> None:
        """Write the steps beside the checkpoints, once there are any: LeRobot creates their directory itself."""
        path = self.checkpoints / NAME
        try:
            if self.steps and self.checkpoints.is_dir():
                files.write_atomic(path, json.dumps(sorted(self.steps)))
            elif not self.steps:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.info("could not write down which checkpoints are pinned: %s", error)

"""SwanLab runs as they lie in a run's directory: what of them SwanLab does not have yet.

Each life of the trainer leaves one directory, which it alone writes; all have the id of the job's one run. How much of
it was sent is marked beside its file.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pi0q.workers.host import files
from pi0q.workers.runs.run_directory import RunDirectory

#: The mark: how many bytes of the file were sent, whether it was at its end then, and when.
MARK = "pi0q.sent.json"
#: Bytes of a file that holds the head and no numbers: killed as it began.
EMPTY = 64
_RUN = re.compile(r"run-(\d{8}_\d{6})-(.+)")


@dataclass(frozen=True, kw_only=True)
class Life:
    """What one life of the trainer wrote."""

    path: Path
    #: Bytes of its file.
    size: int
    #: Bytes of it that were sent.
    sent: int = 0
    #: When they were, seconds since 1970.
    sent_at: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether SwanLab has all that is there now."""
        return self.size <= max(self.sent, EMPTY)

    def mark_sent(self, size: int) -> None:
        """Note that SwanLab has the first `size` bytes."""
        files.write_atomic(self.path / MARK, json.dumps({"bytes": size, "at": time.time()}))


def lives(directory: RunDirectory) -> list[Life]:
    """Return them, the oldest first."""
    found = [path for path in directory.swanlab.glob("run-*") if _RUN.fullmatch(path.name) and not path.is_symlink()]
    return list(_lives(sorted(found)))


def _lives(paths: list[Path]) -> Iterator[Life]:
    for path in paths:
        try:
            (file,) = path.glob("run-*.swanlab")
            size = file.stat().st_size
        except (OSError, ValueError):
            continue
        try:
            mark = json.loads((path / MARK).read_text(encoding="utf-8"))
            yield Life(path=path, size=size, sent=int(mark["bytes"]), sent_at=float(mark["at"]))
        except (OSError, ValueError, KeyError, TypeError):
            yield Life(path=path, size=size)


def unsent(directory: RunDirectory) -> list[Life]:
    """Return the lives of which SwanLab does not have all, the oldest first."""
    return [life for life in lives(directory) if not life.complete]


def megabytes(found: list[Life]) -> float:
    """Return what is left to send, MB."""
    return sum(life.size - life.sent for life in found) / 1e6

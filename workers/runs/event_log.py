"""Log of the trainer's events: whole lines or none, also on a full disk; a write never waits."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

#: Bytes after which events are no longer written down (a step is some 150 of them); the record goes on.
LONGEST_BYTES = 256 * 1024 * 1024


class EventLog:
    """Append-only file of lines with one writer."""

    def __init__(self, path: Path, *, longest: int = LONGEST_BYTES) -> None:
        # Unbuffered: what a full disk refuses is lost, and nothing waits to be refused again.
        self._file = path.open("ab", buffering=0)
        self._longest = longest

    def add(self, line: bytes) -> None:
        """Add one line without its end; it is lost where the disk has no room, or the file its longest size."""
        with contextlib.suppress(OSError):
            before = os.fstat(self._file.fileno()).st_size
            if before + len(line) >= self._longest:
                return
            if self._file.write(line + b"\n") <= len(line):
                self._file.truncate(before)

    def close(self) -> None:
        self._file.close()

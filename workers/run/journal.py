"""A file of lines that a full disk can't tear: a line is there whole or not at all, and nobody waits for it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Journal:
    """Lines added to a file, by one writer."""

    def __init__(self, path: Path) -> None:
        # Unbuffered: what a full disk refuses is lost, and nothing waits to be refused again.
        self._file = path.open("ab", buffering=0)

    def add(self, line: bytes) -> None:
        """One line without its end; lost where the disk has no room for it."""
        with contextlib.suppress(OSError):
            before = os.fstat(self._file.fileno()).st_size
            if self._file.write(line + b"\n") <= len(line):
                self._file.truncate(before)

    def close(self) -> None:
        self._file.close()

"""The backup of the jobs' records on the server's machine: files of JSON lines, 0600; the last line of a job counts.

    PI0Q_HOME/server/backup/records-20261130T064500Z.jsonl

Changes are added at the end of the newest file. Once a day, and when it has grown to twice its size, a new one begins
with what counts; older ones stay, as far as FILES goes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

from pi0q.jobs.errors import UsageError
from pi0q.jobs.job_id import is_job_id
from pi0q.ops.server.backup.damage import MOST_BYTES, Kept, Mark
from pi0q.workers.host.files import fsync_directory

FOLDER = "backup"
#: Files that are kept.
FILES = 8
#: Bytes by which a file may grow before a new one begins, whatever its size.
GROWTH = 16 << 20
DAY_SECONDS = 86_400.0
HEADER = {"pi0q": "records", "version": 1}


def files(data: Path) -> list[Path]:
    """Return the backups of a server's data directory, the newest first."""
    return sorted((data / FOLDER).glob("records-*.jsonl"), reverse=True)


def lines(file: BinaryIO) -> Iterator[tuple[str, int, Kept | None]]:
    """Yield each job of a backup with its line's place; None where its record was removed. Torn lines are left out."""
    place = file.tell()
    # One byte more than a line may have.
    while line := file.readline(4 * MOST_BYTES):
        if found := _parsed(line):
            yield found[0], place, found[1]
        place += len(line)


def _parsed(line: bytes) -> tuple[str, Kept | None] | None:
    try:
        raw = json.loads(line)
        if not isinstance(raw, dict) or not is_job_id(raw.get("id")):
            return None
        if raw.get("removed"):
            return raw["id"], None
        fields, history = raw["fields"], raw["history"]
        if not isinstance(fields, dict) or not isinstance(history, list):
            return None
        texts = {str(name): str(text) for name, text in fields.items()}
        return raw["id"], Kept(fields=texts, history=tuple(map(str, history)))
    except (ValueError, KeyError, RecursionError):
        return None


def read(path: Path) -> dict[str, int]:
    """Return where the line of each job begins in a backup. Raises UsageError for a file that is none."""
    try:
        with path.open("rb") as file:
            head = json.loads(file.readline(1000) or b"{}")
            if not isinstance(head, dict) or any(head.get(name) != value for name, value in HEADER.items()):
                raise ValueError
            places: dict[str, int] = {}
            for job, place, kept in lines(file):
                if kept is None:
                    places.pop(job, None)
                else:
                    places[job] = place
            return places
    except OSError as error:
        raise UsageError(f"Can't read {path}: {error.strerror}. Nothing was changed.") from None
    except ValueError:
        raise UsageError(f"{path} is no backup of pi0q. Nothing was changed.\nFix: ls {path.parent}") from None


def kept_at(path: Path, place: int) -> Kept | None:
    """Return the record whose line begins at this place of a backup; None where it can't be read."""
    with path.open("rb") as file:
        file.seek(place)
        return next((kept for _, _, kept in lines(file)), None)


class Journal:
    """The newest backup, to which changes are added. One process writes it: the keeper of `pi0q up`."""

    def __init__(self, data: Path, now: float) -> None:
        """Go on with the newest backup, or begin the first one. Raises OSError."""
        self.folder = data / FOLDER
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.marks: dict[str, Mark] = {}
        self._places: dict[str, int] = {}
        self._file: BinaryIO | None = None
        self._is_flushed = True
        for path in files(data):
            try:
                self._places = read(path)
            except UsageError:
                continue
            self._go_on(path)
            return
        self._begin(now, None)

    def add(self, job: str, kept: Kept) -> None:
        """Keep a job's record as it is now. Raises OSError."""
        place = self._write({"id": job, "fields": dict(kept.fields), "history": list(kept.history)})
        self._places[job], self.marks[job] = place, kept.mark

    def remove(self, job: str) -> None:
        """Drop a job that an admin removed. Raises OSError."""
        self._write({"id": job, "removed": True})
        self._places.pop(job, None)
        self.marks.pop(job, None)

    def flush(self, now: float) -> None:
        """Bring all to the disk; begin a new file where it is time for one. Raises OSError."""
        assert self._file is not None
        if self._is_flushed:
            return
        os.fsync(self._file.fileno())
        self._is_flushed = True
        if self._file.tell() > 2 * self._size + GROWTH or not 0 <= now - self._began < DAY_SECONDS:
            self._begin(now, self.path)

    def close(self) -> None:
        """Close the file; what was added is in it."""
        if self._file is not None:
            self._file.close()

    def _write(self, line: Mapping[str, object]) -> int:
        assert self._file is not None
        place = self._file.tell()
        self._file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self._file.flush()
        self._is_flushed = False
        return place

    def _go_on(self, path: Path) -> None:
        """Add to an earlier file from now on; its last line may be torn."""
        file = os.fdopen(os.open(path, os.O_RDWR), "r+b")
        for job, place in self._places.items():
            file.seek(place)
            if kept := next((kept for _, _, kept in lines(file)), None):
                self.marks[job] = kept.mark
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) != b"\n":
            file.write(b"\n")
        self._file, self.path, self._size, self._began = file, path, file.tell(), path.stat().st_ctime
        if began := re.search(r"-(\d{8}T\d{6})Z", path.name):
            stamp = datetime.strptime(began[1], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)
            self._began = stamp.timestamp()

    def _begin(self, now: float, before: Path | None) -> None:
        """Write what counts into a new file, and remove the oldest ones."""
        stamp = datetime.fromtimestamp(now, timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        path = self.folder / f"records-{stamp}.jsonl"
        if before is not None and path.name <= before.name:
            # The clock went back, or two begin in one second.
            path = before.with_name(f"{before.stem}+.jsonl")
        partial = path.with_suffix(".part")
        old, places = self._file, self._places
        fresh = os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b")
        fresh.write(json.dumps(HEADER).encode() + b"\n")
        self._file, self._places = fresh, {}
        if old is not None:
            for job, place in places.items():
                old.seek(place)
                if kept := next((kept for _, _, kept in lines(old)), None):
                    self.add(job, kept)
        fresh.flush()
        os.fsync(fresh.fileno())
        partial.replace(path)
        fsync_directory(self.folder)
        if old is not None:
            old.close()
        self.path, self._size, self._began, self._is_flushed = path, fresh.tell(), now, True
        for outdated in files(self.folder.parent)[FILES:]:
            outdated.unlink(missing_ok=True)

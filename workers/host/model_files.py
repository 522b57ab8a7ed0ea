"""Reads and judges the model files in a directory of this box, before a trainer is started on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pi0q.jobs.safety import allowed_code
from pi0q.jobs.safety.findings import Finding, Use, Verdict
from pi0q.jobs.safety.pretrained import Files, judge, needed
from pi0q.jobs.safety.strict_json import MOST_BYTES
from pi0q.queue.settings import Settings
from pi0q.workers.host.own_files import Untrusted, open_for_reading
from pi0q.workers.host.places import others_can_write

#: Files of one directory that are looked at; a model has some dozens.
MOST_FILES = 10_000


def judge_directory(directory: Path, use: Use, lerobot: str, *, allowed: frozenset[str], trusted: bool) -> Verdict:
    """What LeRobot would run of the files in a directory.

    `trusted`: the box's owner or pi0q itself chose where it lies; else it is refused where another user can write it.
    Links are followed only inside a snapshot of the Hub's cache, and there only to the same repository's files.
    """
    bounds = _bounds(directory)
    try:
        names = frozenset(_names(directory))
        if why := "" if trusted else others_can_write(directory.stat()):
            raise Untrusted(f"{directory} {why}")
        contents = {name: _read(directory / name, bounds, trusted) for name in needed(use, names)}
    except OSError as error:
        return Verdict(findings=(Finding(file=str(directory), what=f"can't be read safely: {error}"),))
    return judge(use, Files(names=names, contents=contents, allowed_code=allowed), lerobot)


def code_hashes(settings: Settings) -> frozenset[str]:
    """Hashes of Python files that may run out of a repository, pi0q's and the owner's. Raises ValueError, OSError."""
    if settings.allow_code is None:
        return allowed_code.SHIPPED
    return allowed_code.SHIPPED | allowed_code.parse(settings.allow_code.read_text(encoding="utf-8"))


def _bounds(directory: Path) -> Path | None:
    """The tree in which links may lead: a snapshot's repository in a cache; None elsewhere."""
    return directory.parent.parent.resolve() if directory.parent.name == "snapshots" else None


def _names(directory: Path) -> Iterator[str]:
    count = 0
    for folder, folders, files in os.walk(directory, onerror=_raise):
        # Of a link to a directory nothing is read.
        folders[:] = [name for name in folders if not (Path(folder) / name).is_symlink()]
        for name in files:
            count += 1
            if count > MOST_FILES:
                raise OSError(f"it holds more than {MOST_FILES} files")
            yield str((Path(folder) / name).relative_to(directory))


def _raise(error: OSError) -> None:
    raise error


def _read(path: Path, bounds: Path | None, trusted: bool) -> bytes:
    if path.is_symlink() and bounds is not None:
        real = path.resolve()
        if not real.is_relative_to(bounds):
            raise Untrusted(f"{path} is a link that leads out of its repository")
        path = real
    with open_for_reading(path) as file:
        if why := "" if trusted else others_can_write(os.fstat(file.fileno())):
            raise Untrusted(f"{path} {why}")
        return file.read(MOST_BYTES + 1)

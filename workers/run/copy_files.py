"""A checkpoint from one directory to another, file by file: taken up where a kill left it, checked where it arrived.

target/pretrained_model/model.safetensors.part     on its way; taken up behind the bytes that are there
target/pi0q.arrived.jsonl                           files that have arrived and were read back: never sent again
target/pi0q.manifest.json                           last
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pi0q.jobs.checkpoint import MANIFEST, File, Manifest, missing, step_of
from pi0q.jobs.copies import within

ARRIVED = "pi0q.arrived.jsonl"
#: Bytes read at once.
CHUNK = 4 * 1024 * 1024
#: Bytes after which what was written is put on the disk: pages that wait for it count as this container's memory, and
#: a trainer that saves meanwhile would wait behind them.
SETTLED_EVERY = 64 * 1024 * 1024


class Lost(Exception):
    """The lease under which it is written is over; nothing more is changed."""


class Damaged(Exception):
    """What is to be copied is not what its manifest says; the text says what."""


class WrongBytes(Exception):
    """What arrived is not what was sent; it was removed."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Who looks on while a checkpoint is copied."""

    #: Told of each number of bytes that went through; raises Lost.
    tick: Callable[[int], None]
    #: Raises Lost once the lease is over: asked before each change that others see.
    must: Callable[[], None]
    #: Told how many bytes it will be.
    expect: Callable[[int], None]


#: Brings one file: its path in the checkpoint, where it goes, what it must be.
Bring = Callable[[str, Path, File], None]


def read_manifest(checkpoint: Path) -> tuple[Manifest, str]:
    """A checkpoint's manifest and its text. Raises Damaged, and OSError where there is none."""
    text = (checkpoint / MANIFEST).read_bytes().decode("utf-8", "replace")
    return parsed(text, step_of(checkpoint.name)), text


def parsed(text: str, step: int | None) -> Manifest:
    """The manifest of the checkpoint of this step. Raises Damaged."""
    try:
        manifest = Manifest.from_json(json.loads(text))
        for path in manifest.files:
            within(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"its manifest can't be read: {error}") from None
    if manifest.step != step or missing(manifest.files):
        raise Damaged("its manifest is not that of a whole checkpoint of this step")
    return manifest


def lay(target: Path, manifest: Manifest, text: str, *, bring: Bring, watched: Watched) -> None:
    """Makes `target` the checkpoint of this manifest, each file as `bring` brings it; the manifest comes last.

    Raises what `bring` raises, and Lost; what has arrived is kept for the next try.
    """
    watched.expect(manifest.bytes)
    # Now and never again: where an owner after us took the directory away, the next file finds none.
    for folder in {target, *((target / path).parent for path in manifest.files)}:
        folder.mkdir(parents=True, exist_ok=True)
    arrived = _arrived(target)
    with (target / ARRIVED).open("a", encoding="utf-8") as noted:
        for path, file in sorted(manifest.files.items()):
            place = target / path
            if arrived.get(path) == file.sha256 and _size(place) == file.bytes:
                watched.tick(file.bytes)
                continue
            bring(path, place, file)
            noted.write(json.dumps({"path": path, "sha256": file.sha256}) + "\n")
            noted.flush()
            os.fsync(noted.fileno())
    for folder in {target, *((target / path).parent for path in manifest.files)}:
        settle(folder)
    watched.must()
    (target / MANIFEST).write_text(text, encoding="utf-8")
    settle(target / MANIFEST)
    (target / ARRIVED).unlink()
    settle(target)


def from_directory(source: Path, watched: Watched) -> Bring:
    """Brings the files of the checkpoint in a directory. Raises Damaged, WrongBytes, Lost and OSError."""

    def bring(path: str, place: Path, file: File) -> None:
        _bring(source / path, place, path, file, watched)

    return bring


def adopt(part: Path) -> None:
    """Makes what another run began safe to go on with: it may still hold a file on its way open, and no other."""
    for path in part.rglob("*.part"):
        path.unlink()


def settle(path: Path) -> None:
    """Puts it on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems know no fsync of a directory.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def digest(path: Path, watched: Watched) -> str:
    """SHA-256 of a file, read from its disk."""
    told = hashlib.sha256()
    with path.open("rb") as file:
        _forget(file)
        while chunk := file.read(CHUNK):
            told.update(chunk)
            watched.tick(0)
        _forget(file)
    return told.hexdigest()


def _bring(source: Path, target: Path, path: str, file: File, watched: Watched) -> None:
    part = target.with_name(target.name + ".part")
    _send(source, part, watched)
    if _size(part) != file.bytes or digest(part, watched) != file.sha256:
        part.unlink()
        # Either end may have the wrong bytes.
        if _size(source) != file.bytes or digest(source, watched) != file.sha256:
            raise Damaged(f"{path} has other bytes than were saved")
        raise WrongBytes(f"{path} arrived with other bytes than were sent")
    watched.must()
    part.replace(target)


def _send(source: Path, part: Path, watched: Watched) -> None:
    with source.open("rb") as there, part.open("ab") as here:
        done = here.tell()
        if done > os.fstat(there.fileno()).st_size:
            here.truncate(0)
            done = 0
        there.seek(done)
        watched.tick(done)
        unsettled = 0
        while chunk := there.read(CHUNK):
            watched.tick(len(chunk))
            here.write(chunk)
            unsettled += len(chunk)
            if unsettled >= SETTLED_EVERY:
                _settle_and_forget(here, there)
                unsettled = 0
        _settle_and_forget(here, there)


def _settle_and_forget(here: IO[bytes], there: IO[bytes]) -> None:
    here.flush()
    os.fsync(here.fileno())
    _forget(here)
    _forget(there)


def _forget(file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _arrived(target: Path) -> Mapping[str, str]:
    found = {}
    with contextlib.suppress(OSError):
        for line in (target / ARRIVED).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                told = json.loads(line)
                found[str(told["path"])] = str(told["sha256"])
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1

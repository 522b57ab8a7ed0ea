"""Resumable, verified transfer of a checkpoint, file by file: continued after a kill, checked where it arrived.

target/pretrained_model/model.safetensors.part     incomplete; continued behind the bytes that are there
target/pi0q.arrived.jsonl                           files that arrived and were read back: never sent again
target/pi0q.manifest.json                           written last
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pi0q.jobs.checkpoint import MANIFEST, File, Manifest, missing, step_of
from pi0q.jobs.replicas import within
from pi0q.workers.host import files, own_files

ARRIVED = "pi0q.arrived.jsonl"
#: Bytes read at once.
CHUNK = 4 * 1024 * 1024
#: Bytes after which the written ones are flushed: dirty pages count as this container's memory, and a trainer that
#: saves meanwhile would wait behind them.
FLUSH_EVERY = 64 * 1024 * 1024


class Damaged(Exception):
    """The source is not what its manifest says; the text says what differs."""


class Foreign(Damaged):
    """A complete copy that the job's record does not name: somebody else may have put it there."""


class Unsigned(Foreign):
    """A complete copy that no box whom this one trusts has signed. It stays: its owner may allow it."""


class TransferCorrupted(Exception):
    """The bytes that arrived are not the bytes that were sent; they were removed."""


@dataclass(frozen=True, kw_only=True)
class TransferHooks:
    """What is called while a checkpoint is transferred."""

    #: Count bytes that were transferred; raises OwnershipLost.
    count: Callable[[int], None]
    #: Raise OwnershipLost once the lease has ended: called before each change that others see.
    require_lease: Callable[[], None]
    #: Take the number of bytes of the whole transfer.
    expect: Callable[[int], None]
    #: Raise Damaged for the manifest of a copy that may not be brought back.
    judge: Callable[[Manifest], None] = lambda _: None


#: Fetches one file: its path in the checkpoint, the target path, what it must be.
FetchFile = Callable[[str, Path, File], None]


def read_manifest(checkpoint: Path) -> tuple[Manifest, str]:
    """Return a checkpoint's manifest and its text. Raises Damaged, and OSError where there is none."""
    with own_files.open_for_reading(checkpoint / MANIFEST) as file:
        text = file.read().decode("utf-8", "replace")
    return parse_manifest(text, step_of(checkpoint.name)), text


def parse_manifest(text: str, step: int | None) -> Manifest:
    """Return the manifest of the checkpoint of this step. Raises Damaged."""
    try:
        manifest = Manifest.from_json(json.loads(text))
        for path in manifest.files:
            within(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"its manifest can't be read: {error}") from None
    if manifest.step != step or missing(manifest.files):
        raise Damaged("its manifest is not that of a complete checkpoint of this step")
    return manifest


def require_known(text: str, known: Collection[str] | None) -> None:
    """Raise Foreign for a manifest whose SHA-256 is not among these; None: it is not known which ones count."""
    if known is not None and hashlib.sha256(text.encode()).hexdigest() not in known:
        raise Foreign("the job's record does not name its manifest")


def assemble(target: Path, manifest: Manifest, text: str, *, fetch: FetchFile, hooks: TransferHooks) -> None:
    """Make `target` the checkpoint of this manifest, file by file with `fetch`; the manifest comes last.

    Raises what `fetch` raises, and OwnershipLost; what has arrived is kept for the next try.
    """
    hooks.expect(manifest.bytes)
    # Only once: where a later owner has moved the directory away, the next file must find none.
    for folder in {target, *((target / path).parent for path in manifest.files)}:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            raise own_files.Untrusted(f"{folder} is a link")
    arrived = _read_arrived(target)
    with io.TextIOWrapper(own_files.open_for_writing(target / ARRIVED, append=True), encoding="utf-8") as noted:
        for path, file in sorted(manifest.files.items()):
            place = target / path
            if arrived.get(path) == file.sha256 and _size(place) == file.bytes:
                hooks.count(file.bytes)
                continue
            fetch(path, place, file)
            noted.write(json.dumps({"path": path, "sha256": file.sha256}) + "\n")
            noted.flush()
            os.fsync(noted.fileno())
    for folder in {target, *((target / path).parent for path in manifest.files)}:
        files.fsync(folder)
    hooks.require_lease()
    with own_files.open_for_writing(target / MANIFEST) as written:
        written.write(text.encode())
    files.fsync(target / MANIFEST)
    (target / ARRIVED).unlink()
    files.fsync(target)


def from_directory(source: Path, hooks: TransferHooks) -> FetchFile:
    """Return a function that copies files out of a checkpoint directory.

    The function raises Damaged, TransferCorrupted, OwnershipLost and OSError.
    """

    def fetch(path: str, place: Path, file: File) -> None:
        _copy_file(source / path, place, path, file, hooks)

    return fetch


def discard_partial_files(part: Path) -> None:
    """Make the copy that another run began safe to continue: that run may still write to its incomplete file."""
    for path in part.rglob("*.part"):
        path.unlink()


def sha256_of(path: Path, hooks: TransferHooks) -> str:
    """Return the SHA-256 of a file, read from its disk instead of the page cache."""
    digest = hashlib.sha256()
    with own_files.open_for_reading(path) as file:
        _drop_pages(file)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            hooks.count(0)
        _drop_pages(file)
    return digest.hexdigest()


def _copy_file(source: Path, target: Path, path: str, file: File, hooks: TransferHooks) -> None:
    part = target.with_name(target.name + ".part")
    _append(source, part, hooks)
    if _size(part) != file.bytes or sha256_of(part, hooks) != file.sha256:
        part.unlink()
        # Either end may have the wrong bytes.
        if _size(source) != file.bytes or sha256_of(source, hooks) != file.sha256:
            raise Damaged(f"{path} has other bytes than were saved")
        raise TransferCorrupted(f"{path} arrived with other bytes than were sent")
    hooks.require_lease()
    part.replace(target)


def _append(source: Path, part: Path, hooks: TransferHooks) -> None:
    with own_files.open_for_reading(source) as there, own_files.open_for_writing(part, append=True) as here:
        done = here.tell()
        if done > os.fstat(there.fileno()).st_size:
            here.truncate(0)
            done = 0
        there.seek(done)
        hooks.count(done)
        unflushed = 0
        while chunk := there.read(CHUNK):
            hooks.count(len(chunk))
            here.write(chunk)
            unflushed += len(chunk)
            if unflushed >= FLUSH_EVERY:
                _flush_and_drop(here, there)
                unflushed = 0
        _flush_and_drop(here, there)


def _flush_and_drop(here: IO[bytes], there: IO[bytes]) -> None:
    here.flush()
    os.fsync(here.fileno())
    _drop_pages(here)
    _drop_pages(there)


def _drop_pages(file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_arrived(target: Path) -> Mapping[str, str]:
    arrived = {}
    with contextlib.suppress(OSError):
        for line in (target / ARRIVED).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                arrived[str(entry["path"])] = str(entry["sha256"])
    return arrived


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1

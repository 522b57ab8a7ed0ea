"""Pack a box's compiled kernels into an archive, and unpack one; what does not verify is not left behind.

pack(caches, folder, compiled_for, count)     folder/kernels.tar and its manifest, written last
unpack(folder, into, …)                       into/inductor/…, into/triton/… as plain files (0644), or nothing
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from pi0q.jobs import compiled_kernels
from pi0q.jobs.checkpoint import File
from pi0q.jobs.compiled_kernels import ARCHIVE, LARGEST_FILE, MANIFEST, MOST_BYTES, MOST_FILES, BadArchive, Manifest
from pi0q.workers.host import files, own_files

#: Bytes read at once.
CHUNK = 4 * 1024 * 1024
#: Triton's lists of the files of one kernel hold absolute paths: this stands for the directory of the caches meanwhile.
HERE, GROUP = b"[pi0q-caches]", "__grp__"
#: Notes bytes that were read or written; may raise to end the work.
Count = Callable[[int], None]


def pack(caches: Path, folder: Path, compiled_for: Mapping[str, Any], count: Count) -> str:
    """Write the archive of these caches into `folder` and return its manifest's text. Raises BadArchive, OSError.

    Files that are made or removed meanwhile by a training belong to it or not; a file is packed as it was read.
    """
    packed, total = dict[str, File](), 0
    with own_files.open_for_writing(folder / ARCHIVE) as out:
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
            for path, data in _kernels(caches, gpu=bool(compiled_for.get("gpus"))):
                total += len(data)
                if len(packed) >= MOST_FILES or total > MOST_BYTES:
                    raise BadArchive(f"this box holds more than {MOST_FILES} files or {MOST_BYTES >> 30} GiB of them")
                if not _add(tar, path, data):
                    continue
                packed[path] = File(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
                count(len(data))
        out.flush()
        os.fsync(out.fileno())
    if not packed:
        raise BadArchive("this box has compiled nothing")
    with own_files.open_for_reading(folder / ARCHIVE) as written:
        archive = _hash(written, count)
    text = Manifest(compiled_for=compiled_for, archive=archive, files=packed).to_text()
    write_manifest(folder, text)
    return text


def write_manifest(folder: Path, text: str) -> None:
    """Write a manifest, and flush it to the disk. Raises OSError."""
    with own_files.open_for_writing(folder / MANIFEST) as out:
        out.write(text.encode())
        out.flush()
        os.fsync(out.fileno())
    files.fsync(folder)


def read_manifest(folder: Path) -> str:
    """Return the text of an archive's manifest. Raises BadArchive, OSError."""
    with own_files.open_for_reading(folder / MANIFEST) as file:
        data = file.read(compiled_kernels.MOST_MANIFEST_BYTES + 1)
    if len(data) > compiled_kernels.MOST_MANIFEST_BYTES:
        raise BadArchive("its manifest is too large")
    return data.decode("utf-8", "replace")


def unpack(folder: Path, into: Path, text: str, *, key: str, count: Count) -> Manifest:
    """Make `into` the caches of an archive whose manifest has this text. Raises BadArchive, OSError.

    Every byte is hashed before `into` is there; what was there goes.
    """
    manifest, part = Manifest.from_text(text, key=key), into.with_name(f"{into.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with own_files.open_for_reading(folder / ARCHIVE) as archive:
            size = os.fstat(archive.fileno()).st_size
            if size != manifest.archive.bytes or _hash(archive, count) != manifest.archive:
                raise BadArchive("its archive has other bytes than were packed")
            archive.seek(0)
            _extract(archive, part, manifest, count)
        for path in manifest.files:
            if path.rpartition("/")[2].startswith(GROUP):
                (part / path).write_bytes((part / path).read_bytes().replace(HERE, _quoted(into)))
        write_manifest(part, text)
        if into.exists():
            shutil.rmtree(into)
        part.rename(into)
        files.fsync(into.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _kernels(caches: Path, *, gpu: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the files of both caches that may travel, by path."""
    for part in compiled_kernels.PARTS:
        for place, folders, names in os.walk(caches / part):
            folders.sort()
            for name in sorted(names):
                path = str(Path(place, name).relative_to(caches))
                if not compiled_kernels.may_hold(path) or name.endswith((".lock", ".tmp", ".pyc")) or "/locks/" in path:
                    continue
                # Made for this very processor (-march=native): on another one it could die. torch makes it anew.
                if gpu and part == "inductor" and name.endswith(".so"):
                    continue
                with contextlib.suppress(FileNotFoundError, own_files.Untrusted):
                    with own_files.open_for_reading(Path(place, name)) as file:
                        data = file.read(LARGEST_FILE + 1)
                    if len(data) <= LARGEST_FILE:
                        yield path, data.replace(_quoted(caches), HERE) if name.startswith(GROUP) else data


def _quoted(caches: Path) -> bytes:
    """Return a path as it stands inside a text of JSON."""
    return json.dumps(str(caches)).encode()[1:-1]


def _add(tar: tarfile.TarFile, path: str, data: bytes) -> bool:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(data), 0o644
    try:
        tar.addfile(entry, io.BytesIO(data))
    except ValueError:
        # USTAR has no room for the name; torch compiles that kernel anew.
        return False
    return True


def _extract(archive: IO[bytes], part: Path, manifest: Manifest, count: Count) -> None:
    left = dict(manifest.files)
    try:
        with tarfile.open(fileobj=archive, mode="r|") as tar:
            for entry in tar:
                wanted = left.pop(entry.name, None)
                source = tar.extractfile(entry) if entry.type == tarfile.REGTYPE else None
                if wanted is None or source is None or entry.size != wanted.bytes:
                    raise BadArchive(f"it holds {entry.name[:100]!r}, which its manifest does not name so")
                _write(source, part / entry.name, wanted, count)
    except tarfile.TarError as error:
        raise BadArchive(f"its archive can't be read: {error}") from None
    if left:
        raise BadArchive(f"{len(left)} files that its manifest names are not in it")


def _write(source: IO[bytes], path: Path, wanted: File, count: Count) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with own_files.open_for_writing(path) as out:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            out.write(chunk)
            count(len(chunk))
    if digest.hexdigest() != wanted.sha256:
        raise BadArchive("a file in it has other bytes than were packed")


def _hash(file: IO[bytes], count: Count) -> File:
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
        count(len(chunk))
    return File(bytes=size, sha256=digest.hexdigest())

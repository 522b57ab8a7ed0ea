"""Download one file's content into the cache: resumed where it was cut, checked by hash before it counts.

huggingface_hub does neither: its 1.x starts every interrupted file anew and none of its versions checks the
hash. Parts are named as its 0.3x names them, so that parts which it left are resumed, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pi0q.jobs.outcome import Reason
from pi0q.workers.hub.errors import WrongBytes, classify

#: Bytes read from the network before they are written: what a kill can cost, for each file that is downloaded.
CHUNK = 256 * 1024
#: Bytes read at once from the disk to be hashed.
READ = 1024 * 1024
#: Seconds to connect, and seconds without a byte, after which a connection is closed.
TIMEOUTS = (10.0, 60.0)
#: Seconds before each further try of a file, as long as no try gets a byte.
PAUSES_SECONDS = (0.0, 1.0, 5.0)

#: Called with each number of bytes that were read.
Count = Callable[[int], None]


class Digest:
    """Hash that a blob is named after, of the bytes fed so far."""

    def __init__(self, blob: Blob) -> None:
        self.blob = blob
        self._hash = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(b"blob %d\0" % blob.size)

    def feed(self, data: bytes) -> None:
        self._hash.update(data)

    def feed_file(self, file: IO[bytes], count: Count) -> int:
        """Feed all of an open file; return its length."""
        length = file.seek(0)
        while data := file.read(READ):
            self.feed(data)
            length += len(data)
            count(len(data))
        # 14 GB in the page cache count as this container's memory.
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return length

    def check(self) -> None:
        """Raise WrongBytes unless what was fed is the blob."""
        if self._hash.hexdigest() != self.blob.name:
            raise WrongBytes(
                f"its {self._hash.name.upper()} is {self._hash.hexdigest()[:12]}, not {self.blob.name[:12]}"
            )


def matches(path: Path, blob: Blob, count: Count) -> bool:
    """Return whether a file on the disk is this blob, to the last byte."""
    try:
        if path.stat().st_size != blob.size:
            return False
        digest = Digest(blob)
        with path.open("rb") as file:
            digest.feed_file(file, count)
        digest.check()
    except (WrongBytes, FileNotFoundError):
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a file's content is downloaded from."""

    url: str
    headers: Mapping[str, str]
    #: Called with each number of bytes read, from the network or from the part on the disk.
    count: Count


def download(source: Source, blob: Blob, folder: Path) -> None:
    """Write `folder/NAME`, resuming what an earlier try left in `folder/NAME.incomplete`.

    The caller holds the file's lock. Raises WrongBytes, having removed the part, or what the network or the
    disk raised; the part is then kept.
    """
    part = folder / f"{blob.name}.incomplete"
    with part.open("ab+") as file:
        try:
            _fill(source, blob, file).check()
        except WrongBytes:
            part.unlink()
            raise
        file.flush()
        os.fsync(file.fileno())
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    part.replace(folder / blob.name)


def _fill(source: Source, blob: Blob, file: IO[bytes]) -> Digest:
    """Connect until the part is as long as the blob; a cut after new bytes resets the pauses."""
    digest = Digest(blob)
    have = digest.feed_file(file, source.count)
    pauses = iter(PAUSES_SECONDS)
    while have < blob.size:
        before = have
        try:
            with _opened(source, have) as (partial, chunks):
                if not partial:
                    file.truncate(0)
                    digest, have, before = Digest(blob), 0, 0
                for chunk in chunks:
                    have += len(chunk)
                    if have > blob.size:
                        break
                    file.write(chunk)
                    digest.feed(chunk)
                    source.count(len(chunk))
        except Exception as error:
            file.flush()
            if not _is_transient(error):
                raise
            pauses = iter(PAUSES_SECONDS) if have > before else pauses
            if (pause := next(pauses, None)) is None:
                raise
            time.sleep(pause)
        else:
            if have == before:
                raise WrongBytes(f"it ends after {have} of {blob.size} bytes")
    if have > blob.size:
        raise WrongBytes(f"it has more than {blob.size} bytes")
    return digest


@contextlib.contextmanager
def _opened(source: Source, have: int) -> Iterator[tuple[bool, Iterator[bytes]]]:
    """Request what follows the first `have` bytes; give whether just that comes (else all), and its chunks."""
    from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

    headers = {**source.headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    session: Any = get_session()
    # httpx in huggingface_hub 1.x, requests in 0.3x. Both keep the Authorization header from other hosts.
    modern = callable(session.stream)
    opened = (
        session.stream("GET", source.url, headers=headers, timeout=(*TIMEOUTS, TIMEOUTS[1], TIMEOUTS[0]))
        if modern
        else session.get(source.url, headers=headers, timeout=TIMEOUTS, stream=True)
    )
    with opened as response:
        if response.status_code == 416:
            # The part is longer than the file.
            raise WrongBytes(f"it ends before byte {have}")
        if modern and response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        partial = response.status_code == 206 or not have
        yield partial, response.iter_raw(CHUNK) if modern else response.iter_content(CHUNK)


def _is_transient(error: Exception) -> bool:
    """Return whether the next connection may succeed; an answer with a status would be the same again."""
    classified = classify(error, "it", "")
    if classified is None or classified.reason is not Reason.NETWORK:
        return False
    return not isinstance(error, WrongBytes) and getattr(error, "response", None) is None


_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Content of one file, as the cache stores it."""

    #: File name in the cache's `blobs`, the Hub's ETag: SHA-256 of an LFS file, else the SHA-1 that git knows.
    name: str
    #: Bytes.
    size: int


def progress(wanted: Mapping[Path, Iterable[Blob]]) -> tuple[int, int]:
    """Return how many bytes are on the disk, and how many there will be.

    Args:
        wanted: What each directory `blobs` will hold.
    """
    sizes_of = {folder: {blob.name: blob.size for blob in blobs} for folder, blobs in wanted.items()}
    total = sum(sum(sizes.values()) for sizes in sizes_of.values())
    return sum(_on_disk(folder, sizes) for folder, sizes in sizes_of.items()), total


def amount(done: int, total: int) -> str:
    """Format two numbers of bytes in the unit of the larger: "3.1/14.0 GB"."""
    size, unit = next(((size, unit) for size, unit in _UNITS if total >= size), (1.0, "B"))
    return f"{done / size:.1f}/{total / size:.1f} {unit}"


def _on_disk(folder: Path, sizes: Mapping[str, int]) -> int:
    """Return how many bytes of these blobs are on the disk.

    A part is `NAME.incomplete`, or with huggingface_hub 1.x `NAME.<8 hex>.incomplete`.
    """
    here: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.partition(".")[0]
            # A part may become the blob at any moment.
            with contextlib.suppress(FileNotFoundError):
                if name in sizes:
                    here[name] = max(here.get(name, 0), entry.stat().st_size)
    return sum(min(size, sizes[name]) for name, size in here.items())

"""One file's content, from the Hub into the cache: taken up where a cut left it, checked before it counts.

huggingface_hub does neither: its 1.x starts every interrupted file anew and none of its versions looks at the
hash. Parts are named as its 0.3x names them, so what that one began goes on here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pi0q.jobs.outcome import Reason
from pi0q.workers.run.refusals import WrongBytes, refusal
from pi0q.workers.run.transfer import Blob

#: Bytes taken from the network before they are written: what a kill can cost, for each of the files under way.
CHUNK = 256 * 1024
#: Bytes read at once from the disk to be hashed.
READ = 1024 * 1024
#: Seconds to connect, and seconds without a byte, after which a connection is given up.
TIMEOUTS = (10.0, 60.0)
#: Before each further try of a file, as long as none brings a byte.
PAUSES_SECONDS = (0.0, 1.0, 5.0)

Tick = Callable[[int], None]


class Digest:
    """The hash that a blob is named after, of what was fed to it so far."""

    def __init__(self, blob: Blob) -> None:
        self.blob = blob
        self._hash = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(b"blob %d\0" % blob.size)

    def feed(self, data: bytes) -> None:
        self._hash.update(data)

    def feed_file(self, file: IO[bytes], tick: Tick) -> int:
        """All of an open file; its length."""
        length = file.seek(0)
        while data := file.read(READ):
            self.feed(data)
            length += len(data)
            tick(len(data))
        # 14 GB in the page cache count as this container's memory.
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return length

    def check(self) -> None:
        """Raises WrongBytes unless it all was the blob."""
        if self._hash.hexdigest() != self.blob.name:
            raise WrongBytes(
                f"its {self._hash.name.upper()} is {self._hash.hexdigest()[:12]}, not {self.blob.name[:12]}"
            )


def is_good(path: Path, blob: Blob, tick: Tick) -> bool:
    """Whether a file on the disk is this blob, to the last byte."""
    try:
        if path.stat().st_size != blob.size:
            return False
        digest = Digest(blob)
        with path.open("rb") as file:
            digest.feed_file(file, tick)
        digest.check()
    except (WrongBytes, FileNotFoundError):
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a file's content is asked for."""

    url: str
    headers: Mapping[str, str]
    #: Told of each number of bytes that came, from the network or out of the part on the disk.
    tick: Tick


def bring(source: Source, blob: Blob, folder: Path) -> None:
    """Makes `folder/NAME` of what comes and of what an earlier try left in `folder/NAME.incomplete`.

    The caller holds the file's lock. Raises WrongBytes, having removed the part, or whatever the network or the
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
    """Connects until the part is as long as the blob. A cut that came after new bytes costs no patience."""
    digest = Digest(blob)
    have = digest.feed_file(file, source.tick)
    pauses = iter(PAUSES_SECONDS)
    while have < blob.size:
        before = have
        try:
            with _opened(source, have) as (goes_on, chunks):
                if not goes_on:
                    file.truncate(0)
                    digest, have, before = Digest(blob), 0, 0
                for chunk in chunks:
                    have += len(chunk)
                    if have > blob.size:
                        break
                    file.write(chunk)
                    digest.feed(chunk)
                    source.tick(len(chunk))
        except Exception as error:
            file.flush()
            if not _may_pass(error):
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
    """The rest of the file behind the first `have` bytes, and whether it is the rest or, against the wish, all."""
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
            # The part is longer than what lies there.
            raise WrongBytes(f"it ends before byte {have}")
        if modern and response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        goes_on = response.status_code == 206 or not have
        yield goes_on, response.iter_raw(CHUNK) if modern else response.iter_content(CHUNK)


def _may_pass(error: Exception) -> bool:
    """Whether the next connection may bring what this one did not; an answer with a status is an answer."""
    refused = refusal(error, "it", "")
    return (
        refused is not None
        and refused.reason is Reason.NETWORK
        and not isinstance(error, WrongBytes)
        and (getattr(error, "response", None) is None)
    )

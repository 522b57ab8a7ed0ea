"""How far a download is, seen on the disk: right for every version of huggingface_hub and for Xet."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Seconds between two lines.
EVERY_SECONDS = 0.5
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True, kw_only=True)
class Blob:
    """The content of one file, as the cache stores it."""

    #: File name in the cache's `blobs`: the Hub's ETag.
    name: str
    #: Bytes.
    size: int


@contextlib.contextmanager
def shown(asked: Mapping[Path, Iterable[Blob]], say: Callable[[str], None]) -> Iterator[None]:
    """Says "downloading 3.1/14.0 GB" from a thread of its own, if anything is missing at the start.

    Args:
        asked: What each directory `blobs` will hold.
    """
    unique = {folder: {blob.name: blob for blob in blobs}.values() for folder, blobs in asked.items()}
    total = sum(blob.size for blobs in unique.values() for blob in blobs)

    def here() -> int:
        return sum(_here(folder, blob) for folder, blobs in unique.items() for blob in blobs)

    done = here()
    if done >= total:
        yield
        return
    first, over = f"downloading {amount(done, total)}", threading.Event()
    watcher = threading.Thread(target=_watch, args=(here, total, first, say, over), daemon=True)
    say(first)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def amount(done: int, total: int) -> str:
    """Two numbers of bytes in the unit of the larger: "3.1/14.0 GB"."""
    size, unit = next(((size, unit) for size, unit in _UNITS if total >= size), (1.0, "B"))
    return f"{done / size:.1f}/{total / size:.1f} {unit}"


def _watch(here: Callable[[], int], total: int, before: str, say: Callable[[str], None], over: threading.Event) -> None:
    while not over.wait(EVERY_SECONDS):
        line = f"downloading {amount(here(), total)}"
        if line != before:
            say(line)
        before = line


def _here(folder: Path, blob: Blob) -> int:
    """Bytes of it on the disk; a part is `NAME.incomplete` (hub 0.3x) or `NAME.<8 hex>.incomplete` (1.x)."""
    if (folder / blob.name).exists():
        return blob.size
    sizes = [0]
    for part in folder.glob(f"{blob.name}*.incomplete"):
        # It may be renamed to the blob at any moment.
        with contextlib.suppress(FileNotFoundError):
            sizes.append(part.stat().st_size)
    return min(max(sizes), blob.size)

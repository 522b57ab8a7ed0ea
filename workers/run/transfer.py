"""How far a download is, seen on the disk: right also for the job that waits for another one's download."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True, kw_only=True)
class Blob:
    """The content of one file, as the cache stores it."""

    #: File name in the cache's `blobs`, the Hub's ETag: SHA-256 of an LFS file, else the SHA-1 that git knows.
    name: str
    #: Bytes.
    size: int


def progress(asked: Mapping[Path, Iterable[Blob]]) -> str:
    """ "downloading 3.1/14.0 GB"; empty if nothing is missing.

    Args:
        asked: What each directory `blobs` will hold.
    """
    unique = {folder: {blob.name: blob.size for blob in blobs} for folder, blobs in asked.items()}
    total = sum(sum(sizes.values()) for sizes in unique.values())
    done = sum(_here(folder, sizes) for folder, sizes in unique.items())
    return f"downloading {amount(done, total)}" if done < total else ""


def amount(done: int, total: int) -> str:
    """Two numbers of bytes in the unit of the larger: "3.1/14.0 GB"."""
    size, unit = next(((size, unit) for size, unit in _UNITS if total >= size), (1.0, "B"))
    return f"{done / size:.1f}/{total / size:.1f} {unit}"


def _here(folder: Path, sizes: Mapping[str, int]) -> int:
    """Bytes of them on the disk; a part is `NAME.incomplete`, or with huggingface_hub 1.x `NAME.<8 hex>.incomplete`."""
    found: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.partition(".")[0]
            # A part may become the blob at any moment.
            with contextlib.suppress(FileNotFoundError):
                if name in sizes:
                    found[name] = max(found.get(name, 0), entry.stat().st_size)
    return sum(min(size, sizes[name]) for name, size in found.items())

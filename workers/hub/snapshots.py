"""Hugging Face cache on the disk: which commits of a repository are complete, and which blobs are verified.

hub/models--owner--name/{blobs, snapshots/SHA, refs}      as huggingface_hub lays it out
    .pi0q-fetching-SHA-…  while a download of that commit runs, or after it was cut
    .pi0q-whole-SHA-…     names and sizes of what a finished download put there
    .pi0q-good.json       verified blobs, by size and modification time
    .pi0q-uncompared-SHA  the commit is ModelScope's own, and its hashes were not compared with the Hub's
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from zlib import crc32

from pi0q.workers.host.files import write_atomic
from pi0q.workers.hub.blobs import Blob, Count, matches
from pi0q.workers.hub.requirements import Fetch

#: Tag that both LeRobots ask a dataset for (CODEBASE_VERSION in 0.4.4 and 0.6.1); main if there is none.
DATASET_TAG = "v3.0"
#: A transformers or diffusers model, a tokenizer, or a pipeline of several in folders.
_ANY_CONFIG = (
    *("config.json", "tokenizer_config.json", "tokenizer.json", "processor_config.json", "model_index.json"),
    *("vae/config.json", "text_encoder/config.json"),
)
#: A snapshot holds at least one of these.
ESSENTIAL = {
    "dataset": ("meta/info.json",),
    "base": ("model.safetensors", "adapter_model.safetensors"),
    "code": ("processor_config.json", "tokenizer_config.json", "config.json"),
    "backbone": _ANY_CONFIG,
    "own backbone": _ANY_CONFIG,
    "tokenizer": ("tokenizer.json", "tokenizer.model"),
}
#: Seconds without a change after which a part counts as abandoned.
ORPHANED_SECONDS = 7 * 86400.0

COMMIT = re.compile(r"[0-9a-f]{40}")
_REF = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


def names(fetch: Fetch) -> list[str]:
    """Return the branches and tags that may name the wanted commit, likeliest first."""
    if fetch.revision:
        return [fetch.revision]
    return [DATASET_TAG, "main"] if fetch.repo_type == "dataset" else ["main"]


def begin(fetch: Fetch, hf_home: Path, sha: str) -> None:
    """Mark the commit as incomplete."""
    _fetching(fetch, hf_home, sha).touch()


def materialize(fetch: Fetch, hf_home: Path, sha: str, files: Mapping[str, Blob]) -> None:
    """Link the files of a commit to their blobs, which are all there, and mark the commit as complete."""
    folder, top = fetch.folder(hf_home), fetch.snapshot(hf_home, sha)
    for name, blob in files.items():
        link = top / name
        target = os.path.relpath(folder / "blobs" / blob.name, link.parent)
        if link.is_symlink() and str(link.readlink()) == target:
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        fresh = link.with_name(f".{link.name[:200]}.pi0q")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)
    write_atomic(_complete(fetch, hf_home, sha), json.dumps({name: blob.size for name, blob in files.items()}))
    _fetching(fetch, hf_home, sha).unlink(missing_ok=True)


def mark_uncompared(fetch: Fetch, hf_home: Path, sha: str) -> None:
    """Note that nobody compared this commit with the Hub."""
    _uncompared(fetch, hf_home, sha).touch()


def is_uncompared(fetch: Fetch, hf_home: Path, sha: str) -> bool:
    """Return whether the commit came from ModelScope, by ModelScope's own hashes."""
    return _uncompared(fetch, hf_home, sha).exists()


def is_complete(fetch: Fetch, hf_home: Path, sha: str) -> bool:
    """Return whether a download of exactly this ended, and none of its files is gone or cut since."""
    top = fetch.snapshot(hf_home, sha)
    try:
        files = json.loads(_complete(fetch, hf_home, sha).read_text(encoding="utf-8"))
        return all((top / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def size_bytes(fetch: Fetch, hf_home: Path, sha: str) -> int:
    """Return the size of what a finished download put there. Raises OSError, ValueError."""
    files: Mapping[str, int] = json.loads(_complete(fetch, hf_home, sha).read_text(encoding="utf-8"))
    return sum(files.values())


def is_usable(fetch: Fetch, hf_home: Path, sha: str) -> bool:
    """Return whether the commit is there as far as can be seen without the Hub; a user may have downloaded it."""
    if is_complete(fetch, hf_home, sha):
        return True
    was_cut = any(fetch.folder(hf_home).glob(f".pi0q-fetching-{sha}-*"))
    links = fetch.snapshot(hf_home, sha).rglob("*")
    return has_essentials(fetch, hf_home, sha) and not was_cut and all(path.exists() for path in links)


def has_essentials(fetch: Fetch, hf_home: Path, sha: str) -> bool:
    """Return whether it is the kind of repository that its flag wants."""
    return any((fetch.snapshot(hf_home, sha) / name).is_file() for name in ESSENTIAL[fetch.kind])


class VerifiedBlobs:
    """Blobs of a repository whose content was hashed; `save` writes them down."""

    def __init__(self, folder: Path) -> None:
        self.blobs, self._file = folder / "blobs", folder / ".pi0q-good.json"
        self._known: dict[str, list[int]] = {}
        with contextlib.suppress(OSError, ValueError):
            self._known = dict(json.loads(self._file.read_text(encoding="utf-8")))

    def holds(self, blob: Blob, count: Count) -> bool:
        """Return whether the blob is there and its hash is right; a wrong one is removed."""
        path = self.blobs / blob.name
        if not path.exists():
            path.unlink(missing_ok=True)
            return False
        if self._known.get(blob.name) == _seen(path):
            return True
        if matches(path, blob, count):
            self._known[blob.name] = _seen(path)
            return True
        path.unlink(missing_ok=True)
        return False

    def adopt(self, path: Path, blob: Blob, count: Count) -> bool:
        """Return whether `hf download --local-dir` has put the file here, as the guide has it; it is then used."""
        if path.is_symlink() or not path.is_file() or not matches(path, blob, count):
            return False
        with contextlib.suppress(OSError):
            (self.blobs / blob.name).hardlink_to(path)
            self._known[blob.name] = _seen(path)
            return True
        return False

    def save(self, downloaded: Iterable[Blob] = ()) -> None:
        """Write down the verified blobs, and these, which were hashed while they were downloaded."""
        self._known |= {blob.name: _seen(self.blobs / blob.name) for blob in downloaded}
        write_atomic(self._file, json.dumps(self._known))


def remove_abandoned_parts(hub: Path) -> list[Path]:
    """Remove parts in any repository that nobody has written to for a week; return them."""
    from filelock import FileLock, Timeout

    removed = []
    for part in hub.glob("*--*/blobs/*.incomplete"):
        folder = part.parent.parent
        lock = hub / ".locks" / folder.name / f"{part.name.partition('.')[0]}.lock"
        with contextlib.suppress(Timeout, OSError):
            if time.time() - part.stat().st_mtime > ORPHANED_SECONDS:
                lock.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(lock, timeout=0):
                    part.unlink()
                removed.append(part)
    return removed


def write_ref(folder: Path, name: str, sha: str) -> None:
    """Make a branch or tag name this commit in the cache."""
    if not _REF.fullmatch(name) or COMMIT.fullmatch(name) or read_ref(folder, name) == sha:
        return
    path = folder / "refs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, sha)


def read_ref(folder: Path, name: str) -> str | None:
    """Return the commit that a branch or tag names in the cache."""
    if COMMIT.fullmatch(name):
        return name
    path = folder / "refs" / name
    return path.read_text().strip() if _REF.fullmatch(name) and path.is_file() else None


def _seen(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _fetching(fetch: Fetch, hf_home: Path, sha: str) -> Path:
    return fetch.folder(hf_home) / f".pi0q-fetching-{sha}-{_part(fetch)}"


def _complete(fetch: Fetch, hf_home: Path, sha: str) -> Path:
    return fetch.folder(hf_home) / f".pi0q-whole-{sha}-{_part(fetch)}"


def _uncompared(fetch: Fetch, hf_home: Path, sha: str) -> Path:
    return fetch.folder(hf_home) / f".pi0q-uncompared-{sha}"


def _part(fetch: Fetch) -> str:
    """Return a name for which of a commit's files are wanted: a tokenizer's are not all of them."""
    return f"{crc32(' '.join(fetch.patterns or ()).encode()):08x}"

"""The Hub's cache on the disk: which commit of a repository lies there whole, and what is known to be good.

hub/models--owner--name/{blobs, snapshots/SHA, refs}      as huggingface_hub lays it out
    .pi0q-fetching-SHA-…  while a download of that commit is under way, or was broken off
    .pi0q-whole-SHA-…     what a finished one laid there
    .pi0q-good.json       blobs that were hashed, by size and time
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

from pi0q.workers.run.blobs import Tick, is_good
from pi0q.workers.run.fetches import Fetch
from pi0q.workers.run.transfer import Blob

#: The tag that both LeRobots ask a dataset for (CODEBASE_VERSION in 0.4.4 and 0.6.1); main if there is none.
DATASET_TAG = "v3.0"
#: A snapshot without any of these is not one.
ESSENTIAL = {
    "dataset": ("meta/info.json",),
    "base": ("model.safetensors", "adapter_model.safetensors"),
    "tokenizer": ("tokenizer.json", "tokenizer.model"),
}
#: Seconds without a change after which a part counts as given up.
ORPHANED_SECONDS = 7 * 86400.0

COMMIT = re.compile(r"[0-9a-f]{40}")
_REF = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


def names(fetch: Fetch) -> list[str]:
    """Branches and tags that may name the commit wanted, likeliest first."""
    if fetch.revision:
        return [fetch.revision]
    return [DATASET_TAG, "main"] if fetch.repo_type == "dataset" else ["main"]


def begin(fetch: Fetch, hf_home: Path, sha: str) -> None:
    """From now on the commit is not whole."""
    _fetching(fetch, hf_home, sha).touch()


def lay(fetch: Fetch, hf_home: Path, sha: str, files: Mapping[str, Blob]) -> None:
    """Links the files of a commit to their blobs, which are all there: it is whole from now on."""
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
    _write(_whole(fetch, hf_home, sha), json.dumps({name: blob.size for name, blob in files.items()}))
    _fetching(fetch, hf_home, sha).unlink(missing_ok=True)


def was_laid(fetch: Fetch, hf_home: Path, sha: str) -> bool:
    """Whether a download of exactly this ended, and nothing of it is gone or cut since: no need to ask the Hub."""
    top = fetch.snapshot(hf_home, sha)
    try:
        files = json.loads(_whole(fetch, hf_home, sha).read_text(encoding="utf-8"))
        return all((top / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def laid_bytes(fetch: Fetch, hf_home: Path, sha: str) -> int:
    """What a download that ended laid there, bytes. Raises OSError, ValueError."""
    files: Mapping[str, int] = json.loads(_whole(fetch, hf_home, sha).read_text(encoding="utf-8"))
    return sum(files.values())


def is_whole(fetch: Fetch, hf_home: Path, sha: str) -> bool:
    """Whether the commit lies there as far as can be seen without the Hub; it may have been laid by hand."""
    if was_laid(fetch, hf_home, sha):
        return True
    broken_off = any(fetch.folder(hf_home).glob(f".pi0q-fetching-{sha}-*"))
    links = fetch.snapshot(hf_home, sha).rglob("*")
    return has_essentials(fetch, hf_home, sha) and not broken_off and all(path.exists() for path in links)


def has_essentials(fetch: Fetch, hf_home: Path, sha: str) -> bool:
    """Whether it is what its flag wants, and not some other repository."""
    return any((fetch.snapshot(hf_home, sha) / name).is_file() for name in ESSENTIAL[fetch.kind])


class Good:
    """The blobs of a repository that are known to be what their names say; `save` remembers what was learnt."""

    def __init__(self, folder: Path) -> None:
        self.blobs, self._file = folder / "blobs", folder / ".pi0q-good.json"
        self._known: dict[str, list[int]] = {}
        with contextlib.suppress(OSError, ValueError):
            self._known = dict(json.loads(self._file.read_text(encoding="utf-8")))

    def holds(self, blob: Blob, tick: Tick) -> bool:
        """Whether the blob is there and good; a bad one is removed."""
        path = self.blobs / blob.name
        if not path.exists():
            path.unlink(missing_ok=True)
            return False
        if self._known.get(blob.name) == _seen(path):
            return True
        if is_good(path, blob, tick):
            self._known[blob.name] = _seen(path)
            return True
        path.unlink(missing_ok=True)
        return False

    def adopts(self, path: Path, blob: Blob, tick: Tick) -> bool:
        """Whether `hf download --local-dir` has put the file here, as the guide has it; it is then used."""
        if path.is_symlink() or not path.is_file() or not is_good(path, blob, tick):
            return False
        with contextlib.suppress(OSError):
            (self.blobs / blob.name).hardlink_to(path)
            self._known[blob.name] = _seen(path)
            return True
        return False

    def save(self, fresh: Iterable[Blob] = ()) -> None:
        """Remembers the good ones, and these that were hashed while they came."""
        self._known |= {blob.name: _seen(self.blobs / blob.name) for blob in fresh}
        _write(self._file, json.dumps(self._known))


def tidy(hub: Path) -> list[Path]:
    """Removes parts in any repository that nobody has written to for a week; gives them."""
    from filelock import FileLock, Timeout

    gone = []
    for part in hub.glob("*--*/blobs/*.incomplete"):
        folder = part.parent.parent
        lock = hub / ".locks" / folder.name / f"{part.name.partition('.')[0]}.lock"
        with contextlib.suppress(Timeout, OSError):
            if time.time() - part.stat().st_mtime > ORPHANED_SECONDS:
                lock.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(lock, timeout=0):
                    part.unlink()
                gone.append(part)
    return gone


def point(folder: Path, name: str, sha: str) -> None:
    """Lets a branch or tag name this commit in the cache."""
    if not _REF.fullmatch(name) or COMMIT.fullmatch(name) or read_ref(folder, name) == sha:
        return
    path = folder / "refs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, sha)


def read_ref(folder: Path, name: str) -> str | None:
    """The commit that a branch or tag names in the cache."""
    if COMMIT.fullmatch(name):
        return name
    path = folder / "refs" / name
    return path.read_text().strip() if _REF.fullmatch(name) and path.is_file() else None


def _seen(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _fetching(fetch: Fetch, hf_home: Path, sha: str) -> Path:
    return fetch.folder(hf_home) / f".pi0q-fetching-{sha}-{_part(fetch)}"


def _whole(fetch: Fetch, hf_home: Path, sha: str) -> Path:
    return fetch.folder(hf_home) / f".pi0q-whole-{sha}-{_part(fetch)}"


def _part(fetch: Fetch) -> str:
    """Which of a commit's files: a tokenizer's are not all of them."""
    return f"{crc32(' '.join(fetch.patterns or ()).encode()):08x}"


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)

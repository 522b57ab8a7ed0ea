"""Inventory of what may be evicted from the data disk: Hub repositories and caches that are built anew.

    everything -> Item (with `kept`: why pi0q does not evict it) -> remove

huggingface_hub itself lists and removes repositories. Run directories are in run_garbage.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi0q.queue.settings import Settings
from pi0q.workers.host import cache_paths, usage_locks
from pi0q.workers.host.files import size_mib

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, HFCacheInfo

#: Entries that belong into a repository's directory; all others but pi0q's marks are foreign.
_LAYOUT = (".no_exist", "blobs", "refs", "snapshots")
IN_USE, PINNED = "in use", "pinned"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that may be evicted."""

    #: model, dataset, space, kernels, weights, tables, leftovers or run.
    kind: str
    #: owner/name, inductor, triton, compiled-KEY, torch, arrow, or the job's id.
    name: str
    path: Path
    #: Disk space that its removal frees, MiB.
    mib: int
    #: Last use by a job, seconds since 1970; 0: never.
    used: float
    #: Why pi0q does not evict it by itself; "" if it may.
    kept: str = ""

    @property
    def what(self) -> str:
        """Return its name for the user."""
        if self.kind == "leftovers":
            return f"leftovers of {self.name}"
        return f"the run {self.name}" if self.kind == "run" else f"the cache of {self.name}"


class Busy(Exception):
    """The item is in use or pinned; nothing was removed."""


def key(item: Item) -> str:
    """Return the name as a job's `pins` has it: a dataset and a model may share a name."""
    return f"datasets/{item.name}" if item.kind == "dataset" else item.name


def everything(settings: Settings) -> list[Item]:
    """Return all caches of this box, the least recently used first."""
    found = [*repos(settings.hf_home), *derived(settings)]
    return sorted(found, key=lambda item: item.used)


# -- repositories of the Hub --------------------------------------------------------------------------


def repos(hf_home: Path) -> Iterator[Item]:
    """Yield every repository in the Hub's cache that huggingface_hub can read."""
    marks, hub = usage_locks.of_hub(hf_home), hf_home / "hub"
    for repo in _scan(hub).repos if hub.is_dir() else ():
        folder = Path(repo.repo_path).name
        yield Item(
            kind=repo.repo_type,
            name=repo.repo_id,
            path=Path(repo.repo_path),
            mib=size_mib(Path(repo.repo_path)),
            used=_last_used(marks, Path(repo.repo_path)),
            kept=_kept(marks, folder) or _foreign(marks, Path(repo.repo_path)),
        )


def _scan(hub: Path) -> HFCacheInfo:
    from huggingface_hub import scan_cache_dir

    return scan_cache_dir(hub)


def _kept(marks: Path, name: str) -> str:
    if usage_locks.pinned(marks, name):
        return PINNED
    return IN_USE if usage_locks.in_use(marks, name) else ""


def _last_used(marks: Path, path: Path) -> float:
    """Return the time of its mark; for a repository of an earlier pi0q the time of its download."""
    laid = [mark.stat().st_mtime for mark in path.glob(".pi0q-whole-*")]
    return max([usage_locks.last(marks, path.name), *laid])


def _foreign(marks: Path, path: Path) -> str:
    """Return why the repository is not pi0q's to evict; "" if it is."""
    strange = [entry.name for entry in path.iterdir() if not entry.name.startswith((*_LAYOUT, ".pi0q-"))]
    if strange:
        return f"holds files that are not the cache's ({strange[0]})"
    return "" if _last_used(marks, path) else "no job of pi0q has used it"


def _remove_repo(item: Item) -> None:
    """Remove a repository under every lock that a download could hold."""
    hub, locks = item.path.parent, item.path.parent / ".locks" / item.path.name
    with contextlib.ExitStack() as stack:
        for path in sorted(locks.glob("*.lock")):
            file = stack.enter_context(path.open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"{item.what} is being downloaded") from None
        scanned = _scan(hub)
        mine: Any = frozenset(repo for repo in scanned.repos if Path(repo.repo_path) == item.path)
        for repo in mine:
            # Of this repository alone: a copy of it may have the same commits.
            replace(scanned, repos=mine).delete_revisions(*_commits(repo)).execute()


def _commits(repo: CachedRepoInfo) -> list[str]:
    return [revision.commit_hash for revision in repo.revisions]


# -- caches that are built anew ---------------------------------------------------------------------------


def derived(settings: Settings) -> Iterator[Item]:
    """Yield compiled kernels, torchvision's weights, and the Arrow tables that LeRobot builds of a dataset."""
    marks = usage_locks.of_box(settings.home)
    for name, (kind, path) in {**places(settings), **shared_kernels(settings)}.items():
        if path.is_dir() and (mib := size_mib(path)):
            used = usage_locks.last(marks, name) or path.stat().st_mtime
            yield Item(kind=kind, name=name, path=path, mib=mib, used=used, kept=_kept(marks, name))


def places(settings: Settings) -> dict[str, tuple[str, Path]]:
    """Return the caches of this box that can be removed whole: name -> (kind, path)."""
    caches = cache_paths.caches(settings)
    found = {
        "inductor": ("kernels", Path(caches["TORCHINDUCTOR_CACHE_DIR"])),
        "triton": ("kernels", Path(caches["TRITON_CACHE_DIR"])),
        "torch": ("weights", Path(caches["TORCH_HOME"])),
    }
    if settings.hf_home.is_relative_to(settings.home):
        # Outside PI0Q_HOME other programs may use it as well.
        found["arrow"] = ("tables", settings.hf_home / "datasets")
    return found


def shared_kernels(settings: Settings) -> dict[str, tuple[str, Path]]:
    """Return the compiled kernels that travel between boxes, one directory a key: name -> (kind, path)."""
    root = cache_paths.compiled(settings)
    keys = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return {cache_paths.compiled_name(path): ("kernels", path) for path in keys if not path.name.startswith(".")}


def hold_derived(settings: Settings, *, compiles: bool) -> None:
    """Mark them as in use until this process ends; kernels count as used only by a run that compiles.

    Torchvision's weights are marked where they are fetched.
    """
    for name, (kind, _) in places(settings).items():
        if kind != "weights":
            usage_locks.hold(usage_locks.of_box(settings.home), name, touch=compiles or kind != "kernels")


# -- removing -------------------------------------------------------------------------------------------


def remove(item: Item, settings: Settings) -> int:
    """Remove a cache; return the freed MiB. Raises Busy and OSError."""
    with usage_locks.alone(*mark(item, settings)) as free:
        if not free:
            raise Busy(f"{item.what} is in use")
        if usage_locks.pinned(*mark(item, settings)):
            raise Busy(f"{item.what} is pinned")
        before = size_mib(item.path)
        if _of_hub(item, settings):
            _remove_repo(item)
        else:
            _remove_tree(item.path)
    return max(0, before - size_mib(item.path))


def mark(item: Item, settings: Settings) -> tuple[Path, str]:
    """Return the directory of its marks and their name."""
    if _of_hub(item, settings):
        return usage_locks.of_hub(settings.hf_home), item.path.name
    return usage_locks.of_box(settings.home), item.name


def as_now(item: Item, settings: Settings) -> Item:
    """Return the item with its present `kept`: unlike its size, that is cheap to see."""
    if item.kept not in ("", IN_USE, PINNED):
        return item
    return replace(item, kept=_kept(*mark(item, settings)))


def _of_hub(item: Item, settings: Settings) -> bool:
    return item.path.parent == settings.hf_home / "hub"


def _remove_tree(path: Path) -> None:
    """Rename a directory, then remove it: a half-removed one must never be read as complete."""
    aside = path.with_name(f".{path.name}.going")
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    shutil.rmtree(aside)

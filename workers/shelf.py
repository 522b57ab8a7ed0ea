"""What fills the data disk and may go: the Hub's repositories, caches that make themselves anew, leftovers of runs.

    everything -> Item (with `kept`: why pi0q does not remove it by itself) -> remove

huggingface_hub itself lists and removes repositories. Directories of runs are in `leftovers.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi0q.queue.settings import Settings
from pi0q.workers import uses

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, HFCacheInfo

MIB = 1024 * 1024
#: What belongs into a repository's directory: huggingface_hub's own, and pi0q's marks.
_LAYOUT = (".no_exist", "blobs", "refs", "snapshots")
IN_USE, PINNED = "in use", "pinned"


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that may be removed."""

    #: model, dataset, space, kernels, tables, leftovers or run.
    kind: str
    #: owner/name, inductor, triton, arrow, or the job's id.
    name: str
    path: Path
    #: What comes free if it goes, in MiB.
    mib: int
    #: When a job last used it, in seconds since 1970; 0: never.
    used: float
    #: Why pi0q does not remove it by itself; "" if it may.
    kept: str = ""

    @property
    def what(self) -> str:
        """In words."""
        if self.kind == "leftovers":
            return f"leftovers of {self.name}"
        return f"the run {self.name}" if self.kind == "run" else f"the cache of {self.name}"


class Busy(Exception):
    """It is in use and was left as it is."""


def key(item: Item) -> str:
    """Its name as a fetch has it among its pins: a dataset and a model may share one."""
    return f"datasets/{item.name}" if item.kind == "dataset" else item.name


def everything(settings: Settings) -> list[Item]:
    """All caches of this box; what was used longest ago first."""
    found = [*repos(settings.hf_home), *derived(settings)]
    return sorted(found, key=lambda item: item.used)


# -- repositories of the Hub --------------------------------------------------------------------------


def repos(hf_home: Path) -> Iterator[Item]:
    """Every repository in the Hub's cache that huggingface_hub can read."""
    marks, hub = uses.of_hub(hf_home), hf_home / "hub"
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
    if uses.pinned(marks, name):
        return PINNED
    return IN_USE if uses.in_use(marks, name) else ""


def _last_used(marks: Path, path: Path) -> float:
    """By its mark; one fetched by an earlier pi0q counts from then on."""
    laid = [mark.stat().st_mtime for mark in path.glob(".pi0q-whole-*")]
    return max([uses.last(marks, path.name), *laid])


def _foreign(marks: Path, path: Path) -> str:
    """Why it is none of pi0q's business."""
    strange = [entry.name for entry in path.iterdir() if not entry.name.startswith((*_LAYOUT, ".pi0q-"))]
    if strange:
        return f"holds files that are not the cache's ({strange[0]})"
    return "" if _last_used(marks, path) else "no job of pi0q has used it"


def _remove_repo(item: Item) -> None:
    """Under every lock that a download could hold."""
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


# -- what makes itself anew -----------------------------------------------------------------------------


def derived(settings: Settings) -> Iterator[Item]:
    """Compiled kernels, and the tables that LeRobot makes of a dataset at each first use."""
    marks = uses.of_box(settings.home)
    for name, (kind, path) in places(settings).items():
        if path.is_dir() and (mib := size_mib(path)):
            used = uses.last(marks, name) or path.stat().st_mtime
            yield Item(kind=kind, name=name, path=path, mib=mib, used=used, kept=_kept(marks, name))


def places(settings: Settings) -> dict[str, tuple[str, Path]]:
    """The caches of this box that can be removed whole: name -> (kind, where)."""
    from pi0q.workers.run import environment

    caches = environment.caches(settings)
    found = {
        "inductor": ("kernels", Path(caches["TORCHINDUCTOR_CACHE_DIR"])),
        "triton": ("kernels", Path(caches["TRITON_CACHE_DIR"])),
    }
    if settings.hf_home.is_relative_to(settings.home):
        # Elsewhere it may serve work that pi0q knows nothing of.
        found["arrow"] = ("tables", settings.hf_home / "datasets")
    return found


def hold_derived(settings: Settings, *, compiles: bool) -> None:
    """This process's run may read any of them until it ends; that it uses compiled kernels counts where it compiles."""
    for name, (kind, _) in places(settings).items():
        uses.hold(uses.of_box(settings.home), name, touch=compiles or kind != "kernels")


# -- removing -------------------------------------------------------------------------------------------


def remove(item: Item, settings: Settings) -> int:
    """Removes a cache; the MiB that came free. Raises Busy, and OSError."""
    with uses.alone(*mark(item, settings)) as free:
        if not free:
            raise Busy(f"{item.what} is in use")
        if uses.pinned(*mark(item, settings)):
            raise Busy(f"{item.what} is pinned")
        before = size_mib(item.path)
        if _of_hub(item, settings):
            _remove_repo(item)
        else:
            _remove_tree(item.path)
    return max(0, before - size_mib(item.path))


def mark(item: Item, settings: Settings) -> tuple[Path, str]:
    """Where its marks are, and under what name."""
    if _of_hub(item, settings):
        return uses.of_hub(settings.hf_home), item.path.name
    return uses.of_box(settings.home), item.name


def as_now(item: Item, settings: Settings) -> Item:
    """The same, and whether it is in use or pinned by now; that is cheap to see, its size is not."""
    if item.kept not in ("", IN_USE, PINNED):
        return item
    return replace(item, kept=_kept(*mark(item, settings)))


def _of_hub(item: Item, settings: Settings) -> bool:
    return item.path.parent == settings.hf_home / "hub"


def _remove_tree(path: Path) -> None:
    """Put aside first: what was half removed must never be read as whole."""
    aside = path.with_name(f".{path.name}.going")
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    shutil.rmtree(aside)


def size_mib(path: Path) -> int:
    """What removing a directory frees; a file that has another name elsewhere frees nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                stat = os.lstat(os.path.join(folder, name))  # noqa: PTH118 (os.walk's strings, a hot loop)
                total += stat.st_blocks * 512 if stat.st_nlink == 1 else 0
    return total // MIB

"""Copies of a job's checkpoints in a directory that other boxes see too: `/root/autodl-fs/…`, NFS."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from pi0q.jobs.checkpoint import MANIFEST, Manifest, step_of, to_remove
from pi0q.jobs.replicas import amount, part_name, part_of
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.workers.checkpoints import transfer
from pi0q.workers.checkpoints.transfer import Damaged, TransferHooks
from pi0q.workers.host import files, places
from pi0q.workers.host.own_files import own_directory


class TargetUnusable(Exception):
    """The place of the copies can't be used as it is; the text says why and what to do."""


class ReplicaDirectory:
    """The copies of one job.

    Other users may see the place too: the job's folder in it is taken only where it is this user's alone, and it is
    held open while something is done in it, so that nothing is read or written elsewhere.
    """

    def __init__(self, place: str, job: str, *, epoch: int, hooks: TransferHooks, roots: Iterable[Path] = ()) -> None:
        """`roots`: the directories to which the box's owner allows copies; see workers/host/places.py."""
        self.place, self.job, self.epoch, self.hooks = Path(place), job, epoch, hooks
        self.roots = tuple(roots)
        #: While it is held open, a path that leads there and nowhere else.
        self.folder = self.place / job

    @contextlib.contextmanager
    def _held(self, *, make: bool = False) -> Iterator[None]:
        """Hold the job's folder open. Raises TargetUnusable, Untrusted, FileNotFoundError."""
        if why := unusable(self.place, self.roots):
            raise TargetUnusable(why)
        with own_directory(self.place.resolve(), self.job, make=make) as folder:
            self.folder = folder
            try:
                yield
            finally:
                self.folder = self.place / self.job

    def names(self) -> dict[int, str]:
        """Return the names of the complete copies by step."""
        with contextlib.suppress(FileNotFoundError), self._held():
            return self._names()
        return {}

    def _names(self) -> dict[int, str]:
        entries = [path.name for path in self.folder.iterdir()]
        found = {step: name for name in entries if (step := step_of(name)) is not None}
        return {step: name for step, name in found.items() if (self.folder / name / MANIFEST).is_file()}

    def put(self, checkpoint: Path, manifest: Manifest, text: str) -> str:
        """Copy a checkpoint; return the path of the copy.

        Raises TargetUnusable, Damaged, TransferCorrupted, OwnershipLost, OSError.
        """
        with self._held(make=True):
            self._put(checkpoint, manifest, text)
        return str(self.folder / checkpoint.name)

    def _put(self, checkpoint: Path, manifest: Manifest, text: str) -> None:
        name, target = checkpoint.name, self.folder / checkpoint.name
        if self._holds(name, text):
            return
        part = self._part(name)
        self._require_space(part, manifest)
        fetch = transfer.from_directory(checkpoint, self.hooks)
        transfer.assemble(part, manifest, text, fetch=fetch, hooks=self.hooks)
        self.hooks.require_lease()
        if target.exists():
            # Of the same step with other content: made under an earlier claim, or damaged.
            self._aside(name)
        part.rename(target)
        files.fsync(self.folder)

    def prune(self, keep: int, spared: Collection[int], *, newest: int | None = None) -> list[int]:
        """Remove what newer copies replace, damaged copies and abandoned incomplete ones; return the removed steps.

        `newest` is the step of the copy just made: a copy of a later step, whoever put it there, replaces none.
        """
        with self._held():
            return self._prune(keep, spared, newest)

    def _prune(self, keep: int, spared: Collection[int], newest: int | None) -> list[int]:
        names = {step: name for step, name in self._names().items() if newest is None or step <= newest}
        gone = to_remove(names, keep, spared)
        for step in gone:
            self.hooks.require_lease()
            # Without its manifest a half-removed copy counts as none.
            (self.folder / names[step] / MANIFEST).unlink()
            self._remove(self.folder / names[step])
        for path in list(self.folder.iterdir()):
            part = part_of(path.name)
            if path.name.endswith(".bad") or (part and part[1] <= self.epoch):
                self._remove(path)
        return gone

    def fetch(self, name: str, target: Path, *, known: Collection[str] | None = None, below: str = "") -> None:
        """Bring a copy back to `target`, complete or not at all; `known` are the accepted manifests (SHA-256).

        `below`: only the files whose paths begin so.

        Raises Damaged (also Foreign), TransferCorrupted, OwnershipLost, OSError.
        """
        with self._held():
            self._fetch(self.folder / name, target, known, below)

    def _fetch(self, source: Path, target: Path, known: Collection[str] | None, below: str) -> None:
        manifest, text = transfer.read_manifest(source)
        transfer.require_known(text, known)
        self.hooks.judge(manifest)
        fetch = transfer.from_directory(source, self.hooks)
        try:
            transfer.assemble(target, manifest.part(below), text, fetch=fetch, hooks=self.hooks)
        except FileNotFoundError as error:
            if source.is_dir() and not (lacking := Path(str(error.filename))).exists():
                raise Damaged(f"{lacking.name.removesuffix('.part')} is gone") from None
            raise

    def set_aside(self, name: str) -> None:
        """Rename a damaged copy, so that it counts no more; it is removed once a newer copy has verified."""
        self.hooks.require_lease()
        with self._held():
            self._aside(name)

    def _aside(self, name: str) -> None:
        bad = self.folder / f"{name}.bad"
        if bad.exists():
            shutil.rmtree(bad)
        (self.folder / name).rename(bad)

    def _holds(self, name: str, text: str) -> bool:
        try:
            return (self.folder / name / MANIFEST).read_text(encoding="utf-8") == text
        except OSError:
            return False

    def _part(self, name: str) -> Path:
        """Return where the copy is made; what an earlier claim began is taken over."""
        own = self.folder / part_name(name, self.epoch)
        for path in sorted(self.folder.iterdir()):
            found = part_of(path.name)
            if found and found[1] > self.epoch:
                raise OwnershipLost(f"claim {found[1]} copies by now")
            if found and found[0] == name and found[1] < self.epoch and not own.exists():
                self.hooks.require_lease()
                path.rename(own)
                transfer.discard_partial_files(own)
        return own

    def _require_space(self, part: Path, manifest: Manifest) -> None:
        here = sum(path.stat().st_size for path in part.rglob("*") if path.is_file()) if part.is_dir() else 0
        room = os.statvfs(self.place)
        free, lacking = room.f_bavail * room.f_frsize, manifest.bytes - here
        # A file system that does not know its sizes reports 0 blocks.
        if room.f_blocks and free < lacking:
            raise TargetUnusable(
                f"{self.place} has {amount(free)} free and the copy needs {amount(lacking)}: make room there"
            )

    def _remove(self, path: Path) -> None:
        self.hooks.require_lease()
        shutil.rmtree(path)


def unusable(place: Path, roots: Iterable[Path] = (), *, make: bool = True) -> str:
    """Return why copies can't go to this directory, with the fix; "" if they can. With `make` it is created then.

    It is created only below a mount: on a box that lacks the shared disk it would fill the system disk. `roots` are
    the directories that the box's owner allows.
    """
    if why := places.refusal(place, roots, setting="PI0Q_COPY_ROOTS"):
        return why
    if not place.is_dir():
        if place.exists():
            return f"{place} is no directory"
        if not place.parent.is_dir() or _on_system_disk(place.parent):
            return f"{place} is not there on this box: mount it, or make it (mkdir -p {place})"
        if not make:
            return ""
        place.mkdir(exist_ok=True)
    if not os.access(place, os.W_OK | os.X_OK):
        return f"{place} can't be written to by this user"
    return ""


def _on_system_disk(path: Path) -> bool:
    return path.stat().st_dev == Path("/").stat().st_dev

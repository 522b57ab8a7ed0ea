"""Copies of a job's checkpoints in a directory that other boxes see as well: `/root/autodl-fs/…`, NFS."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from pi0q.jobs.checkpoint import MANIFEST, Manifest, step_of
from pi0q.jobs.copies import amount, part_name, part_of, superfluous
from pi0q.workers.run import copy_files
from pi0q.workers.run.copy_files import Damaged, Lost, Watched


class NotThere(Exception):
    """The place can't be used as it is; the text says why and what to do."""


class Directory:
    """The copies of one job."""

    def __init__(self, place: str, job: str, *, epoch: int, watched: Watched) -> None:
        self.place, self.job, self.epoch, self.watched = Path(place), job, epoch, watched
        self.must = watched.must
        self.folder = self.place / job

    def names(self) -> dict[int, str]:
        """The copies that have a manifest, by step."""
        if why := unusable(self.place):
            raise NotThere(why)
        entries = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        found = {step: name for name in entries if (step := step_of(name)) is not None}
        return {step: name for step, name in found.items() if (self.folder / name / MANIFEST).is_file()}

    def put(self, checkpoint: Path, manifest: Manifest, text: str) -> str:
        """Copies a checkpoint; its path. Raises NotThere, Damaged, WrongBytes, Lost, OSError."""
        name, target = checkpoint.name, self.folder / checkpoint.name
        if why := unusable(self.place):
            raise NotThere(why)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._holds(name, text):
            return str(target)
        part = self._part(name)
        self._must_have_room(part, manifest)
        bring = copy_files.from_directory(checkpoint, self.watched)
        copy_files.lay(part, manifest, text, bring=bring, watched=self.watched)
        self.must()
        if target.exists():
            # Of the same step, and not the same: one that an earlier epoch made, or a damaged one.
            self._aside(name)
        part.rename(target)
        copy_files.settle(self.folder)
        return str(target)

    def prune(self, keep: int, spared: Collection[int]) -> list[int]:
        """Removes what newer copies replace, what was set aside and what nobody will finish; the steps that went."""
        names = self.names()
        gone = superfluous(names, keep, spared)
        for step in gone:
            self.must()
            # Without its manifest a half-removed copy is none.
            (self.folder / names[step] / MANIFEST).unlink()
            self._remove(self.folder / names[step])
        for path in list(self.folder.iterdir()):
            part = part_of(path.name)
            if path.name.endswith(".bad") or (part and part[1] <= self.epoch):
                self._remove(path)
        return gone

    def fetch(self, name: str, target: Path) -> None:
        """Brings a copy back, to `target`, whole or not at all. Raises Damaged, WrongBytes, Lost, OSError."""
        source = self.folder / name
        manifest, text = copy_files.read_manifest(source)
        bring = copy_files.from_directory(source, self.watched)
        try:
            copy_files.lay(target, manifest, text, bring=bring, watched=self.watched)
        except FileNotFoundError as error:
            if source.is_dir() and not (lacking := Path(str(error.filename))).exists():
                raise Damaged(f"{lacking.name.removesuffix('.part')} is gone") from None
            raise

    def set_aside(self, name: str) -> None:
        """So that it is taken for a good one no more; it goes once a newer copy has verified."""
        self.must()
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
        """Where the copy is made: what an earlier epoch began is ours from now on, and nobody else's."""
        own = self.folder / part_name(name, self.epoch)
        for path in sorted(self.folder.iterdir()):
            found = part_of(path.name)
            if found and found[1] > self.epoch:
                raise Lost(f"epoch {found[1]} copies by now")
            if found and found[0] == name and found[1] < self.epoch and not own.exists():
                self.must()
                path.rename(own)
                copy_files.adopt(own)
        return own

    def _must_have_room(self, part: Path, manifest: Manifest) -> None:
        here = sum(path.stat().st_size for path in part.rglob("*") if path.is_file()) if part.is_dir() else 0
        room = os.statvfs(self.place)
        free, lacking = room.f_bavail * room.f_frsize, manifest.bytes - here
        # A file system that can't tell says 0 of everything.
        if room.f_blocks and free < lacking:
            raise NotThere(
                f"{self.place} has {amount(free)} free and the copy needs {amount(lacking)}: make room there"
            )

    def _remove(self, path: Path) -> None:
        self.must()
        shutil.rmtree(path)


def unusable(place: Path, *, make: bool = True) -> str:
    """Why copies can't go to this directory, with the cure; "" if they can, and then, with `make`, it is there.

    It is made only below a mount: on a box that lacks the shared disk it would fill the system disk.
    """
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

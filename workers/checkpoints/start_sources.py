"""Where the checkpoint that a job starts from lies: on this box's disk, among the copies, or pushed to the Hub."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pi0q.jobs import replicas
from pi0q.jobs.checkpoint import MANIFEST, step_of
from pi0q.jobs.errors import BadRecord, NotFound
from pi0q.jobs.record import Record
from pi0q.jobs.schema.value_types import Repo
from pi0q.jobs.start_point import StartPoint
from pi0q.queue.store_reads import StoreReads
from pi0q.workers.checkpoints import local_store

#: Jobs that went on from one another of which the records are read.
MOST_LINKS = 20


@dataclass(frozen=True, kw_only=True)
class Copies:
    """A place that may hold a copy of the checkpoint."""

    #: A directory or hf://owner/name.
    place: str
    #: Jobs under whose ids the copy may lie there.
    jobs: tuple[str, ...]

    def on_disk(self, start: StartPoint) -> bool:
        """Return whether a directory holds the copy here. Raises OSError."""
        for job in self.jobs:
            folder = Path(self.place) / job
            for entry in folder.iterdir() if folder.is_dir() else ():
                if step_of(entry.name) == start.step and _manifest(entry) == start.manifest:
                    return True
        return False


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A commit of the Hub that holds the checkpoint's model."""

    repo_id: str
    commit: str


def on_disk(runs: Path, start: StartPoint) -> Path | None:
    """Return the checkpoint below the box's run directories; None if it is not here.

    It is known by its manifest, not by its job: a job that goes on from an ended one takes its checkpoints over.
    """
    first = runs / start.job
    for run in [first, *(path for path in _entries(runs) if path != first)]:
        for checkpoints in (run / "output" / "checkpoints", run / "output.old" / "checkpoints"):
            with contextlib.suppress(OSError):
                found = local_store.sealed_checkpoints(checkpoints).get(start.step)
                if found and _manifest(found) == start.manifest:
                    return found
    return None


def records(store: StoreReads, start: StartPoint) -> list[Record]:
    """Return the record of the job that made it, and of each that went on from that one; none where they are gone."""
    found, name = list[Record](), start.job
    while name and len(found) < MOST_LINKS:
        try:
            found.append(store.get(name))
        except (NotFound, BadRecord):
            break
        name = found[-1].continued
    return found


def copies(start: StartPoint, sources: Sequence[Record]) -> list[Copies]:
    """Return where copies of it may lie, by the records of the jobs that had it. Pure."""
    found = dict[str, list[str]]()
    for source in sources:
        if source.manifests.get(str(start.step)) != start.manifest and not _is_newest(source, start):
            continue
        if source.copied:
            jobs = found.setdefault(replicas.place_in(source.copied), [])
            jobs += [replicas.job_in(source.copied), source.id]
        if place := _place_of(source):
            found.setdefault(place, []).append(source.id)
    return [Copies(place=place, jobs=tuple(dict.fromkeys([*jobs, start.job]))) for place, jobs in found.items()]


def pushed(start: StartPoint, sources: Sequence[Record]) -> Iterator[Pushed]:
    """Yield the commits to which its model was pushed. Pure."""
    for source in sources:
        told = source.push
        repo, commit = str(told.get("repo") or ""), str(told.get("commit") or "")
        newest = source.checkpoint
        same = newest is not None and (newest.step, newest.manifest) == (start.step, start.manifest)
        # The Hub's commits are hashes of their content.
        named = Repo().fault(repo) is None and len(commit) == 40 and set(commit) <= set("0123456789abcdef")
        if told.get("state") == "done" and same and named:
            yield Pushed(repo_id=repo, commit=commit)


def _is_newest(source: Record, start: StartPoint) -> bool:
    copied = source.copied
    return copied is not None and (copied.step, copied.manifest) == (start.step, start.manifest)


def _place_of(source: Record) -> str:
    settings = source.spec.get("checkpoints")
    place = settings.get("copy_to") if isinstance(settings, Mapping) else None
    return place if isinstance(place, str) and place.startswith(("/", replicas.HUB)) else ""


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    return []


def _manifest(directory: Path) -> str:
    try:
        return hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return ""

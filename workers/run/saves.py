"""Checkpoints on the disk: vouched for by a manifest after fsync, verified before a resume, pruned with care."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from pi0q.jobs.checkpoint import FINISHED, MANIFEST, File, Manifest, differences, missing, step_of, to_remove
from pi0q.jobs.record import Saved

CHUNK = 8 * 1024 * 1024
#: A disk that is full says nothing of what lies there.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
HASHING_THREADS = 4
#: How far a thread that hashes beside a training stands back. On 2 cores with 8 busy processes it came to 8 MB/s at 19,
#: 98 MB/s at 5 and 280 MB/s at 0; who waited for Python's lock in its hands waited up to 1.1, 0.1 and 0.04 s.
NICE = 5


class NotOurs(Exception):
    """The lease was over before the files could be changed; they are as they were."""


def _ours() -> bool:
    return True


def _must(ours: Callable[[], bool]) -> None:
    if not ours():
        raise NotOurs


def seal(directory: Path, *, step: int, epoch: int, ours: Callable[[], bool] = _ours) -> Saved:
    """Writes the manifest of a checkpoint that LeRobot has just finished.

    Raises OSError, ValueError if it is not whole, and NotOurs if `ours` says so right before the last step.
    """
    files = _each(_settled, directory, beside=True)
    if lacking := missing(files):
        raise ValueError(f"{directory.name} lacks {', '.join(lacking)}")
    manifest = Manifest(step=step, epoch=epoch, files=files)
    for folder in {directory, *(directory / path for path in map(os.path.dirname, files))}:
        _fsync(folder)
    text = json.dumps(manifest.to_json(), indent=1)
    fresh = directory / (MANIFEST + ".new")
    _must(ours)
    fresh.write_text(text)
    _fsync(fresh)
    _must(ours)
    fresh.replace(directory / MANIFEST)
    _fsync(directory)
    return _saved(directory, manifest, text)


def newest(
    checkpoints: Path, say: Callable[[str], None], *, late: int | None = None, ours: Callable[[], bool] = _ours
) -> Saved | None:
    """The newest checkpoint that verifies, whatever `last` says; one that does not is moved aside as `.bad`.

    `late` is the epoch under which one is sealed that LeRobot finished and no runner lived to vouch for; None where
    the host was restarted since: then its bytes may never have come to the disk. Raises NotOurs.
    """
    for step in sorted(_steps(checkpoints), reverse=True):
        directory = checkpoints / _steps(checkpoints)[step]
        if not (directory / MANIFEST).exists():
            why = "was never finished"
            if late is not None and was_finished(directory):
                try:
                    saved = seal(directory, step=step, epoch=late, ours=ours)
                except OSError as error:
                    if error.errno in FULL:
                        raise
                    why = f"can't be read ({error})"
                else:
                    say(f"checkpoint {step} was whole when its runner died: verified now, {saved.bytes / 1e6:.0f} MB")
                    _must(ours)
                    point_last_at(directory)
                    return saved
            say(f"checkpoint {step} {why}; it is moved aside")
            _aside(directory, ours)
            continue
        try:
            text = (directory / MANIFEST).read_text()
            manifest = Manifest.from_json(json.loads(text))
            faults = differences(manifest, _each(_file, directory))
            faults += [f"its manifest is of step {manifest.step}"] if manifest.step != step else []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            faults = [f"its manifest can't be read: {error}"]
        if not faults:
            _must(ours)
            point_last_at(directory)
            return _saved(directory, manifest, text)
        say(f"checkpoint {step} is damaged ({'; '.join(faults)}); it is moved aside")
        _aside(directory, ours)
    return None


def was_finished(directory: Path) -> bool:
    """Whether LeRobot came to the end of this save: hook or `last` says so, and it has the files that others have."""
    link = directory.parent / "last"
    pointed_to = link.is_symlink() and link.readlink().name == directory.name
    if not pointed_to and not (directory / FINISHED).exists():
        return False
    files = set(_files(directory))
    others = [directory.parent / name for name in _steps(directory.parent).values() if name != directory.name]
    usual = [set(_files(other)) for other in others if (other / MANIFEST).exists()]
    return not missing(files) and all(files >= known for known in usual)


def sealed(directory: Path) -> Saved:
    """A checkpoint that was verified a moment ago."""
    text = (directory / MANIFEST).read_text()
    return _saved(directory, Manifest.from_json(json.loads(text)), text)


def make_room(checkpoints: Path) -> list[int]:
    """On a full disk: removes what was moved aside and saves that were never finished; the steps of those.

    One that is whole and lacks nothing but the manifest for which there was no room stays: the next run seals it.
    """
    unfinished = {
        step: name
        for step, name in _steps(checkpoints).items()
        if not (checkpoints / name / MANIFEST).exists() and not was_finished(checkpoints / name)
    }
    for path in [*checkpoints.glob("*.bad"), *(checkpoints / name for name in unfinished.values())]:
        shutil.rmtree(path)
    return sorted(unfinished)


def prune(checkpoints: Path, keep: int, *, pinned: Collection[int] = (), ours: Callable[[], bool] = _ours) -> list[int]:
    """Removes all sealed checkpoints but the newest `keep` and those that are `pinned`; the steps that went.

    Raises NotOurs; then nothing more is removed.
    """
    named = {step: name for step, name in _steps(checkpoints).items() if (checkpoints / name / MANIFEST).exists()}
    gone = to_remove(named, keep, pinned)
    for step in gone:
        _must(ours)
        # Without these two a half-removed checkpoint counts as unfinished, never as good.
        for word in (FINISHED, MANIFEST):
            (checkpoints / named[step] / word).unlink(missing_ok=True)
        shutil.rmtree(checkpoints / named[step])
    for aside in checkpoints.glob("*.bad"):
        _must(ours)
        # Kept until a good one follows: each can be 22 GB that no claim counted on.
        shutil.rmtree(aside)
    return gone


def point_last_at(directory: Path) -> None:
    """Repairs LeRobot's `last` link, which a kill between unlink and symlink can lose."""
    link, fresh = directory.parent / "last", directory.parent / ".last.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(directory.name)
    fresh.replace(link)


def _steps(checkpoints: Path) -> dict[int, str]:
    names = (entry.name for entry in checkpoints.iterdir()) if checkpoints.is_dir() else iter(())
    return {step: name for name in names if (step := step_of(name)) is not None}


def _files(directory: Path) -> Iterator[str]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.name.startswith(MANIFEST):
            yield str(path.relative_to(directory))


def _give_way() -> None:
    """Lets this thread, and those that it starts, use only what a training leaves of CPU and disk."""
    me = threading.get_native_id()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, me, NICE)
    with contextlib.suppress(psutil.Error, OSError):
        psutil.Process(me).ionice(psutil.IOPRIO_CLASS_BE, 7)


def _each(look: Callable[[Path], File], directory: Path, *, beside: bool = False) -> dict[str, File]:
    """All files at once: SHA-256 takes one core to 1-2 GB/s and leaves Python's lock alone."""
    paths = list(_files(directory))
    with ThreadPoolExecutor(HASHING_THREADS, initializer=_give_way if beside else None) as pool:
        return dict(zip(paths, pool.map(look, (directory / path for path in paths)), strict=True))


def _file(path: Path) -> File:
    digest, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(min(CHUNK, path.stat().st_size + 1)))
    with path.open("rb", buffering=0) as stream:
        while got := stream.readinto(buffer):
            digest.update(buffer[:got])
            # A container's memory limit counts these pages; the trainer needs them more.
            os.posix_fadvise(stream.fileno(), size, got, os.POSIX_FADV_DONTNEED)
            size += got
    return File(bytes=size, sha256=digest.hexdigest())


def _settled(path: Path) -> File:
    _fsync(path)
    return _file(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _aside(directory: Path, ours: Callable[[], bool]) -> None:
    _must(ours)
    target = directory.with_name(directory.name + ".bad")
    if target.exists():
        shutil.rmtree(target)
    directory.rename(target)


def _saved(directory: Path, manifest: Manifest, text: str) -> Saved:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Saved(step=manifest.step, path=str(directory), manifest=digest, bytes=manifest.bytes)

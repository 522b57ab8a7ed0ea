"""Checkpoints on this box's disk: list, seal (write the manifest), verify before a resume, prune.

A checkpoint is a directory named after its step. It is sealed once it holds a manifest; nothing else counts as
verified. This module is the one place that lists checkpoints and that decides what is sealed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil

from pi0q.jobs.checkpoint import FINISHED, MANIFEST, File, Manifest, differences, missing, step_of, to_remove
from pi0q.jobs.record import Saved
from pi0q.workers.host import files
from pi0q.workers.runs.lease import LeaseExpired

log = logging.getLogger(__name__)

CHUNK = 8 * 1024 * 1024
#: A full disk says nothing about the files that it holds.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
HASHING_THREADS = 4
#: Nice value of a thread that hashes beside a training. On 2 cores with 8 busy processes it came to 8 MB/s at 19,
#: 98 MB/s at 5 and 280 MB/s at 0; a thread that waited for Python's lock meanwhile waited up to 1.1, 0.1 and 0.04 s.
NICE = 5


#: Returns a manifest with the signature of this box.
Sign = Callable[[Manifest], Manifest]


def _always() -> bool:
    return True


def unsigned(manifest: Manifest) -> Manifest:
    """Return a manifest as it is: the box has no key."""
    return manifest


def _require(may_write: Callable[[], bool]) -> None:
    if not may_write():
        raise LeaseExpired


# -- listing ----------------------------------------------------------------------------------------


def step_directories(checkpoints: Path) -> dict[int, Path]:
    """Return all checkpoint directories by step, in order of step: sealed or not, `last` and `.bad` ones left out."""
    found = dict[int, Path]()
    with contextlib.suppress(FileNotFoundError):
        for path in checkpoints.iterdir():
            step = step_of(path.name)
            if step is not None and path.is_dir():
                found[step] = path
    return dict(sorted(found.items()))


def is_sealed(directory: Path) -> bool:
    """Return whether a checkpoint directory holds a manifest, which is written last."""
    return (directory / MANIFEST).is_file()


def sealed_checkpoints(checkpoints: Path) -> dict[int, Path]:
    """Return the sealed checkpoints by step, in order of step."""
    return {step: path for step, path in step_directories(checkpoints).items() if is_sealed(path)}


def unseal(directory: Path) -> None:
    """Take the manifest away before the files: a half-removed checkpoint must count as unfinished, never as good."""
    for name in (FINISHED, MANIFEST):
        (directory / name).unlink(missing_ok=True)


def read_saved(directory: Path) -> Saved:
    """Return what the record keeps of a sealed checkpoint, from its manifest. Does not verify the files."""
    text = (directory / MANIFEST).read_text()
    return _saved(directory, Manifest.from_json(json.loads(text)), text)


def manifests(checkpoints: Path) -> dict[str, str]:
    """Return the SHA-256 of the manifests of the sealed checkpoints, by step. Does not verify the files."""
    found = {}
    for step, directory in sealed_checkpoints(checkpoints).items():
        with contextlib.suppress(OSError):
            found[str(step)] = hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()
    return found


# -- sealing and verifying --------------------------------------------------------------------------


def seal(
    directory: Path, *, step: int, epoch: int, may_write: Callable[[], bool] = _always, sign: Sign = unsigned
) -> Saved:
    """Write the manifest of a checkpoint that LeRobot has just finished, with the signature that `sign` gives it.

    Raises OSError, ValueError if it is incomplete, and LeaseExpired if `may_write` is false right before the last step.
    """
    found = _each(_settled, directory, beside=True)
    if lacking := missing(found):
        raise ValueError(f"{directory.name} lacks {', '.join(lacking)}")
    manifest = sign(Manifest(step=step, epoch=epoch, files=found))
    for folder in {directory, *(directory / path for path in map(os.path.dirname, found))}:
        files.fsync(folder)
    text = json.dumps(manifest.to_json(), indent=1)
    _require(may_write)
    files.write_atomic(directory / MANIFEST, text, before_rename=lambda: _require(may_write))
    files.fsync(directory)
    return _saved(directory, manifest, text)


def newest(
    checkpoints: Path,
    *,
    late: int | None = None,
    may_write: Callable[[], bool] = _always,
    foreign: Callable[[Saved], str] = lambda _: "",
    sign: Sign = unsigned,
) -> Saved | None:
    """Return the newest checkpoint that verifies, whatever `last` says; damaged ones are moved aside as `.bad`.

    `late` is the claim number under which a checkpoint is sealed that LeRobot finished and whose runner died before
    it could; None where the host was restarted since: then its bytes may never have come to the disk. `foreign` tells
    why a checkpoint that verifies is not the job's own. Raises LeaseExpired.
    """
    for step, directory in reversed(step_directories(checkpoints).items()):
        if is_sealed(directory):
            saved, why = _verified(directory, step)
        else:
            seal_it = partial(seal, directory, step=step, epoch=late or 0, may_write=may_write, sign=sign)
            saved, why = _sealed_late(directory, step, seal_it if late is not None else None)
        if saved and (why := foreign(saved)):
            saved = None
        if saved:
            _require(may_write)
            update_last_link(directory)
            return saved
        log.info("checkpoint %d %s; it is moved aside", step, why)
        _move_aside(directory, may_write)
    return None


def _verified(directory: Path, step: int) -> tuple[Saved | None, str]:
    """Compare a checkpoint with its manifest; return it, or None and what is wrong with it."""
    try:
        text = (directory / MANIFEST).read_text()
        manifest = Manifest.from_json(json.loads(text))
        faults = differences(manifest, _each(_file, directory))
        faults += [f"its manifest is of step {manifest.step}"] if manifest.step != step else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"is damaged (its manifest can't be read: {error})"
    return (None, f"is damaged ({'; '.join(faults)})") if faults else (_saved(directory, manifest, text), "")


def part_faults(directory: Path, manifest: Manifest, *, below: str) -> list[str]:
    """Return how the files below a part of a checkpoint (`pretrained_model/`) differ from its manifest."""
    faults = []
    for path, file in manifest.files.items():
        if not path.startswith(below):
            continue
        try:
            found = _file(directory / path)
        except OSError as error:
            faults.append(f"{path} can't be read ({error.strerror})")
            continue
        if found != file:
            faults.append(f"{path} has other bytes than were saved")
    strange = [path for path in _files(directory) if path not in manifest.files]
    return faults + [f"{path} is none of its files" for path in strange]


def _sealed_late(directory: Path, step: int, seal_it: Callable[[], Saved] | None) -> tuple[Saved | None, str]:
    """Seal a checkpoint that LeRobot finished and whose runner died; return it, or None and what is wrong with it."""
    if seal_it is None or not was_finished(directory):
        return None, "was never finished"
    try:
        saved = seal_it()
    except OSError as error:
        if error.errno in FULL:
            raise
        return None, f"can't be read ({error})"
    log.info("checkpoint %d was complete when its runner died: verified now, %.0f MB", step, saved.bytes / 1e6)
    return saved, ""


def was_finished(directory: Path) -> bool:
    """Return whether LeRobot completed this save: the hook or `last` says so, and no file of the others is missing."""
    link = directory.parent / "last"
    pointed_to = link.is_symlink() and link.readlink().name == directory.name
    if not pointed_to and not (directory / FINISHED).exists():
        return False
    found = set(_files(directory))
    others = [path for path in sealed_checkpoints(directory.parent).values() if path.name != directory.name]
    return not missing(found) and all(found >= set(_files(other)) for other in others)


# -- removing ---------------------------------------------------------------------------------------


def make_room(checkpoints: Path) -> list[int]:
    """On a full disk: remove damaged checkpoints and unfinished saves; return the steps of the unfinished ones.

    A complete save that lacks only the manifest, for want of space, stays: the next run seals it.
    """
    unfinished = {
        step: path
        for step, path in step_directories(checkpoints).items()
        if not is_sealed(path) and not was_finished(path)
    }
    for path in [*checkpoints.glob("*.bad"), *unfinished.values()]:
        shutil.rmtree(path)
    return sorted(unfinished)


def prune(
    checkpoints: Path, keep: int, *, pinned: Collection[int] = (), may_write: Callable[[], bool] = _always
) -> list[int]:
    """Remove all sealed checkpoints but the newest `keep` and the `pinned` ones; return the removed steps.

    Damaged ones that were moved aside go as well, once a good one exists: each can be 22 GB that no claim counted on.
    Raises LeaseExpired; then nothing more is removed.
    """
    sealed = sealed_checkpoints(checkpoints)
    gone = [step for step in to_remove(sealed, keep, pinned) if not sealed[step].is_symlink()]
    for step in gone:
        _require(may_write)
        unseal(sealed[step])
        shutil.rmtree(sealed[step])
    for damaged in checkpoints.glob("*.bad"):
        _require(may_write)
        shutil.rmtree(damaged)
    return gone


def update_last_link(directory: Path) -> None:
    """Point LeRobot's `last` link to a checkpoint; a kill between unlink and symlink can lose the link."""
    link, fresh = directory.parent / "last", directory.parent / ".last.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(directory.name)
    fresh.replace(link)


# -- files ------------------------------------------------------------------------------------------


def _files(directory: Path) -> Iterator[str]:
    """Yield the paths of a checkpoint's files; the manifest and what a killed write of it left are none of them."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.name.lstrip(".").startswith(MANIFEST):
            yield str(path.relative_to(directory))


def _give_way() -> None:
    """Let this thread, and the threads that it starts, use only what a training leaves of CPU and disk."""
    me = threading.get_native_id()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, me, NICE)
    with contextlib.suppress(psutil.Error, OSError):
        psutil.Process(me).ionice(psutil.IOPRIO_CLASS_BE, 7)


def _each(look: Callable[[Path], File], directory: Path, *, beside: bool = False) -> dict[str, File]:
    """Look at all files in parallel: SHA-256 runs at 1-2 GB/s per core and releases Python's lock."""
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
    files.fsync(path)
    return _file(path)


def _move_aside(directory: Path, may_write: Callable[[], bool]) -> None:
    _require(may_write)
    target = directory.with_name(directory.name + ".bad")
    if target.exists():
        shutil.rmtree(target)
    directory.rename(target)


def _saved(directory: Path, manifest: Manifest, text: str) -> Saved:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Saved(step=manifest.step, path=str(directory), manifest=digest, bytes=manifest.bytes)

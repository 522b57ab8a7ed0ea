"""The process tree of a run: start the trainer in a session of its own, find and kill all that belongs to a job."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

#: Every process of a run carries this in its environment, also one that left group and session.
MARK, MARK_EPOCH = "PI0Q_JOB", "PI0Q_EPOCH"
#: Seconds between SIGINT and SIGKILL when a job is cancelled.
POLITE_SECONDS = 5.0
#: Seconds after SIGKILL in which a process dies, unless it hangs in its driver or on a dead disk (state D).
UNKILLABLE_SECONDS = 60.0
#: Seconds between two checks whether a process is dead: the first and the longest.
LOOK_SECONDS = (0.01, 0.5)
PR_SET_CHILD_SUBREAPER = 36

_is_subreaper = False
#: Children that are no part of the run, and are ended by whoever started them.
_excluded: set[int] = set()


def become_subreaper() -> None:
    """Make each descendant that loses its parent a child of this process, so that `kill_all` finds it.

    Only for a process all of whose children belong to its one run.
    """
    global _is_subreaper
    _is_subreaper = ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def exclude(pid: int) -> None:
    """Make `kill_all` leave this child and its descendants alone."""
    _excluded.add(pid)


def include(pid: int) -> None:
    """Undo `exclude`; call it once the child is reaped, before its pid can be another process's."""
    _excluded.discard(pid)


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, handles: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start the trainer in a session of its own; its output comes through one pipe, and it inherits the `handles`.

    The hook asks the kernel itself to die with this runner, so nothing has to run between fork and exec.
    """
    return subprocess.Popen(
        list(argv),
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=handles,
    )


def marked(job_id: str, epoch: int) -> list[int]:
    """Return every other process on this machine whose environment names the job and this or an earlier epoch."""
    return [pid for pid in psutil.pids() if pid != os.getpid() and _is_marked(_read(pid, "environ"), job_id, epoch)]


def _is_marked(environ: bytes, job_id: str, epoch: int) -> bool:
    if f"{MARK}={job_id}".encode() not in environ:
        return False
    known = dict(entry.partition(b"=")[::2] for entry in environ.split(b"\0"))
    its_epoch = known.get(MARK_EPOCH.encode(), b"")
    return known.get(MARK.encode()) == job_id.encode() and its_epoch.isdigit() and int(its_epoch) <= epoch


def _read(pid: int, name: str) -> bytes:
    """Return a file of /proc/PID; nothing where the process is gone or another user's.

    psutil reads two more files for each, and each start of a trainer looks at all processes.
    """
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123 - a hot loop
            return file.read()
    except OSError:
        return b""


def _state_and_parent(pid: int) -> tuple[bytes, int]:
    """Return R, S, D, Z, X … and the parent's pid; X and 0 where there is no such process."""
    # The name in parentheses may hold anything.
    state, parent, *_ = *_read(pid, "stat").rpartition(b") ")[2].split(b" ", 2), b"", b""
    return (state, int(parent)) if parent.isdigit() else (b"X", 0)


def send(pid: int, signum: int) -> None:
    """Send a signal to a process; one that is gone already is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def that_catch(signum: int, pids: Sequence[int]) -> list[int]:
    """Return those that have a handler for this signal; it would kill the others."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError, StopIteration, ValueError):
            status = Path(f"/proc/{pid}/status").read_text().splitlines()
            caught = int(next(line for line in status if line.startswith("SigCgt:")).split()[1], 16)
            if caught >> (signum - 1) & 1:
                found.append(pid)
    return found


def descendants(pid: int) -> list[int]:
    """Return every living process below this one, whatever its session, group and environment, but the excluded."""
    children: dict[int, list[int]] = {}
    for child in psutil.pids():
        children.setdefault(_state_and_parent(child)[1], []).append(child)
    pids, level = list[int](), [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, []) if child not in _excluded]
        pids += level
    return [pid for pid in pids if not is_dead(pid)]


def kill_all(job_id: str, epoch: int, *, patience: float | None = None) -> list[int]:
    """SIGKILL all of the job up to this epoch until nothing is left; return what lives after `patience` seconds.

    A later epoch is left alone: its runner may be on this very box. After `become_subreaper` every descendant counts as
    the job's.
    """
    give_up = time.monotonic() + (UNKILLABLE_SECONDS if patience is None else patience)
    pause = LOOK_SECONDS[0]
    while pids := _living(job_id, epoch):
        for pid in pids:
            send(pid, signal.SIGKILL)
        if time.monotonic() >= give_up:
            return pids
        time.sleep(pause)
        pause = min(2 * pause, LOOK_SECONDS[1])
    return []


def _living(job_id: str, epoch: int) -> list[int]:
    ours = [pid for pid in marked(job_id, epoch) if not is_dead(pid)]
    return sorted({*ours, *(descendants(os.getpid()) if _is_subreaper else [])})


def is_dead(pid: int) -> bool:
    """Return whether there is no such process, or only its exit code is left."""
    return _state_and_parent(pid)[0] in (b"Z", b"X", b"x")


def end(trainer: subprocess.Popen[bytes], job_id: str, epoch: int) -> list[int]:
    """End the trainer with SIGINT, then all of the job with SIGKILL; return what did not die, as `kill_all` does."""
    send(trainer.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        trainer.wait(POLITE_SECONDS)
    return kill_all(job_id, epoch)

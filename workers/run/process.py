"""The trainer's process: started in a session of its own, ended with all its descendants."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Every process of a run carries this in its environment, also one that left group and session.
MARK, MARK_EPOCH = "PI0Q_JOB", "PI0Q_EPOCH"
#: Seconds between a polite signal and SIGKILL when a job is cancelled.
POLITE_SECONDS = 5.0
#: Seconds after SIGKILL in which a process dies, unless it hangs in its driver or on a dead disk (state D).
UNKILLABLE_SECONDS = 60.0
#: Between two looks at whether it is dead, seconds: the first and the longest.
LOOK_SECONDS = (0.01, 0.5)
PR_SET_CHILD_SUBREAPER = 36

_adopting = False
#: Children that serve no trainer, and are ended by whoever started them.
_spared: set[int] = set()


def adopt() -> None:
    """From now on whatever loses its parent among our descendants becomes our child, and `kill_all` finds it.

    Only for a process all of whose children belong to its one run.
    """
    global _adopting
    _adopting = ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def spare(pid: int, *, no_more: bool = False) -> None:
    """`kill_all` leaves this child and what is below it alone from now on, or `no_more`."""
    (_spared.discard if no_more else _spared.add)(pid)


def spawn(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> subprocess.Popen[bytes]:
    """Starts the trainer in a session of its own; its output comes through one pipe.

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
    )


def marked(job_id: str, epoch: int) -> list[int]:
    """Every process on this machine that belongs to a run of the job under this epoch or an earlier one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environ = dict(pair.partition(b"=")[::2] for pair in (entry / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        theirs = environ.get(MARK_EPOCH.encode(), b"").decode()
        if environ.get(MARK.encode()) == job_id.encode() and theirs.isdigit() and int(theirs) <= epoch:
            found.append(int(entry.name))
    return found


def send(pid: int, signum: int) -> None:
    """Signals one process; one that is gone already is no fault."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def that_catch(signum: int, pids: Sequence[int]) -> list[int]:
    """Those that have a handler for this signal; it would end the others."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError, StopIteration, ValueError):
            status = Path(f"/proc/{pid}/status").read_text().splitlines()
            caught = int(next(line for line in status if line.startswith("SigCgt:")).split()[1], 16)
            if caught >> (signum - 1) & 1:
                found.append(pid)
    return found


def descendants(pid: int) -> list[int]:
    """Every living process below this one, whatever session, group and environment it has, but those spared."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found, below = list[int](), [pid]
    while below:
        below = [child for parent in below for child in children.get(parent, []) if child not in _spared]
        found += below
    return [pid for pid in found if not _dead(pid)]


def kill_all(job_id: str, epoch: int, *, patience: float | None = None) -> list[int]:
    """SIGKILLs everything of the job up to this epoch until nothing is left; what is after `patience` seconds.

    A later epoch is spared: its runner may be on this very box. After `adopt` every descendant is of the job.
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
    ours = [pid for pid in marked(job_id, epoch) if not _dead(pid)]
    return sorted({*ours, *(descendants(os.getpid()) if _adopting else [])})


def _dead(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def end(trainer: subprocess.Popen[bytes], job_id: str, epoch: int) -> list[int]:
    """Ends the trainer politely, then everything of the job by force; what did not die, as for `kill_all`."""
    send(trainer.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        trainer.wait(POLITE_SECONDS)
    return kill_all(job_id, epoch)

"""The trainer's process: started in a session of its own, ended with all its descendants."""

from __future__ import annotations

import contextlib
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


def kill_all(job_id: str, epoch: int) -> int:
    """SIGKILLs everything of the job up to this epoch until nothing is left; how many processes that were.

    A later epoch is spared: its runner may be on this very box.
    """
    killed: set[int] = set()
    while pids := [pid for pid in marked(job_id, epoch) if not _dead(pid)]:
        killed |= set(pids)
        for pid in pids:
            send(pid, signal.SIGKILL)
        time.sleep(0.01)
    return len(killed)


def _dead(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def end(trainer: subprocess.Popen[bytes], job_id: str, epoch: int) -> None:
    """Ends the trainer politely, then everything of the job by force."""
    send(trainer.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        trainer.wait(POLITE_SECONDS)
    kill_all(job_id, epoch)
    trainer.wait()

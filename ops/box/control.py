"""Start, stop and look up the supervisor and the worker of a box that no systemd unit runs."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pi0q.jobs.errors import Pi0qError
from pi0q.ops.box import pidfile
from pi0q.ops.box.pidfile import ProcessRef
from pi0q.ops.supervisor import log_tail
from pi0q.queue.setting_readers import READERS

#: Seconds that a worker has to stop by itself; its trainings continue either way.
STOP_SECONDS = 30.0
#: Seconds that a new supervisor has to write its pid file; one that exits is not waited for.
START_SECONDS = 60.0
POLL_SECONDS = 0.05
#: Variables that a supervisor does not inherit: files hold them, and a later change of a file must win.
NOT_INHERITED = {f"PI0Q_{name.upper()}" for name in READERS} | {
    "HF_TOKEN",
    "HF_HOME",
    "WANDB_API_KEY",
    "SWANLAB_API_KEY",
    "TMPDIR",
}
#: Supervisors that this process started; they outlive it.
_started: list[subprocess.Popen[bytes]] = []


def worker_log(home: Path) -> Path:
    """Return the log of worker and supervisor."""
    return home / "logs" / "worker.log"


def environment_file(home: Path) -> Path:
    """Return the file with the worker's environment besides its settings: cache directories, trackers' keys."""
    return home / "box.env"


def read_environment(home: Path) -> dict[str, str]:
    """Return the NAME=VALUE lines of the environment file; empty where there is none."""
    try:
        lines = environment_file(home).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return {}
    return dict(line.partition("=")[::2] for line in lines if "=" in line and not line.startswith("#"))


def supervisor(home: Path) -> ProcessRef | None:
    """Return the supervisor of this home if it is alive."""
    return pidfile.read(home, pidfile.SUPERVISOR)


def worker(home: Path) -> ProcessRef | None:
    """Return the worker that a supervisor started if it is alive; it may outlive its supervisor."""
    return pidfile.read(home, pidfile.WORKER)


def worker_locked(home: Path) -> bool:
    """Return whether a worker holds its lock, whoever started it."""
    try:
        lock = os.open(home / "worker.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def start(home: Path, env: Mapping[str, str]) -> ProcessRef:
    """Return the supervisor that runs, or start one detached from the caller. Raises Pi0qError if it does not start."""
    if running := supervisor(home):
        return running
    log = worker_log(home)
    log.parent.mkdir(parents=True, exist_ok=True)
    inherited = {name: value for name, value in env.items() if name not in NOT_INHERITED}
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pi0q.ops.box.supervisor_main"],
            env=inherited | {"PI0Q_HOME": str(home)},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        # Another start may have been faster.
        if running := supervisor(home):
            return running
        if process.poll() not in (None, 0):
            break
        time.sleep(POLL_SECONDS)
    tail = "\n".join(f"  {line}" for line in log_tail(log)) or "  (it is empty)"
    raise Pi0qError(f"The box's supervisor did not start; nothing runs. The end of {log}:\n{tail}")


def stop(home: Path) -> bool:
    """End supervisor and worker, in this order; trainings continue. Return whether one of them ran.

    A supervisor of an older version is found by the same file and ends by the same signal.
    """
    processes = ((supervisor(home), 2 * STOP_SECONDS), (worker(home), STOP_SECONDS))
    for process, patience in processes:
        if process is not None:
            _end(process, patience)
    pidfile.remove(home)
    return any(process for process, _ in processes)


def remove_lock(home: Path) -> None:
    """Remove the supervisor's lock file, once it has ended."""
    (home / "keeper.lock").unlink(missing_ok=True)


def _end(process: ProcessRef, patience: float) -> None:
    process.signal(signal.SIGTERM)
    give_up = time.monotonic() + patience
    while process.alive and time.monotonic() < give_up:
        time.sleep(POLL_SECONDS)
    process.signal(signal.SIGKILL)

"""`keeper.json`: which processes supervise and run a box's worker, by pid and start time.

AutoDL gives the pids of a container's last life to other processes, so a pid alone names nothing. The file's name and
fields are fixed: supervisors and commands of different versions read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from pi0q.workers.host import identity
from pi0q.workers.host.files import write_atomic

NAME = "keeper.json"
#: Fields of the file.
SUPERVISOR, WORKER = "keeper", "worker"


@dataclass(frozen=True, kw_only=True)
class ProcessRef:
    """A process, by its pid and the start time that tells it from a later process with the same pid."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        return identity.start_time(self.pid) == self.start

    def signal(self, sig: signal.Signals) -> None:
        """Send a signal to it; do nothing once it has ended."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)


def read(home: Path, role: str) -> ProcessRef | None:
    """Return the process with this role (SUPERVISOR, WORKER) if it is alive."""
    try:
        content = json.loads((home / NAME).read_text(encoding="utf-8"))
        process = ProcessRef(pid=int(content[role]["pid"]), start=int(content[role]["start"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Start times begin anew with the host.
    return process if content.get("boot") == identity.boot() and process.alive else None


def write(home: Path, *, worker_pid: int | None) -> None:
    """Record this process as the supervisor, and the worker that it runs. Raises OSError."""
    content: dict[str, object] = {"boot": identity.boot(), SUPERVISOR: _entry(os.getpid())}
    if worker_pid is not None:
        content[WORKER] = _entry(worker_pid)
    write_atomic(home / NAME, json.dumps(content))


def remove(home: Path) -> None:
    """Forget both processes."""
    (home / NAME).unlink(missing_ok=True)


def _entry(pid: int) -> dict[str, int | None]:
    return {"pid": pid, "start": identity.start_time(pid)}

"""Processes that hold namespaces: started, waited for until they say that they are up, ended as one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1


def hold(argv: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts what says `up` on a line of its own when its namespaces are ready; it dies with this process.

    Raises OSError, with what it said instead.
    """
    process = subprocess.Popen(
        list(argv),
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    assert process.stdout is not None
    if (said := process.stdout.readline()) != "up\n":
        with process:
            raise OSError(f"{argv[0]} ended: {said}{process.stdout.read()}")
    return process


def first(process: subprocess.Popen[str]) -> int:
    """PID 1 of the namespace that an `unshare --fork` holds, as this machine sees it."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def end(process: subprocess.Popen[str], pid: int) -> None:
    """Kills the process that all others of the namespace end with, and waits until they have."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

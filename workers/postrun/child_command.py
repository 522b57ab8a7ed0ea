"""A command of the trainer's Python that a post-run task runs: bounded, ended with the worker, its words redacted."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from pi0q.workers.postrun.scheduler import RetryLater, TaskContext
from pi0q.workers.runs.redaction import known_secrets
from pi0q.workers.runs.trainer_log import SECRETS, clean
from pi0q.workers.trainer import interpreter

#: Seconds between two looks at whether the worker stops.
LOOK_SECONDS = 0.2
#: The child ends with this worker: another sync of the same run beside it would send all of it twice.
WITH_US = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def trainer_python(context: TaskContext, package: str) -> str:
    """Return the trainer's interpreter, which has that package. Raises RetryLater."""
    given = str(context.task.order.get("python") or "")
    if given and Path(given).exists():
        return given
    found = interpreter.find(context.settings)
    if isinstance(found, interpreter.NoTrainer):
        raise RetryLater(f"no Python with {package} on {context.task.box}: {found.why}", slowly=True)
    return found.python


def run(
    context: TaskContext, argv: Sequence[str], *, env: Mapping[str, str], scratch: Path, limit_seconds: float
) -> tuple[int, str]:
    """Run a command of an interpreter in `scratch`; return its exit code and all that it said.

    Raises RetryLater where it takes too long, or the worker stops.
    """
    log, deadline = scratch / "said.log", time.monotonic() + limit_seconds
    with log.open("wb") as out:
        child = subprocess.Popen(
            [argv[0], "-c", WITH_US, *argv[1:]], env=dict(env), cwd=scratch,
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
        # In the worker's own session: what left it is taken for what a dead runner left behind, and ended.
        try:
            while child.poll() is None:
                if context.stopping.is_set():
                    raise RetryLater("the worker stopped")
                if time.monotonic() > deadline:
                    raise RetryLater(f"{' '.join(argv[-4:])} did not end")
                time.sleep(LOOK_SECONDS)
        finally:
            end(child)
    return child.returncode, log.read_text(errors="replace")


def end(child: subprocess.Popen[bytes]) -> None:
    """End the command and all that it started."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(child.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
    child.kill()
    child.wait()


def last_line(said: str) -> str:
    """Return what it said last, without secrets."""
    known = known_secrets(os.environ, user_home=Path.home())
    secrets = re.compile("|".join([*map(re.escape, known), SECRETS.pattern]))
    lines = [clean(line.encode(), secrets).strip() for line in said.splitlines()]
    return next((line[:200] for line in reversed(lines) if line), "it said nothing")

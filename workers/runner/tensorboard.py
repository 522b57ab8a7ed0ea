"""TensorBoard files of a run, for AutoPanel's tile: the trainer's numbers, handed to a process that writes them.

A process of its own, since a disk that hangs or is full must hold up no event of the trainer: it gets its lines by a
pipe that nobody waits for, and what does not fit is dropped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pi0q.workers.host import helper_process, process_tree
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.tensorboard_scalars import Scalars, directory

#: Packages that can write such files; the first that is installed does.
WRITERS = ("tensorboardX", "tensorboard")
#: Seconds that the writer gets at the trainer's end; it goes on without anyone waiting.
LAST_WRITE_SECONDS = 1.0

log = logging.getLogger(__name__)


def listener(context: RunContext) -> list[TrainerListener]:
    """Return what writes this run's files; nothing where this box wants none, or has no package that does."""
    place = context.settings.tensorboard_dir
    if place is None or context.spec.rehearsal or not any(map(find_spec, WRITERS)):
        return []
    return [TensorBoardLog(directory(place, context.record.name, context.job_id))]


class TensorBoardLog(TrainerListener):
    """Hands numbers to the writer; nothing of it may hold up or end a run."""

    argv = helper_process.module("pi0q.workers.runner.tensorboard_main")

    def __init__(self, place: Path) -> None:
        self.place, self._scalars = place, Scalars()
        self._writer: subprocess.Popen[bytes] | None = None

    def on_event(self, event: Mapping[str, Any]) -> None:
        if event.get("event") == "ready" and self._writer is None:
            step = event.get("step")
            # Steps beyond the checkpoint are done again.
            self._start(first_step=step + 1 if type(step) is int and step >= 0 else 1)
        if (line := self._scalars.of(event)) and self._scalars.is_due(line):
            self._send(line)

    def on_exit(self) -> None:
        """End the writer: it writes what it has and exits by itself."""
        if self._writer is None:
            return
        self._close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._writer.wait(LAST_WRITE_SECONDS)
            process_tree.include(self._writer.pid)

    def _start(self, first_step: int) -> None:
        try:
            self._writer = subprocess.Popen(
                self.argv, env=helper_process.environment(os.environ), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
        except OSError as error:
            log.warning("TensorBoard files are not written: %s", error)
            return
        process_tree.exclude(self._writer.pid)
        assert self._writer.stdin is not None
        os.set_blocking(self._writer.stdin.fileno(), False)
        self._send({"directory": str(self.place), "first_step": first_step})

    def _send(self, line: Mapping[str, Any]) -> None:
        if self._writer is None or self._writer.stdin is None or self._writer.stdin.closed:
            return
        try:
            # Below PIPE_BUF: all of it goes, or nothing.
            os.write(self._writer.stdin.fileno(), json.dumps(line).encode() + b"\n")
        except BlockingIOError:
            pass
        except OSError:
            self._close()

    def _close(self) -> None:
        if self._writer and self._writer.stdin:
            with contextlib.suppress(OSError):
                self._writer.stdin.close()

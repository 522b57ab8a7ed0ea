"""Process that writes the TensorBoard files of one trainer's life.

    {"directory": "/root/tf-logs/NAME-ID", "first_step": 1}                       first line on stdin
    {"step": 10, "t": 1764000000.5, "scalars": {"train/loss": 0.5, ...}}          each further one

Each life of a trainer writes a file of its own into the job's directory. It says at which step it begins: TensorBoard
then hides what an earlier life wrote of that step and those after it, so that the curve of a resumed job is one.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

#: Seconds after which what was written is on the disk for TensorBoard to see.
FLUSH_SECONDS = 5
#: Lines that wait for a slow disk.
MOST_WAITING = 10_000
#: Seconds after its last line in which this process ends, whatever its disk does.
LAST_SECONDS = 120


class Writer(Protocol):
    """What writes one file."""

    def add(self, tag: str, value: float, step: int, at: float) -> None: ...

    def close(self) -> None: ...


class WriterOfX:
    """By tensorboardX."""

    def __init__(self, place: Path, first_step: int) -> None:
        # It would import torch where that is installed: seconds and hundreds of MB for nothing that is used here.
        sys.modules["torch"] = None  # type: ignore[assignment]
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(place), purge_step=first_step, flush_secs=FLUSH_SECONDS)

    def add(self, tag: str, value: float, step: int, at: float) -> None:
        self._writer.add_scalar(tag, value, step, walltime=at)

    def close(self) -> None:
        self._writer.close()


class WriterOfTensorBoard:
    """By tensorboard itself, which needs no torch for it."""

    def __init__(self, place: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(place), flush_secs=FLUSH_SECONDS)
        self._writer.add_event(Event(step=first_step, file_version="brain.Event:2"))
        self._writer.add_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, tag: str, value: float, step: int, at: float) -> None:
        summary = self._summary(value=[self._summary.Value(tag=tag, simple_value=value)])
        self._writer.add_event(self._event(wall_time=at, step=step, summary=summary))

    def close(self) -> None:
        self._writer.close()


WRITERS: tuple[Callable[[Path, int], Writer], ...] = (WriterOfX, WriterOfTensorBoard)


def opened(place: Path, first_step: int) -> Writer:
    """Return the writer of the first package that is installed. Raises ImportError where none is."""
    # A file is named after its second: one of an earlier life would be overwritten, or come after this one.
    while any(place.glob(f"*.tfevents.{int(time.time())}.*")):
        time.sleep(0.05)
    *others, last = WRITERS
    for kind in others:
        try:
            return kind(place, first_step)
        except ImportError:
            continue
    return last(place, first_step)


class Lines(threading.Thread):
    """Reads standard input to its end, whatever the disk does: what the writer is too slow for is dropped."""

    def __init__(self) -> None:
        super().__init__(name="lines", daemon=True)
        self.queue: queue.Queue[dict[str, Any] | None] = queue.Queue(MOST_WAITING)

    def run(self) -> None:
        for line in sys.stdin:
            with contextlib.suppress(queue.Full):
                self.queue.put_nowait(json.loads(line))
        # Its default ends the process, also while a write hangs.
        signal.alarm(LAST_SECONDS)
        self.queue.put(None)


def main() -> None:
    """Write until standard input ends. Any error ends this process alone."""
    # It ends with its input: what stops the run is none of its business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lines = Lines()
    lines.start()
    try:
        if (begin := lines.queue.get()) is None:
            return
        writer = opened(Path(begin["directory"]), begin["first_step"])
        while (line := lines.queue.get()) is not None:
            for tag, value in line["scalars"].items():
                writer.add(tag, value, line["step"], line["t"])
        writer.close()
    except Exception as error:
        print(f"TensorBoard files are not written: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        # The thread may be in the middle of a line.
        os._exit(1)


if __name__ == "__main__":
    main()

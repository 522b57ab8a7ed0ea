"""Turn what a trainer prints and sends into events.

The hook sends its events through a pipe. A LeRobot that can't be hooked sends only `start`; then steps and saves are
read off its console, and a save is known to be complete when LeRobot's `last` link points to it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pi0q.jobs.checkpoint import step_of
from pi0q.workers.runs.event_log import EventLog
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.trainer_log import Log
from pi0q.workers.trainer import console
from pi0q.workers.trainer.console import Console

Event = Mapping[str, Any]

log = logging.getLogger(__name__)


class LastLink:
    """LeRobot's link `checkpoints/last`."""

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints
        self._seen = self._target()

    def _target(self) -> str:
        link = self.checkpoints / "last"
        return link.readlink().name if link.is_symlink() else ""

    def saved(self) -> Iterator[Event]:
        """Yield the event of a save that the link points to since the last call."""
        name = self._target()
        if name != self._seen and (step := step_of(name)) is not None:
            self._seen = name
            yield {"event": "saved", "t": time.time(), "step": step, "path": str(self.checkpoints / name)}


class EventReader:
    """Reads one life of a trainer; its output goes into the run's log, its events into the event log."""

    def __init__(self, trainer_log: Log, directory: RunDirectory, *, steps: int) -> None:
        """`steps`: the training's last step."""
        self.trainer_log = trainer_log
        #: Whether the trainer sends its steps and saves itself.
        self.hooked = True
        self._event_log = EventLog(directory.events)
        self._console, self._last_link = Console(steps), LastLink(directory.checkpoints)
        self._partial = b""

    def from_output(self, chunk: bytes) -> Iterator[Event]:
        """Log what the trainer printed; yield the events in it."""
        now = time.time()
        if not self.hooked and (bar := self._console.bar(chunk, now)):
            yield bar
        for line in self.trainer_log.write(chunk):
            if console.compiling(line):
                yield {"event": "compiling", "t": now}
            if not self.hooked and (event := self._console.line(line, now)):
                yield event
        if not self.hooked:
            # LeRobot moves the link once a save is whole, whatever it prints next: its line of a step may come behind a
            # bar that was further already.
            yield from self._last_link.saved()

    def from_rank(self, rank: int, chunk: bytes) -> None:
        """Log what a rank other than 0 printed."""
        self.trainer_log.ranks.logs[rank].write(chunk)

    def from_pipe(self, data: bytes) -> Iterator[Event]:
        """Write down what the hook sent; yield the events in it."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for raw in lines:
            # An exception's message may quote an address with a password in it.
            line = self.trainer_log.hide(raw.decode(errors="replace"))
            self._event_log.add(line.encode())
            event: Any = None
            with contextlib.suppress(ValueError):
                event = json.loads(line)
            if isinstance(event, dict):
                self._note_hook(event)
                yield event
        if not self.hooked:
            # What was printed before its `start` was read was not looked at.
            yield from self._last_link.saved()

    def _note_hook(self, event: Event) -> None:
        if event.get("event") == "start" and not event.get("hooked", True):
            self.hooked = False
            log.info("this LeRobot can't be hooked: progress comes from its log, and it saves only when it would")

    def finish(self) -> Iterator[Event]:
        """Yield the event that nothing printed announces: the last save of a trainer without a hook."""
        if not self.hooked:
            yield from self._last_link.saved()

    def close(self) -> None:
        self._event_log.close()

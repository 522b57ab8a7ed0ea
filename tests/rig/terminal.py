"""A real terminal for a command: a pty of the kernel, and pyte, which draws what the command writes to it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping

import pyte

from tests.conftest import PATIENCE


class Terminal:
    """One command on a screen of so many columns and rows."""

    def __init__(self, *args: str, env: Mapping[str, str], columns: int, rows: int) -> None:
        self._ours, theirs = pty.openpty()
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        #: Everything that the command wrote.
        self.written = b""
        self.resize(columns, rows)
        #: How the terminal was set before.
        self._before = termios.tcgetattr(theirs)
        command = [sys.executable, "-m", "pi0q.queue.cli", *args]
        # Of a session of its own, whose terminal this is: a resize signals it.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs, env={**env}
        )
        self._theirs = theirs

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window, as a user who pulls at its corner."""
        self._screen.resize(rows, columns)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    @property
    def lines(self) -> list[str]:
        """Return what the screen shows."""
        return [line.rstrip() for line in self._screen.display]

    def until(self, shown: Callable[[str], object]) -> str:
        """Read until the screen shows something; return the screen."""
        give_up = time.monotonic() + PATIENCE
        while not shown(text := "\n".join(self.lines)):
            assert time.monotonic() < give_up, text
            self._read(0.2)
        return text

    def ended(self) -> int:
        """Read until the command has ended; return its exit code."""
        give_up = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < give_up, "\n".join(self.lines)
            self._read(0.1)
        while self._read(0.0):
            pass
        return self.process.returncode

    @property
    def is_restored(self) -> bool:
        """Return whether line editing is as before, the cursor is shown, and no mouse is listened to."""
        shown, mouse = self.written.rfind(b"\x1b[?25h"), self.written.rfind(b"\x1b[?1003l")
        left = self.written.rfind(b"\x1b[?1049l") > self.written.rfind(b"\x1b[?1049h")
        return (
            left
            and shown > self.written.rfind(b"\x1b[?25l")
            and mouse > self.written.rfind(b"\x1b[?1003h")
            and termios.tcgetattr(self._theirs) == self._before
        )

    def close(self) -> None:
        """End the command, if it still runs, and give the pty back."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        new = os.read(self._ours, 1 << 16)
        self.written += new
        self._stream.feed(new)
        return True

"""Single keys of a terminal, without waiting for Enter."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class TerminalKeys:
    """Reads keys while it is entered; without a terminal on standard input there are none."""

    def __enter__(self) -> TerminalKeys:
        self._before: list[Any] | None = None
        if sys.stdin.isatty():
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def pressed(self) -> str:
        """Return the keys that were pressed since the last call."""
        if self._before is None:
            return ""
        import os
        import select

        ready, _, _ = select.select([sys.stdin], [], [], 0)
        return os.read(sys.stdin.fileno(), 1024).decode(errors="replace") if ready else ""

"""Event writer: one JSON object a line to the runner's FIFO."""

from __future__ import annotations

import json
import math
import os
import time

#: PIPE_BUF is 4096: up to there one write to a FIFO is whole or not at all
LINE_BYTES = 4095
#: how long a full FIFO may hold up an event that matters; a `step` is dropped at once, seconds
PATIENCE_S = 2.0
#: what a rank that is not the first tells, all of it with its number
OF_RANKS = ("start", "nonfinite", "cause", "error")


class Events:
    """Writes whole lines or none; never raises, and never blocks the training for more than PATIENCE_S."""

    def __init__(self, path: str | None, rank: int = 0) -> None:
        """`rank`: all ranks but the first send OF_RANKS alone, as `rank_error` for `error`, with their number."""
        self.path, self.fd, self.rank = path, -1, rank

    def send(self, event: str, **fields: object) -> None:
        if self.rank and event not in OF_RANKS:
            return
        told: dict[str, object] = {"event": f"rank_{event}", "rank": self.rank} if self.rank else {"event": event}
        line = encode({**told, "t": time.time(), **fields})
        patience = time.monotonic() + (0 if event == "step" else PATIENCE_S)
        while self.path and not self._write(self.path, line) and time.monotonic() < patience:
            time.sleep(0.02)

    def _write(self, path: str, line: bytes) -> bool:
        """Return whether there is nothing left to try: the line is written, or nobody reads."""
        try:
            if self.fd < 0:
                self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
            os.write(self.fd, line)
        except BlockingIOError:
            return False
        except OSError:
            if self.fd >= 0:
                os.close(self.fd)
            self.fd = -1
        return True


def encode(event: dict[str, object]) -> bytes:
    """Return one line of JSON, at most LINE_BYTES: the longest text is cut to fit; NaN and inf become null."""
    event = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in event.items()}
    while len(line := json.dumps(event, ensure_ascii=False).encode(errors="replace") + b"\n") > LINE_BYTES:
        longest = max(event, key=lambda key: len(str(event[key])))
        event[longest] = str(event[longest])[: len(str(event[longest])) * 3 // 4]
    return line

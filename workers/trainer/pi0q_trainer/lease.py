"""Lease of the run as the trainer sees it: a file that the runner renews."""

from __future__ import annotations

import math
import mmap
import os
import signal
import struct
import threading
import time

from .exits import LEASE_OVER

#: the longest time between two looks at the lease, seconds
LOOK_S = 1.0


class Lease:
    """Until when this process may go on, as its runner wrote it last."""

    def __init__(self, path: str | None) -> None:
        self.file, self.fenced = None, False
        if path:
            with open(path, "rb") as file:  # noqa: PTH123 (a mapping wants a handle)
                self.file = mmap.mmap(file.fileno(), 16, prot=mmap.PROT_READ)
            threading.Thread(target=self.watch, name="pi0q lease", daemon=True).start()

    def look(self) -> float:
        """Stop or exit where a time is past; return the seconds until the next one."""
        if self.file is None:
            return math.inf
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        fence, end = struct.unpack("<QQ", self.file[:])  # one copy: never half of a number
        if now >= end:
            os._exit(LEASE_OVER)  # no step, no save, no push, not a word to WandB: another may be at work
        if now >= fence and not self.fenced:
            self.fenced = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        return float((end if self.fenced else fence) - now) / 1e9

    def watch(self) -> None:
        while True:
            time.sleep(min(LOOK_S, self.look()))

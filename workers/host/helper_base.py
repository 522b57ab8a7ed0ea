"""Child side of a helper process: one JSON request on stdin, lines of JSON on stdout, killed with its parent.

The parent side is `helper_process`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

_PDEATHSIG = 1


class HelperProcess:
    """Serves one request; a subclass says how."""

    #: Seconds between two heartbeats.
    heartbeat_seconds = 0.25
    #: Whether an error of pi0q's own is told the parent as {"bug": traceback}; else it is the exit code and stderr.
    reports_bugs = True

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.request = request
        #: Bytes that were moved so far.
        self.counted = 0
        self._beaten = 0
        # A descriptor of its own: `main` sends whatever a library prints to stderr.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve the request."""
        raise NotImplementedError

    def emit(self, **line: object) -> None:
        """Send one line to the parent."""
        with self._lock:
            print(json.dumps(line), file=self._out, flush=True)

    def count(self, size: int) -> None:
        """Note that so many bytes were moved."""
        self.counted += size

    def start_heartbeat(self) -> None:
        """Send heartbeats from now on, for as long as there is progress."""
        threading.Thread(target=self.beat, name="heartbeat", daemon=True).start()

    def beat(self) -> None:
        """Send a heartbeat whenever `progressed` says so, for ever."""
        while True:
            if self.progressed():
                self.heartbeat()
            time.sleep(self.heartbeat_seconds)

    def progressed(self) -> bool:
        """Return whether something was done since this was last asked."""
        before, self._beaten = self._beaten, self.counted
        return self._beaten != before

    def heartbeat(self) -> None:
        """Send one heartbeat."""
        self.emit(alive=self.counted)


def main(kind: type[HelperProcess]) -> None:
    """Serve the request on standard input, then exit."""
    request = json.loads(sys.stdin.readline())
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request["parent"]:
        return
    helper = kind(request)
    os.dup2(2, 1)
    code = 0
    try:
        helper.run()
    except Exception:
        if helper.reports_bugs:
            helper.emit(bug=traceback.format_exc(limit=-6))
        else:
            traceback.print_exc()
            code = 1
    sys.stderr.flush()
    # Threads that wait for the network would keep the process.
    os._exit(code)

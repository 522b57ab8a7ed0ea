"""A command that Ctrl-C ended exits, whatever lock the interrupt left held."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import threading
from pi0q.queue.commands.common import leave_after_interrupt

class Subscription:
    def __init__(self):
        self.lock = threading.Lock()
        self.lock.acquire()

    def __del__(self):
        self.lock.acquire()

left = Subscription()
print("told", flush=False)
leave_after_interrupt(130)
"""


def test_leave_after_interrupt_runs_no_finalizers_and_loses_no_output() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (130, "told\n")

"""What a worker that is told to stop says, however hurriedly it is told."""

from __future__ import annotations

import subprocess
import sys

#: The second signal comes while the first is being handled: in the midst of `stopping.set()`.
NESTED = """
import os, signal, types
from pi0q.workers.agent.shutdown import Shutdown

class Stopping:
    def set(self):
        os.kill(os.getpid(), signal.SIGQUIT)

made = types.SimpleNamespace
box = made(context=made(stopping=Stopping()), runs=made(attended={"job": None}))
Shutdown(box).listen()
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()
"""


def test_a_signal_in_the_midst_of_another_takes_away_no_word() -> None:
    said = subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True, timeout=100, check=False)
    assert said.returncode == 0
    assert said.stderr == "pi0q: Stopping. The training goes on; the next worker here re-attaches to it.\n"

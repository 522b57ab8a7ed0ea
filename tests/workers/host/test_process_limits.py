"""Limits that children inherit."""

from __future__ import annotations

import subprocess
import sys


def test_forbid_core_dumps_holds_for_children() -> None:
    code = (
        "import subprocess, sys; from pi0q.workers.host import process_limits; process_limits.forbid_core_dumps();"
        "subprocess.run([sys.executable, '-c', 'import resource; print(resource.getrlimit(resource.RLIMIT_CORE))'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(0, 0)\n"

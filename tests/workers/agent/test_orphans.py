"""What a dead runner leaves behind is ended, and nothing else."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import psutil

from tests.conftest import PATIENCE

#: A runner in little: its child leaves session and environment, has a child itself, and loses its parent.
RUNNER = """
import os, subprocess
if os.fork() == 0:
    os.setsid()
    grandchild = subprocess.Popen(["sleep", "600"], env={}, start_new_session=True)
    print(os.getpid(), grandchild.pid, flush=True)
    os.execve("/bin/sleep", ["sleep", "600"], {})
os.wait()
"""
#: A worker in little: each line that it reads is answered with the pids that it ended.
WORKER = f"""
import subprocess, sys
from pi0q.workers.agent.launcher import Launcher
from pi0q.workers.agent.orphans import Orphans, foreign_children

def start(*argv, **how):
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **how)

stranger = start("sleep", "600", start_new_session=True)
orphans = Orphans(Launcher(), foreign_children())
orphans.adopt()
helper = start("sleep", "600")
named = "pi0q.workers.runner.runner_main"
idle = start(sys.executable, "-c", "import time; time.sleep(600)", named, start_new_session=True)
runner = start(sys.executable, "-c", {RUNNER!r}, named, start_new_session=True)
print(stranger.pid, helper.pid, idle.pid, runner.pid, runner.stdout.readline().strip(), flush=True)
for line in sys.stdin:
    print(*orphans.end(), flush=True)
"""


def test_orphans_die_with_all_below_them_and_no_one_else_does() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin and worker.stdout

        def end() -> set[int]:
            assert worker.stdin and worker.stdout
            worker.stdin.write("\n")
            worker.stdin.flush()
            return {int(pid) for pid in worker.stdout.readline().split()}

        # Each known by its start as well: a pid may be another's soon.
        started = [psutil.Process(int(pid)) for pid in worker.stdout.readline().split()]
        stranger, helper, idle, runner, child, grandchild = started
        try:
            assert end() == set(), "its runner lives"
            runner.kill()
            killed = set[int]()
            until = time.monotonic() + PATIENCE
            # One that a busy machine takes long to bury is told by no answer; it is gone all the same.
            while child.is_running() or grandchild.is_running():
                killed |= end()
                assert time.monotonic() < until, "they live"
            assert killed <= {child.pid, grandchild.pid}
            assert all(process.status() != psutil.STATUS_ZOMBIE for process in (stranger, helper, idle))
            assert not runner.is_running(), "it is buried"
        finally:
            for process in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            worker.kill()

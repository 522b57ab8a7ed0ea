"""The child side of a helper process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from pi0q.workers.host import helper_process

CHILD = """
import os, sys, time
from pi0q.workers.host import helper_base

class Child(helper_base.HelperProcess):
    heartbeat_seconds = 0.01
    reports_bugs = {reports_bugs}
    def run(self):
        {run}

helper_base.main(Child)
"""


def child(run: str, *, reports_bugs: bool = True) -> list[str]:
    return [sys.executable, "-c", CHILD.format(run=run, reports_bugs=reports_bugs)]


def run(code: str, **request: Any) -> list[dict[str, Any]]:
    helper = helper_process.Helper(argv=tuple(child(code)), name="the test")
    running = helper_process.run_jsonl(helper, request, env=os.environ, stall_seconds=60.0)
    return [line for line in running if line is not None]


def test_a_request_is_answered_and_prints_of_libraries_are_no_lines() -> None:
    assert run("print('noise', flush=True); self.emit(got=self.request['a'])", a=1) == [{"got": 1}]


def test_an_error_of_its_own_is_reported_as_a_bug() -> None:
    (line,) = run("raise KeyError('lost')")
    assert "KeyError: 'lost'" in line["bug"]


def test_or_by_its_exit_code_and_standard_error() -> None:
    done = subprocess.run(
        child("raise KeyError('lost')", reports_bugs=False),
        input=json.dumps({"parent": os.getpid()}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "") and "KeyError: 'lost'" in done.stderr


def test_it_ends_with_threads_that_hang() -> None:
    hang = "import threading; threading.Thread(target=time.sleep, args=(600,)).start(); self.emit(done=True)"
    assert run(hang) == [{"done": True}]


@pytest.mark.parametrize("parent", [0, 1])
def test_a_child_that_outlived_its_parent_does_nothing(parent: int) -> None:
    done = subprocess.run(
        child("self.emit(done=True)"), input=json.dumps({"parent": parent}), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_heartbeats_come_while_bytes_are_counted_and_then_no_more() -> None:
    code = "self.start_heartbeat(); [(self.count(5), time.sleep(0.1)) for _ in range(2)]; time.sleep(0.2)"
    beats = [line["alive"] for line in run(code)]
    assert beats[-1] == 10 and len(beats) == len(set(beats)) <= 2

"""A runner always waits ready; each takes one order and outlives its launcher."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import psutil
import pytest

from pi0q.workers.agent import launcher as module
from pi0q.workers.agent.launcher import CannotStart, Launcher
from pi0q.workers.runs.run_request import RunRequest

ORDER = RunRequest(job_id="nosuchjob", epoch=1, python="python", lerobot="0.6.1")
SECONDS = 30.0


@pytest.fixture
def launcher(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    opened = Launcher()
    yield opened
    opened.close()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


def test_one_waits_and_is_let_go_at_the_close(launcher: Launcher) -> None:
    before = children()
    launcher.warm()
    launcher.warm()
    (runner,) = children() - before
    assert os.getsid(runner) == runner
    launcher.close()
    launcher.warm()
    assert children() - before == set()


def test_an_order_goes_to_the_one_that_waits(launcher: Launcher) -> None:
    before = children()
    launcher.warm()
    (waiting,) = children() - before
    runner = launcher.launch(ORDER)
    assert runner.pid == waiting
    # There is no such job, which it finds out only if it got the order; without one it would wait on.
    assert runner.wait(SECONDS) == 0


def test_one_that_died_while_it_waited_is_replaced(launcher: Launcher) -> None:
    before = children()
    launcher.warm()
    (waiting,) = children() - before
    psutil.Process(waiting).kill()
    psutil.wait_procs([psutil.Process(waiting)], timeout=SECONDS)
    runner = launcher.launch(ORDER)
    assert runner.pid != waiting and runner.wait(SECONDS) == 0


def test_runners_that_cannot_start_are_told(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def hand(runner: subprocess.Popen[str], order: RunRequest) -> bool:
        runner.kill()
        runner.communicate()
        return False

    monkeypatch.setattr(module, "_hand", hand)
    with pytest.raises(CannotStart, match="see the worker's log"):
        launcher.launch(ORDER)

"""A trainer and all that descends from it, ended for good."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.workers.host import process_tree
from tests.rig.cluster import gone

#: Says a word when it is ready, so that nobody has to guess.
SLEEPER = "import os, signal, time, sys\n{before}\nprint('ready', flush=True)\ntime.sleep(600)"
DEAF = "[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]"
POLITE = "signal.signal(signal.SIGINT, lambda *_: (os.write(1, b'bye\\n'), sys.exit(7)))"


@pytest.fixture
def job() -> Iterator[str]:
    name = secrets.token_hex(6)
    yield name
    process_tree.kill_all(name, 10**9)


def started(job: str, *, epoch: int = 1, before: str = "") -> subprocess.Popen[bytes]:
    marks = {process_tree.MARK: job, process_tree.MARK_EPOCH: str(epoch)}
    code = SLEEPER.format(before=before)
    child = process_tree.spawn([sys.executable, "-S", "-c", code], env=os.environ | marks, cwd=Path("/"))
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    return child


def reaped(child: subprocess.Popen[bytes]) -> int:
    assert child.stdout is not None
    code = child.wait(30)
    child.stdout.close()
    return code


def test_it_runs_in_a_session_of_its_own_with_one_output(job: str) -> None:
    child = started(job)
    assert os.getsid(child.pid) == child.pid
    assert process_tree.marked(job, 1) == [child.pid]
    assert process_tree.kill_all(job, 1) == []
    assert reaped(child) == -signal.SIGKILL
    assert process_tree.marked(job, 1) == []


def test_one_that_left_its_session_and_hears_nothing_is_ended_too(job: str) -> None:
    fork = (
        "import os, subprocess\n"
        f"subprocess.Popen([sys.executable, '-S', '-c', {SLEEPER.format(before=DEAF)!r}], start_new_session=True)"
    )
    marks = {process_tree.MARK: job, process_tree.MARK_EPOCH: "1"}
    code = SLEEPER.format(before=fork)
    child = process_tree.spawn([sys.executable, "-S", "-c", code], env=os.environ | marks, cwd=Path("/"))
    assert child.stdout is not None
    assert [child.stdout.readline(), child.stdout.readline()] == [b"ready\n", b"ready\n"]
    pids = process_tree.marked(job, 1)
    assert len(pids) == 2
    assert process_tree.kill_all(job, 1) == []
    reaped(child)
    assert all(map(gone, pids))


def test_kill_all_leaves_a_later_epoch_and_another_job_alone(job: str) -> None:
    old, new, other = started(job, epoch=2), started(job, epoch=3), started(job + "x", epoch=1)
    assert process_tree.kill_all(job, 2) == []
    assert reaped(old) == -signal.SIGKILL
    assert new.poll() is None and other.poll() is None
    process_tree.kill_all(job, 3)
    process_tree.kill_all(job + "x", 1)
    reaped(new)
    reaped(other)


def test_a_cancelled_trainer_may_say_good_bye(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "POLITE_SECONDS", 60.0)
    child = started(job, before=POLITE)
    process_tree.end(child, job, 1)
    assert child.stdout is not None and child.stdout.read() == b"bye\n"
    assert reaped(child) == 7


def test_a_deaf_trainer_is_ended_after_a_while(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "POLITE_SECONDS", 0.2)
    child = started(job, before=DEAF)
    process_tree.end(child, job, 1)
    assert reaped(child) == -signal.SIGKILL


def test_a_signal_to_one_that_is_gone_is_no_fault(job: str) -> None:
    child = started(job)
    child.kill()
    reaped(child)
    process_tree.send(child.pid, signal.SIGTERM)
    assert process_tree.kill_all(job, 1) == []


#: FAKE runner: its child's child leaves session, group, parent and environment; then it kills all. It prints the
#: stray's pid and whether that is dead.
LEAVING = """
import subprocess
null = subprocess.DEVNULL
print(subprocess.Popen(["sleep", "600"], env={}, start_new_session=True, stdout=null, stderr=null).pid)
"""
RUNNER = """
import os, subprocess, sys
from pi0q.workers.host import process_tree as process
if sys.argv[1] == "subreaper":
    process.become_subreaper()
stray = int(subprocess.run([sys.executable, "-S", "-c", sys.argv[2]], stdout=-1, check=True).stdout)
assert process.kill_all("nobody", 1) == []
print(process.is_dead(stray))
os.kill(stray, 9)
"""


@pytest.mark.parametrize("how", ["subreaper", "no subreaper"])
def test_a_grandchild_that_left_everything_dies_with_the_run(how: str) -> None:
    """FAULTS.md row 35: it has no parent, no session, no group and no environment of ours any more."""
    run = subprocess.run([sys.executable, "-c", RUNNER, how, LEAVING], capture_output=True, text=True, check=False)
    assert (run.stderr, run.stdout.strip()) == ("", str(how == "subreaper"))


def test_without_a_subreaper_kill_all_leaves_other_children_alone(job: str) -> None:
    child, bystander = started(job), subprocess.Popen(["sleep", "60"])
    assert process_tree.kill_all(job, 1) == []
    reaped(child)
    assert bystander.poll() is None and bystander.pid in process_tree.descendants(os.getpid())
    bystander.kill()
    bystander.wait()


def test_what_can_not_be_killed_is_told_after_a_while(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in state D takes no signal; here the signal is what fails."""
    child, send = started(job), process_tree.send
    monkeypatch.setattr(process_tree, "send", lambda pid, signum: None)
    assert process_tree.kill_all(job, 1, patience=0.1) == [child.pid]
    monkeypatch.setattr(process_tree, "send", send)
    assert process_tree.kill_all(job, 1) == []
    reaped(child)


def test_an_excluded_child_and_what_is_below_it_are_no_descendants(job: str) -> None:
    fork = f"import subprocess; subprocess.Popen([sys.executable, '-S', '-c', {SLEEPER.format(before='')!r}])"
    child = started(job, before=fork)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    below = process_tree.descendants(child.pid)
    assert len(below) == 1 and {child.pid, *below} <= set(process_tree.descendants(os.getpid()))
    process_tree.exclude(child.pid)
    assert not {child.pid, *below} & set(process_tree.descendants(os.getpid()))
    process_tree.include(child.pid)
    assert child.pid in process_tree.descendants(os.getpid())
    process_tree.kill_all(job, 1)
    reaped(child)


def test_a_zombie_is_dead_and_no_descendant(job: str) -> None:
    child = started(job)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_tree.is_dead(child.pid) and child.pid not in process_tree.descendants(os.getpid())
    assert process_tree.kill_all(job, 1) == []
    reaped(child)
    assert process_tree.is_dead(child.pid)


def test_a_name_with_a_parenthesis_hides_no_parent(job: str, tmp_path: Path) -> None:
    odd = tmp_path / "a) Z 1 (b"
    odd.symlink_to(sys.executable)
    code = SLEEPER.format(before="")
    child = process_tree.spawn(
        [str(odd), "-S", "-c", code], env=os.environ | {"PYTHONHOME": sys.base_prefix}, cwd=tmp_path
    )
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    assert ") Z 1 (" in Path(f"/proc/{child.pid}/comm").read_text()
    assert child.pid in process_tree.descendants(os.getpid()) and not process_tree.is_dead(child.pid)
    child.kill()
    reaped(child)


def test_a_process_with_bytes_that_are_no_text_in_its_environment_is_found(job: str) -> None:
    marks = {process_tree.MARK: job, process_tree.MARK_EPOCH: "1", "X": os.fsdecode(b"\xff\xfe")}
    code = SLEEPER.format(before="")
    child = process_tree.spawn([sys.executable, "-S", "-c", code], env=os.environ | marks, cwd=Path("/"))
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    assert process_tree.marked(job, 1) == [child.pid]
    assert process_tree.kill_all(job, 1) == []
    reaped(child)

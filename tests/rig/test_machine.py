"""Containers, wrong clocks and real lines, as this machine allows them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import clock, machine
from tests.rig.cluster import gone
from tests.rig.machine import Container, Wire

contained = pytest.mark.skipif(bool(machine.refusal()), reason=f"no containers here: {machine.refusal()}")
wired = pytest.mark.skipif(bool(machine.net_refusal()), reason=f"no own networks here: {machine.net_refusal()}")
shifted = pytest.mark.skipif(bool(clock.missing()), reason=clock.missing())


@pytest.fixture
def container() -> Iterator[Container]:
    made = Container()
    yield made
    made.crash()


def within(container: Container, code: str, cwd: Path) -> str:
    command = container.enter([sys.executable, "-S", "-c", code], cwd)
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


BOOT = "print(open('/proc/1/stat').read().rpartition(')')[2].split()[19])"


@contained
def test_a_restarted_container_has_another_pid_1(container: Container, tmp_path: Path) -> None:
    container.boot()
    first = within(container, BOOT, tmp_path)
    assert within(container, BOOT, tmp_path) == first
    container.crash()
    container.boot()
    assert within(container, BOOT, tmp_path) != first


@contained
def test_nothing_survives_a_crash_and_pids_inside_are_told(container: Container, tmp_path: Path) -> None:
    container.boot()
    deaf = "import os, signal, time; signal.signal(15, 1); os.fork() or os.setsid()"
    deaf += "; os.write(1, b'x\\n'); time.sleep(60)"
    door = subprocess.Popen(container.enter([sys.executable, "-S", "-c", deaf], tmp_path), stdout=subprocess.PIPE)
    assert door.stdout is not None
    assert [door.stdout.readline() for _ in range(2)] == [b"x\n", b"x\n"]
    inside = container.pids()
    assert len(inside) == 2 and 1 not in inside
    # A stopped process must not hold up the crash.
    for outer in inside.values():
        os.kill(outer, signal.SIGSTOP)
    container.crash()
    assert all(gone(pid) for pid in inside.values())
    assert door.wait(10) != 0
    assert not container.up and container.pids() == {}
    door.stdout.close()


@contained
def test_it_works_in_its_directory_and_has_its_own_shared_memory(container: Container, tmp_path: Path) -> None:
    container.boot()
    assert (
        within(container, "import os; print(os.getcwd(), os.listdir('/dev/shm'))", tmp_path).strip() == f"{tmp_path} []"
    )


@wired
def test_a_pulled_line_is_silent_and_goes_on_when_it_is_plugged() -> None:
    container = Container(own_network=True)
    container.boot()
    wire = Wire(container)
    listener = socket.create_server((wire.address, 0))
    talk = f"import socket; s = socket.create_connection(('{wire.address}', {listener.getsockname()[1]}), 60)\n"
    talk += "s.sendall(b'a'); s.recv(1); s.sendall(b'b'); s.recv(1)"
    inside = subprocess.Popen(container.enter([sys.executable, "-S", "-c", talk], Path("/")))
    line, _ = listener.accept()
    line.settimeout(60)
    try:
        assert line.recv(1) == b"a"
        wire.pull()
        line.sendall(b"1")
        line.settimeout(0.3)
        with pytest.raises(TimeoutError):
            line.recv(1)
        wire.plug()
        line.settimeout(60)
        assert line.recv(1) == b"b"
    finally:
        line.close()
        listener.close()
        wire.close()
        container.crash()
        inside.wait()


@shifted
@pytest.mark.parametrize(("by", "seconds"), [("+2h", 7200), ("-2h", -7200)])
def test_a_wrong_clock_is_wrong_in_the_time_of_day_alone(by: str, seconds: int) -> None:
    code = "import time; print(*map(time.clock_gettime, (0, 1, 7)))"

    def told(env: dict[str, str]) -> list[float]:
        done = subprocess.run(
            [sys.executable, "-S", "-c", code], env=os.environ | env, capture_output=True, text=True, check=True
        )
        return [float(word) for word in done.stdout.split()]

    right, wrong = told({}), told(clock.shifted(by))
    assert wrong[0] - right[0] == pytest.approx(seconds, abs=20)
    assert wrong[1] - right[1] < 20 and wrong[2] - right[2] < 20

"""Who a box is: names that survive restarts and never fool us after one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pi0q.queue.settings import Settings
from pi0q.workers.host import identity


def test_its_id_is_made_once_and_kept(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new", box="gpu-1")
    first = identity.read(settings)
    assert identity.read(settings) == first
    assert identity.read(replace(settings, box="renamed")).box_id == first.box_id
    assert identity.read(replace(settings, home=tmp_path / "other")).box_id != first.box_id


def test_an_id_that_a_full_disk_left_empty_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "box.id").touch()
    first = identity.read(Settings(home=tmp_path))
    assert first.box_id and identity.read(Settings(home=tmp_path)) == first


@pytest.mark.parametrize(
    ("host", "name"),
    [("gpu-1.lan", "gpu-1.lan"), ("autodl container_7!", "autodl-container_7"), ("机器", "box"), ("a" * 70, "a" * 40)],
)
def test_any_host_name_makes_a_name(host: str, name: str) -> None:
    assert identity.slug(host) == name


def test_a_start_time_is_that_of_the_process() -> None:
    ticks = identity.start_time(os.getpid())
    assert ticks is not None
    started = psutil.boot_time() + ticks / os.sysconf("SC_CLK_TCK")
    assert started == pytest.approx(psutil.Process().create_time(), abs=1.5)


def test_a_name_with_brackets_and_blanks_does_not_fool_it(tmp_path: Path) -> None:
    sleep = tmp_path / ") R 1 (x"
    shutil.copy("/bin/sleep", sleep)
    with subprocess.Popen([sleep, "60"]) as process:
        plain = psutil.Process(process.pid).create_time() - psutil.boot_time()
        assert identity.start_time(process.pid) == pytest.approx(plain * os.sysconf("SC_CLK_TCK"), abs=150)
        process.kill()


def test_a_process_that_ended_has_none_even_while_nobody_waited_for_it() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.read() == b""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert identity.start_time(process.pid) is None
    process.wait()
    assert identity.start_time(process.pid) is None
    process.stdout.close()


def test_a_boot_is_the_hosts_and_the_containers() -> None:
    host, _, first_process = identity.boot().partition("-")
    assert len(host) == 8 and first_process == str(identity.start_time(1))

"""Memory groups of both versions, as files of a made-up /sys and, where it can be made, a real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.jobs.failures.classify import diagnose
from pi0q.jobs.failures.evidence import Evidence, Memory
from pi0q.jobs.outcome import Reason
from pi0q.workers.host import cgroup_memory

GIB = 1 << 30
MEMINFO = "MemTotal:       67108864 kB\nMemFree: 1 kB\nMemAvailable:   50331648 kB\n"
#: Takes more and more memory until it is killed.
GREEDY = "held = []\nwhile True:\n    held.append(bytearray(b'x') * (1 << 22))\n"


def write(place: Path, **files: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name.replace("__", ".")).write_text(text)


def v2(root: Path, path: str, *, limit: str, used: int, idle: int = 0, kills: int = 0) -> None:
    write(root / path, memory__max=f"{limit}\n", memory__current=f"{used}\n",
          memory__stat=f"anon 1\ninactive_file {idle}\n",
          memory__events=f"low 0\noom 3\noom_kill {kills}\noom_group_kill 0\n")  # fmt: skip
    write(root, cgroup__controllers="memory\n")


def v1(root: Path, path: str, *, limit: int, used: int, idle: int = 0, kills: int = 0) -> None:
    write(root / "memory" / path, memory__limit_in_bytes=str(limit), memory__usage_in_bytes=str(used),
          memory__stat=f"inactive_file 1\ntotal_inactive_file {idle}\n",
          memory__oom_control=f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")  # fmt: skip


def seen(root: Path, own: str) -> Memory:
    (root / "own").write_text(own)
    (root / "meminfo").write_text(MEMINFO)
    return cgroup_memory.now(cgroup_memory.groups(root, root / "own"), meminfo=root / "meminfo")


def test_a_container_of_v2_has_its_limit_and_what_can_t_be_had_back(tmp_path: Path) -> None:
    v2(tmp_path, "a/b", limit=str(16 * GIB), used=12 * GIB, idle=2 * GIB, kills=1)
    v2(tmp_path, "a", limit="max", used=13 * GIB)
    told = seen(tmp_path, "0::/a/b\n")
    assert told == Memory(oom_kills=1, limit_mib=16384, used_mib=10240, container=True)


def test_the_tightest_limit_counts_also_where_a_parent_has_it(tmp_path: Path) -> None:
    v2(tmp_path, "a/b", limit=str(32 * GIB), used=2 * GIB)
    v2(tmp_path, "a", limit=str(8 * GIB), used=7 * GIB, kills=4)
    assert seen(tmp_path, "0::/a/b\n") == Memory(oom_kills=4, limit_mib=8192, used_mib=7168, container=True)


def test_a_container_of_v1_whose_path_is_the_hosts(tmp_path: Path) -> None:
    v1(tmp_path, "", limit=4 * GIB, used=3 * GIB, idle=GIB, kills=2)
    told = seen(tmp_path, "9:cpu:/x\n4:memory:/docker/0123abcd\n0::/\n")
    assert told == Memory(oom_kills=2, limit_mib=4096, used_mib=2048, container=True)


def test_without_a_limit_it_is_the_machines(tmp_path: Path) -> None:
    v1(tmp_path, "", limit=(1 << 63) - 4096, used=3 * GIB)
    assert seen(tmp_path, "4:memory:/\n") == Memory(oom_kills=0, limit_mib=65536, used_mib=16384)
    assert seen(tmp_path, "nothing of use") == Memory(limit_mib=65536, used_mib=16384)


def test_container_limit_is_the_lowest_limit_of_all_groups(tmp_path: Path) -> None:
    v2(tmp_path, "a/b", limit=str(32 * GIB), used=31 * GIB)
    v2(tmp_path, "a", limit=str(8 * GIB), used=GIB)
    (tmp_path / "own").write_text("0::/a/b\n")
    assert cgroup_memory.container_limit_mib(cgroup_memory.groups(tmp_path, tmp_path / "own")) == 8192


def test_container_limit_is_none_without_a_limit(tmp_path: Path) -> None:
    v1(tmp_path, "", limit=(1 << 63) - 4096, used=3 * GIB)
    (tmp_path / "own").write_text("4:memory:/\n")
    assert cgroup_memory.container_limit_mib(cgroup_memory.groups(tmp_path, tmp_path / "own")) is None
    assert cgroup_memory.container_limit_mib([]) is None


def test_what_can_not_be_read_is_not_known(tmp_path: Path) -> None:
    assert cgroup_memory.groups(tmp_path, tmp_path / "absent") == []
    assert cgroup_memory.now([], meminfo=tmp_path / "absent") == Memory()


@pytest.fixture
def group() -> Iterator[cgroup_memory.Group]:
    """A real memory group of 64 MiB."""
    v2_root = cgroup_memory.CGROUPS / "cgroup.controllers"
    place = (
        cgroup_memory.CGROUPS if v2_root.exists() else cgroup_memory.CGROUPS / "memory"
    ) / f"pi0q-test-{os.getpid()}"
    made = cgroup_memory.Group(place, v2_root.exists())
    try:
        place.mkdir()
        (place / ("memory.max" if made.v2 else "memory.limit_in_bytes")).write_text(str(64 << 20))
        # Else a machine that swaps gives it gigabytes more.
        swap, most = ("memory.swap.max", 0) if made.v2 else ("memory.memsw.limit_in_bytes", 64 << 20)
        if (place / swap).exists():
            (place / swap).write_text(str(most))
    except OSError as error:
        pytest.skip(f"no memory groups can be made here: {error}")
    yield made
    place.rmdir()


def test_a_real_kill_by_a_memory_group_is_known_for_one(group: cgroup_memory.Group) -> None:
    before = cgroup_memory.now([group])
    assert (before.limit_mib, before.oom_kills, before.container) == (64, 0, True)
    join = f"import os; open({str(group.path / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
    code = subprocess.run([sys.executable, "-c", join + GREEDY], check=False).returncode
    after = cgroup_memory.now([group])
    assert code == -signal.SIGKILL and after.oom_kills == 1
    assert diagnose(Evidence(exit_code=code, memory=after)) is Reason.MEMORY_LIMIT
    # The same signal by a person's hand.
    assert diagnose(Evidence(exit_code=code, memory=before)) is Reason.TRAINER_KILLED

"""How much memory this container may take and takes, and the kernel's kills for it: cgroup v2, v1, or the machine."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from pi0q.jobs.evidence import Memory

MIB = 1024 * 1024
CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
#: A limit from here on is none: v1 says so with a number near 2^63.
NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Group:
    """One memory group that holds this process, and where its numbers are."""

    path: Path
    v2: bool

    @property
    def limit(self) -> int:
        """Bytes; NO_LIMIT or more for none."""
        return _number(self.path / ("memory.max" if self.v2 else "memory.limit_in_bytes"), NO_LIMIT)

    @property
    def used(self) -> int:
        """Bytes that can't be had back: file pages that nobody used lately don't count."""
        usage = _number(self.path / ("memory.current" if self.v2 else "memory.usage_in_bytes"), 0)
        idle = _line(self.path / "memory.stat", "inactive_file" if self.v2 else "total_inactive_file")
        return max(0, usage - (idle or 0))

    @property
    def oom_kills(self) -> int | None:
        """Processes in it and below it that the kernel killed for want of memory, ever."""
        return _line(self.path / ("memory.events" if self.v2 else "memory.oom_control"), "oom_kill")


def groups(cgroups: Path = CGROUPS, own: Path = OWN) -> list[Group]:
    """The memory groups of this process, the innermost first: each may have a limit.

    In a container the path that the kernel names is often the host's: then what is mounted is the container's own.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            v2 = not controllers and (cgroups / "cgroup.controllers").exists()
            if v2 or "memory" in controllers.split(","):
                return _upwards(cgroups if v2 else cgroups / "memory", path, v2=v2)
    return []


def _upwards(root: Path, path: str, *, v2: bool) -> list[Group]:
    inner = root / path.strip("/")
    places = [inner, *inner.parents] if inner.is_dir() else [root]
    return [Group(place, v2) for place in places if place == root or root in place.parents]


def now(held: list[Group], *, meminfo: Path = MEMINFO) -> Memory:
    """What there is and what is taken at this moment, by the tightest limit."""
    total, free = (_line(meminfo, f"{name}:") or 0 for name in ("MemTotal", "MemAvailable"))
    machine = Memory(limit_mib=total // 1024 or None, used_mib=(total - free) // 1024 if total else None)
    limited = [group for group in held if group.limit < min(NO_LIMIT, total * 1024 or NO_LIMIT)]
    kills = [count for group in held if (count := group.oom_kills) is not None]
    if not limited:
        return Memory(oom_kills=max(kills, default=None), limit_mib=machine.limit_mib, used_mib=machine.used_mib)
    tightest = min(limited, key=lambda group: group.limit - group.used)
    return Memory(
        oom_kills=max(kills, default=None),
        limit_mib=tightest.limit // MIB,
        used_mib=tightest.used // MIB,
        container=True,
    )


def _number(path: Path, absent: int) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return absent


def _line(path: Path, name: str) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return None

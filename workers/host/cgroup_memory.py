"""Memory limit, use and OOM kills of this container: cgroup v2, cgroup v1, or the machine's own memory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from pi0q.jobs.failures.evidence import Memory
from pi0q.workers.host.files import MIB

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
#: A limit of this many bytes or more is none: v1 states "no limit" as a number near 2^63.
NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Group:
    """One memory cgroup that holds this process, and the files with its numbers."""

    path: Path
    v2: bool

    @property
    def limit(self) -> int:
        """Limit in bytes; NO_LIMIT or more means none."""
        return _number(self.path / ("memory.max" if self.v2 else "memory.limit_in_bytes"), NO_LIMIT)

    @property
    def used(self) -> int:
        """Bytes that the kernel cannot reclaim: usage without the inactive file pages."""
        usage = _number(self.path / ("memory.current" if self.v2 else "memory.usage_in_bytes"), 0)
        idle = _line(self.path / "memory.stat", "inactive_file" if self.v2 else "total_inactive_file")
        return max(0, usage - (idle or 0))

    @property
    def oom_kills(self) -> int | None:
        """Count of OOM kills in this group and below it since it was made; None if unknown."""
        return _line(self.path / ("memory.events" if self.v2 else "memory.oom_control"), "oom_kill")


def groups(cgroups: Path = CGROUPS, own: Path = OWN) -> list[Group]:
    """Return the memory cgroups of this process, innermost first; each may have a limit.

    In a container, /proc/self/cgroup often names the host's path; then the mounted root is the container's own group.
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
    """Return limit and use at this moment: those of the group with the least memory left, else the machine's."""
    total, free = _machine(meminfo)
    kills = max((count for group in held if (count := group.oom_kills) is not None), default=None)
    limited = _limited(held, total)
    if not limited:
        return Memory(
            oom_kills=kills, limit_mib=total // MIB or None, used_mib=(total - free) // MIB if total else None
        )
    tightest = min(limited, key=lambda group: group.limit - group.used)
    return Memory(oom_kills=kills, limit_mib=tightest.limit // MIB, used_mib=tightest.used // MIB, container=True)


def container_limit_mib(held: list[Group]) -> int | None:
    """Return the lowest limit of these groups in MiB; None where none has a limit.

    Unlike `now`, it does not compare with the machine's memory: lxcfs makes /proc/meminfo state the limit itself.
    """
    return min((group.limit // MIB for group in held if group.limit < NO_LIMIT), default=None)


def _limited(held: list[Group], total: int) -> list[Group]:
    """Return the groups whose limit is below the machine's memory of `total` bytes (0: unknown)."""
    return [group for group in held if group.limit < min(NO_LIMIT, total or NO_LIMIT)]


def _machine(meminfo: Path) -> tuple[int, int]:
    """Return the machine's total and available memory in bytes; 0 for what cannot be read."""
    total, free = (_line(meminfo, f"{name}:") or 0 for name in ("MemTotal", "MemAvailable"))
    return total * 1024, free * 1024


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

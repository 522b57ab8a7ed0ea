"""Who this box is, and since when: names that survive restarts and never fool us after one."""

from __future__ import annotations

import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from pi0q.queue.settings import Settings

HOST_BOOT = Path("/proc/sys/kernel/random/boot_id")
UNKNOWN_HOST = "unknown"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A box."""

    #: Made once and kept on the data disk: two machines of one name are told apart.
    box_id: str
    #: What people call it.
    name: str
    #: Differs after each restart of the host or of the container.
    boot: str


def read(settings: Settings) -> Identity:
    """This box's identity; its id is made at the first call and kept in PI0Q_HOME."""
    file = settings.home / "box.id"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists() or not file.read_text().strip():
        # At once: a full disk or a kill would leave an empty one, and two boxes of no id are taken for one.
        fresh = file.with_suffix(".new")
        fresh.write_text(secrets.token_hex(4) + "\n")
        fresh.replace(file)
    box_id = file.read_text().strip()
    return Identity(box_id=box_id, name=settings.box or slug(socket.gethostname()), boot=boot())


def slug(text: str) -> str:
    """A name for a box out of any host name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:40] or "box"


def boot() -> str:
    """The host's boot and the start of PID 1: in a container the host's uptime says nothing of a restart."""
    host = HOST_BOOT.read_text().strip()[:8] if HOST_BOOT.exists() else UNKNOWN_HOST
    return f"{host}-{start_time(1)}"


def host_of(boot: str) -> str:
    """The part of a boot that stays the same while only the container restarts."""
    return boot.partition("-")[0]


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since the host's boot; None if there is no such process.

    With the pid it names a process for good: pids are used again, most of all after a container restart.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the command in brackets and may itself hold blanks and brackets.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])

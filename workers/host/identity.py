"""Who this box is and since which boot: its id, its name, and the start times of processes."""

from __future__ import annotations

import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from pi0q.queue.settings import Settings
from pi0q.workers.host.files import make_private, write_atomic

HOST_BOOT = Path("/proc/sys/kernel/random/boot_id")
UNKNOWN_HOST = "unknown"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A box."""

    #: Made once and kept on the data disk; it distinguishes two machines of one name.
    box_id: str
    #: What people call it.
    name: str
    #: Differs after each restart of the host or of the container.
    boot: str


def read(settings: Settings) -> Identity:
    """Return this box's identity; its id is made at the first call and kept in PI0Q_HOME."""
    file = settings.home / "box.id"
    make_private(file.parent)
    if not file.exists() or not file.read_text().strip():
        # Atomic: a full disk or a kill would leave an empty file, and two boxes without an id count as one.
        write_atomic(file, secrets.token_hex(4) + "\n")
    box_id = file.read_text().strip()
    return Identity(box_id=box_id, name=box_name(settings), boot=boot())


def box_name(settings: Settings) -> str:
    """Return what people call this machine's box."""
    return settings.box or slug(socket.gethostname())


def slug(text: str) -> str:
    """Return a valid name of a box for any host name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:40] or "box"


def boot() -> str:
    """Return the host's boot and the start of PID 1: only the latter changes when a container restarts."""
    return f"{host_boot()}-{start_time(1)}"


def host_boot() -> str:
    """Return the host's boot, which all its containers share."""
    return HOST_BOOT.read_text().strip()[:8] if HOST_BOOT.exists() else UNKNOWN_HOST


def host_of(boot: str) -> str:
    """Return the part of a boot that stays the same while only the container restarts."""
    return boot.partition("-")[0]


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the host's boot; None if there is no such process.

    Together with the pid it identifies a process: pids are reused, above all after a container restart.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the command in brackets and may itself hold blanks and brackets.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])

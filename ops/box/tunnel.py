"""The ssh tunnel between a box and the queue's server: what it is, its command line, its step of `pi0q box setup`."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pi0q.jobs.errors import UsageError
from pi0q.ops import file_edits
from pi0q.ops.systemd import quoted, unit_file

if TYPE_CHECKING:
    from pi0q.ops.box.plan import Plan

FILE, UNIT = "tunnel.json", "pi0q-tunnel.service"
#: Seconds between ssh's questions to the other end, and how many may stay without an answer.
ALIVE_SECONDS, UNANSWERED = 15, 3
_DESTINATION = re.compile(r"(?P<to>[A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, kw_only=True)
class Tunnel:
    """An ssh connection that carries one port of the loopback address."""

    #: USER@HOST.
    to: str
    #: Port of the other machine's ssh.
    ssh_port: int
    #: The queue's port, the same on both machines.
    port: int
    #: Whether the server runs here and the other machine is to reach it; else it runs there.
    reverse: bool = False

    def argv(self) -> list[str]:
        """Return the command line. It asks nobody: a key opens the connection, and an unknown host is refused."""
        forward = f"127.0.0.1:{self.port}:127.0.0.1:{self.port}"
        options = {
            "BatchMode": "yes",
            "ExitOnForwardFailure": "yes",
            "ServerAliveInterval": str(ALIVE_SECONDS),
            "ServerAliveCountMax": str(UNANSWERED),
            "ConnectTimeout": "20",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        direction = "-R" if self.reverse else "-L"
        return ["ssh", "-N", "-T", *words, "-p", str(self.ssh_port), direction, forward, "--", self.to]

    def __str__(self) -> str:
        where = "this machine" if self.reverse else self.to
        return f"port {self.port} of {where}, by ssh with {self.to}"


def parse(destination: str, url: str, *, reverse: bool) -> Tunnel:
    """Return the tunnel to USER@HOST or USER@HOST:PORT for the queue's address. Raises UsageError."""
    found, parts = _DESTINATION.fullmatch(destination), urlsplit(url)
    if not found or not 0 < int(found["port"] or 22) < 65536:
        raise UsageError(
            f"--tunnel {destination!r} can't be read. Nothing was done.\n"
            "Fix: USER@HOST, or USER@HOST:PORT where its ssh listens on another port than 22"
        )
    if parts.hostname not in ("127.0.0.1", "localhost") or not parts.port:
        raise UsageError(
            "Through a tunnel the queue's server is on this machine's loopback address, and PI0Q_REDIS_URL says "
            f"{parts.hostname}. Nothing was done.\nFix: PI0Q_REDIS_URL=redis://USER:PASSWORD@127.0.0.1:PORT/0"
        )
    return Tunnel(to=found["to"], ssh_port=int(found["port"] or 22), port=parts.port, reverse=reverse)


def read(home: Path) -> Tunnel | None:
    """Return the tunnel of this machine; None where it has none, or where the file is not what setup wrote."""
    try:
        raw: dict[str, Any] = json.loads((home / FILE).read_text(encoding="utf-8"))
        url = f"redis://127.0.0.1:{raw['port']}"
        return parse(f"{raw['to']}:{raw['ssh_port']}", url, reverse=raw["reverse"] is True)
    except (OSError, ValueError, KeyError, TypeError, UsageError):
        return None


class KeptTunnel:
    """The tunnel, kept open by a process of its own: systemd's, else a child of the box's supervisor."""

    name = "tunnel"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.file = unit_file(plan.machine, UNIT)

    def missing(self) -> str:
        wanted, there = self.plan.tunnel, read(self.plan.home)
        if wanted is not None and (there is None or there.argv() != wanted.argv()):
            return f"{self.plan.home / FILE} does not say {wanted}"
        if self.plan.machine.systemd and file_edits.read(self.file) != self._unit():
            return f"{self.file} is missing or of another version"
        return ""

    def do(self) -> str:
        if (wanted := self.plan.tunnel) is not None and self.missing():
            file_edits.write(self.plan.home / FILE, json.dumps(asdict(wanted)) + "\n", 0o600)
        if self.plan.machine.systemd:
            file_edits.write(self.file, self._unit())
            self.plan.machine.systemctl("daemon-reload")
            self.plan.machine.require_systemctl("enable", UNIT)
            self.plan.machine.require_systemctl("restart", UNIT)
        return f"{read(self.plan.home)}; log: {log_file(self.plan.home)}"

    def undo(self) -> str:
        if self.plan.machine.systemd and self.file.exists():
            self.plan.machine.systemctl("disable", "--now", UNIT)
            self.file.unlink()
            self.plan.machine.systemctl("daemon-reload")
        there = (self.plan.home / FILE).exists()
        (self.plan.home / FILE).unlink(missing_ok=True)
        return str(self.plan.home / FILE) if there else ""

    def _unit(self) -> str:
        home = self.plan.home
        return (
            "# Written by `pi0q box setup --tunnel`.\n"
            "[Unit]\nDescription=pi0q: the tunnel to the queue\nAfter=network-online.target\n"
            "StartLimitIntervalSec=0\n\n"
            f"[Service]\nExecStart={quoted(sys.executable)} -m pi0q.ops.box.tunnel_main\n"
            f"WorkingDirectory={home}\nEnvironment={quoted(f'PI0Q_HOME={home}')}\n"
            "Restart=always\nRestartSec=5\n\n"
            "[Install]\nWantedBy=default.target\n"
        )


def log_file(home: Path) -> Path:
    """Return what ssh says."""
    return home / "logs" / "tunnel.log"

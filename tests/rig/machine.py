"""A container for a box: processes of their own with a PID 1 of their own, so that it can crash and start anew.

Where the machine allows no namespaces `refusal()` says why, and a box is only a set of processes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path

from tests.rig import namespaces

#: PID 1: the kernel reaps its children for it, and what lies in /dev/shm ends with the container.
INIT = 'mount -t tmpfs shm /dev/shm 2>/dev/null; trap "" CHLD; echo up; exec sleep infinity'
ROOT = os.getuid() == 0


@cache
def refusal() -> str:
    """Why there are no containers on this machine; empty where there are."""
    try:
        tried = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unshare: {error}"
    return "" if tried.returncode == 0 else tried.stderr.strip() or f"unshare ended with {tried.returncode}"


@cache
def net_refusal() -> str:
    """Why no container can have a network of its own; empty where it can."""
    if not ROOT:
        return "only root can lay a line into a network namespace"
    try:
        line = ("ip", "link", "add", "dev", "a", "type", "veth", "peer", "name", "b")
        tried = subprocess.run(["unshare", "--net", *line], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if tried.returncode == 0 else tried.stderr.strip()


def _unshare(*more: str) -> list[str]:
    return ["unshare", *([] if ROOT else ["-U", "-r"]), *more, "--pid", "--fork", "--kill-child", "--mount-proc"]


@dataclass
class Container:
    """One container; `boot` starts it, `crash` ends all that lives in it."""

    #: A network of its own, see Wire; else the machine's.
    own_network: bool = False
    #: `unshare`, which waits for PID 1.
    process: subprocess.Popen[str] | None = None
    #: PID 1's pid as this machine sees it.
    init: int = 0

    @property
    def up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def boot(self) -> None:
        """Starts it with nothing in it but PID 1."""
        assert not self.up
        more = ["--net"] if self.own_network else []
        self.process = namespaces.hold([*_unshare(*more), "sh", "-c", INIT])
        self.init = namespaces.first(self.process)

    def enter(self, argv: Sequence[str], cwd: Path) -> list[str]:
        """The command line that runs `argv` inside: a door that waits out here and ends with its exit code."""
        user = [] if ROOT else ["-U", "--preserve-credentials"]
        net = ["-n"] if self.own_network else []
        # nsenter's own fork would stop itself, for good, when what it waits for is stopped; sh does not.
        door = ["nsenter", "-F", "-t", str(self.init), *user, *net, "-p", "-m", "--", "sh", "-c", '"$@"; exit $?', "sh"]
        return [*door, "env", f"--chdir={cwd}", *argv]

    def pids(self) -> dict[int, int]:
        """Every process inside but PID 1: its pid in there -> its pid out here."""
        return {} if not self.up else {inner: outer for inner, outer in self._all().items() if outer != self.init}

    def _all(self) -> dict[int, int]:
        found = {}
        try:
            ours = os.readlink(f"/proc/{self.init}/ns/pid")  # noqa: PTH115 (no path: pid:[…])
        except OSError:
            return {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError, StopIteration):
                if os.readlink(entry / "ns" / "pid") == ours:  # noqa: PTH115
                    status = (entry / "status").read_text().splitlines()
                    found[int(next(line for line in status if line.startswith("NSpid:")).split()[-1])] = int(entry.name)
        return found

    def crash(self) -> None:
        """Everything in it ends at this moment, without a signal that could be heard."""
        if self.process is None:
            return
        # PID 1 is gone only when all the others are.
        namespaces.end(self.process, self.init)
        self.process = None


class Wire:
    """A real line (veth) between this machine and a container with a network of its own: pull and plug it."""

    _count = 0

    def __init__(self, container: Container) -> None:
        assert container.own_network and container.up
        Wire._count += 1
        self.here = f"pi0q{os.getpid() % 10000}x{Wire._count}"
        # Of the network for trials of lines: four addresses that no other test run of this machine has.
        net = IPv4Address("198.18.0.0") + 4 * ((8 * os.getpid() + Wire._count) % 2**15)
        #: This machine, as the container sees it.
        self.address = str(net + 1)
        inner = ["nsenter", "-t", str(container.init), "-n"]
        _ip("link", "add", "dev", self.here, "type", "veth", "peer", "name", "line", "netns", str(container.init))
        _ip("addr", "add", f"{self.address}/30", "dev", self.here)
        _ip("link", "set", self.here, "up")
        for words in (
            ("addr", "add", f"{net + 2}/30", "dev", "line"),
            ("link", "set", "line", "up"),
            ("link", "set", "lo", "up"),
        ):
            subprocess.run([*inner, "ip", *words], check=True)

    def pull(self) -> None:
        """No packet gets through any more, and nobody is told."""
        _ip("link", "set", self.here, "down")

    def plug(self) -> None:
        _ip("link", "set", self.here, "up")

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self.here)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)

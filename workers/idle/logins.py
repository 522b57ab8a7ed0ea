"""Who is logged in on this machine: ssh sessions, terminals, desktops and Jupyter kernels, by its processes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

#: What sshd calls the process of a session that is logged in: `sshd: root@pts/0`, `sshd-session: me@notty`.
_SSH = re.compile(r"sshd(?:-session)?: \S+@(pts/\d+|notty)\b")
_PTS = "/dev/pts/"
#: Where logind describes the sessions of a machine with systemd.
SESSIONS = Path("/run/systemd/sessions")
#: Bytes of such a description.
MOST_BYTES = 4096
HIDDEN = "a terminal that can't be seen: /proc hides other users' processes"


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of this machine."""

    pid: int
    parent: int
    #: Its command line, with blanks between the words.
    command: str
    #: `/dev/pts/0`, or "" for none.
    terminal: str


def places(processes: Iterable[Process], own: Collection[int]) -> list[str]:
    """Return where people are logged in: `pts/0`, `ssh without a terminal`, `a Jupyter kernel (process 12)`.

    `own`: this process and its ancestors. A terminal in which one of them runs, or PID 1, is no person's: it is that of
    a container, or of a tmux that was left. Where somebody sits at it by ssh, sshd says so.
    """
    all_of_them = list(processes)
    parents = {one.parent for one in all_of_them}
    ours = {one.terminal for one in all_of_them if one.pid in own or one.pid == 1}
    found = list[str]()
    for one in all_of_them:
        if ssh := _SSH.match(one.command):
            # A session with neither terminal nor process only forwards ports, as a tunnel to the queue does.
            if ssh[1] != "notty":
                found.append(ssh[1])
            elif one.pid in parents:
                found.append("ssh without a terminal")
        elif "ipykernel" in one.command:
            found.append(f"a Jupyter kernel (process {one.pid})")
        if one.terminal.startswith(_PTS) and one.terminal not in ours:
            found.append(one.terminal.removeprefix("/dev/"))
    return sorted(set(found))


def desktop(session: str) -> bool:
    """Return whether a description of logind is that of a person at a graphical desktop."""
    fields = dict(line.partition("=")[::2] for line in session.splitlines())
    return fields.get("CLASS") == "user" and fields.get("TYPE") in ("x11", "wayland", "mir")


def read() -> Sequence[str]:
    """Return where people are logged in on this machine now."""
    own, processes = {os.getpid()}, list[Process]()
    for one in psutil.process_iter(["pid", "ppid", "cmdline", "terminal"]):
        info = one.info
        command = " ".join(info["cmdline"] or ())[:MOST_BYTES]
        processes.append(
            Process(pid=info["pid"], parent=info["ppid"] or 0, command=command, terminal=info["terminal"] or "")
        )
    parents = {one.pid: one.parent for one in processes}
    above = os.getpid()
    while (above := parents.get(above, 0)) and above not in own:
        own.add(above)
    hidden = [] if 1 in parents else [HIDDEN]
    desktops = ["the desktop"] if any(map(desktop, _sessions())) else []
    return [*hidden, *desktops, *places(processes, own)]


def _sessions() -> Iterable[str]:
    for file in SESSIONS.glob("*"):
        try:
            with file.open(encoding="utf-8", errors="replace") as text:
                yield text.read(MOST_BYTES)
        except OSError:
            continue

"""`pi0q up -d`, `--stop` and `--at-boot`: the stack of this machine without a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.ops import file_edits
from pi0q.ops.local import stack
from pi0q.ops.machine import Machine
from pi0q.ops.supervisor import log_tail
from pi0q.ops.systemd import quoted, unit_file
from pi0q.queue.settings import Settings, make_home
from pi0q.workers.host import files

#: The systemd user unit of the queue's machine.
UNIT = "pi0q-queue.service"
#: Seconds that a stack has to come up: its server, and Flower's imports on a slow disk.
START_SECONDS = 90.0
#: Seconds that a stack has to stop: worker and Flower, then the server, which writes its file once more.
STOP_SECONDS = stack.STOP_SECONDS + 60.0
POLL_SECONDS = 0.1


def start(settings: Settings, words: Sequence[str]) -> dict[str, Any]:
    """Start `pi0q up` with these options in a session of its own; return its up.json once it is up.

    Raises Pi0qError with the end of its log where it ends before that.
    """
    home = settings.home
    make_home(settings)
    files.make_private(home)
    if stack.is_up(home):
        return facts(home)
    log = log_file(home)
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pi0q.queue.cli", "up", *words],
            env={**os.environ, "PI0Q_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if process.poll() is not None:
            break
        found = facts(home)
        if found.get("pid") == process.pid and found.get("ready"):
            return found
        time.sleep(POLL_SECONDS)
    tail = "".join(f"\n  {line}" for line in log_tail(log))
    what = f"ended with {process.returncode}" if process.returncode is not None else "is not up yet"
    raise Pi0qError(f"pi0q up in the background {what}. The end of {log}:{tail}\nFix: what it says, or pi0q up")


def stop(home: Path) -> bool:
    """Stop the stack of this home and wait for its end; return whether one was up. Raises Pi0qError."""
    if not stack.is_up(home):
        return False
    pid = facts(home).get("pid")
    if isinstance(pid, int) and pid > 1:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    give_up = time.monotonic() + STOP_SECONDS
    while stack.is_up(home):
        if time.monotonic() > give_up:
            raise Pi0qError(f"pi0q up (process {pid}) still stops. Nothing is lost.\nFix: look into {log_file(home)}")
        time.sleep(POLL_SECONDS)
    return True


def facts(home: Path) -> dict[str, Any]:
    """Return the content of up.json; empty where there is none."""
    with suppress(OSError, ValueError):
        found = json.loads((home / "up.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def log_file(home: Path) -> Path:
    """Return where a stack in the background writes what it would say on a terminal."""
    return home / "logs" / "up.log"


# -- start with the machine ---------------------------------------------------------------------------


def unit_text(home: Path, words: Sequence[str]) -> str:
    """Return the systemd user unit that starts the stack with the machine."""
    command = " ".join(quoted(word) for word in [sys.executable, "-m", "pi0q.queue.cli", "up", *words])
    return (
        "# Written by `pi0q up --at-boot`.\n"
        "[Unit]\nDescription=pi0q: the queue of this machine\nAfter=network-online.target\nStartLimitIntervalSec=0\n\n"
        f"[Service]\nExecStart={command}\nWorkingDirectory={home}\nEnvironment={quoted(f'PI0Q_HOME={home}')}\n"
        # Trainings of its worker outlive it.
        f"KillMode=process\nTimeoutStopSec={STOP_SECONDS:.0f}\nRestart=always\nRestartSec=5\n\n"
        "[Install]\nWantedBy=default.target\n"
    )


def enable(machine: Machine, settings: Settings, words: Sequence[str]) -> str:
    """Start the stack now and with the machine; return what was done. Raises UsageError without systemd."""
    if not machine.systemd:
        raise UsageError(
            "No systemd runs services of this user: nothing here starts a queue by itself. Nothing was changed.\n"
            f"Fix: run `crontab -e` and add: @reboot PI0Q_HOME={settings.home} {sys.executable} -m pi0q.queue.cli up -d"
        )
    make_home(settings)
    stop(settings.home)
    file = unit_file(machine, UNIT)
    file_edits.write(file, unit_text(settings.home, words))
    machine.systemctl("daemon-reload")
    machine.require_systemctl("enable", "--now", UNIT)
    return f"The queue starts with this machine: {file}\nTo start it before you log in: loginctl enable-linger"


def disable(machine: Machine, home: Path) -> bool:
    """Stop and remove the unit that runs the stack of this home; return whether there was one."""
    file = unit_file(machine, UNIT)
    if quoted(f"PI0Q_HOME={home}") not in file_edits.read(file):
        return False
    machine.systemctl("disable", "--now", UNIT)
    file.unlink()
    machine.systemctl("daemon-reload")
    return True


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Return the options of `pi0q up` as words of a command line."""
    found = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            found.append(option)
        elif value is not None and value is not False:
            found += [option, str(value)]
    return found

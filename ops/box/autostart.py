"""Start of the worker with the machine: AutoDL's boot hook, a systemd user unit, or none."""

from __future__ import annotations

import getpass
import json
import shlex
import sys
from pathlib import Path

from pi0q.ops import file_edits
from pi0q.ops.box import control
from pi0q.ops.box.plan import UNIT, Plan, prune
from pi0q.ops.machine import AUTODL_HOOK, Machine
from pi0q.ops.systemd import quoted, unit_file

#: What is told where nothing starts the worker with the machine, and what a user can do where setup can't.
NOTHING = "nothing starts the worker after a restart"
CRON = "pi0q box start (each time, or by a line of `crontab -e`: @reboot pi0q box start)"


class Hook:
    """AutoDL's boot hook: one line in /etc/autodl.sh beside the user's own; its body is on the data disk."""

    name = "start at boot"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.file, self.body = plan.machine.at(AUTODL_HOOK), plan.home / "boot.sh"
        self.command = f"bash {shlex.quote(str(self.body))}"

    def missing(self) -> str:
        text = file_edits.read(self.file)
        if file_edits.read(self.body) != boot_script(self.plan):
            return f"{self.body} is missing or of another version"
        if text != file_edits.with_hook(text, self.command):
            return f"{AUTODL_HOOK} does not start it (a system reset or another image removes that file)"
        return ""

    def do(self) -> str:
        file_edits.write(self.body, boot_script(self.plan), 0o755)
        text = file_edits.read(self.file)
        if (wanted := file_edits.with_hook(text, self.command)) != text:
            file_edits.write(self.file, wanted, None if text else 0o755)
        return f"one line in {AUTODL_HOOK}, its body in {self.body}"

    def undo(self) -> str:
        text = file_edits.read(self.file)
        rest = file_edits.without_hook(text)
        self.body.unlink(missing_ok=True)
        if rest == text:
            return ""
        if rest.strip() in ("", "#!/bin/bash"):
            self.file.unlink()
        else:
            file_edits.write(self.file, rest)
        return f"our line in {AUTODL_HOOK}"


class Unit:
    """A systemd user unit. Stopping it ends the worker alone; trainings continue."""

    name = "start at boot"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.file = unit_file(plan.machine, UNIT)

    def text(self) -> str:
        """Return the content of the unit file."""
        home = self.plan.home
        return (
            "# Written by `pi0q box setup`.\n"
            "[Unit]\nDescription=pi0q: the worker of this box\nAfter=network-online.target\nStartLimitIntervalSec=0\n\n"
            f"[Service]\nExecStart={quoted(sys.executable)} -m pi0q.queue.cli worker\n"
            f"WorkingDirectory={home}\nEnvironment={quoted(f'PI0Q_HOME={home}')}\n"
            f"EnvironmentFile=-{control.environment_file(home)}\n"
            # Runners and trainers are in its control group and outlive it.
            "KillMode=process\nRestart=always\nRestartSec=5\n\n"
            "[Install]\nWantedBy=default.target\n"
        )

    def missing(self) -> str:
        if file_edits.read(self.file) != self.text():
            return f"{self.file} is missing or of another version"
        if self.plan.machine.systemctl("is-enabled", UNIT).returncode:
            return f"{UNIT} is not enabled"
        return ""

    def do(self) -> str:
        file_edits.write(self.file, self.text())
        self.plan.machine.systemctl("daemon-reload")
        self.plan.machine.require_systemctl("enable", UNIT)
        return f"{self.file}; to start it before you log in: loginctl enable-linger {_user()}"

    def undo(self) -> str:
        if not self.file.exists():
            return ""
        self.plan.machine.systemctl("disable", "--now", UNIT)
        self.file.unlink()
        prune(self.file.parent)
        self.plan.machine.systemctl("daemon-reload")
        return str(self.file)


class NoBoot:
    """Neither AutoDL nor systemd: only a command starts the worker."""

    name = "start at boot"

    def missing(self) -> str:
        return ""

    def do(self) -> str:
        return self.beyond()

    def beyond(self) -> str:
        return f"{NOTHING}: {CRON}"

    def undo(self) -> str:
        return ""


def boot_script(plan: Plan) -> str:
    """Return the body of the boot hook. It returns at once, so that the user's part of the hook does not wait."""
    env = {
        name: plan.machine.env[name] for name in ("HOME", "XDG_CONFIG_HOME", "PYTHONPATH") if plan.machine.env.get(name)
    }
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
    start = shlex.join([sys.executable, "-m", "pi0q.queue.cli", "box", "start"])
    logs = shlex.quote(str(plan.home / "logs"))
    return (
        "#!/bin/bash\n"
        f"# Starts this box's worker when the container starts; {AUTODL_HOOK} calls it.\n"
        f"# Written by `pi0q box setup`, as is this: PI0Q_HOME is {json.dumps(str(plan.home))}.\n"
        f"{exports}export PI0Q_HOME={shlex.quote(str(plan.home))}\n"
        f"mkdir -p {logs}\n"
        f"setsid nohup {start} >>{logs}/boot.log 2>&1 </dev/null &\n"
    )


def at_boot(plan: Plan) -> Hook | Unit | NoBoot:
    """Return the step that starts the worker with this machine."""
    if plan.machine.autodl:
        return Hook(plan)
    return Unit(plan) if plan.machine.systemd else NoBoot()


def starts_by_itself(machine: Machine, home: Path) -> str:
    """Return what starts the worker with the machine, for the doctor; "" if nothing does."""
    if machine.autodl:
        body = home / "boot.sh"
        return AUTODL_HOOK if body.is_file() and str(body) in file_edits.read(machine.at(AUTODL_HOOK)) else ""
    return UNIT if by_systemd(machine, home) and machine.systemctl("is-enabled", UNIT).returncode == 0 else ""


def runs_as_unit(machine: Machine, home: Path) -> bool:
    """Return whether this home's worker runs as a systemd user unit, which starts it again."""
    return by_systemd(machine, home) and machine.systemctl("is-active", UNIT).returncode == 0


def by_systemd(machine: Machine, home: Path) -> bool:
    """Return whether a systemd user unit runs this home's worker, rather than our supervisor."""
    return machine.systemd and quoted(f"PI0Q_HOME={home}") in file_edits.read(unit_file(machine, UNIT))


def start(machine: Machine, home: Path) -> str:
    """Start the worker of a machine that is set up, unless it runs; return what was done. Raises Pi0qError."""
    if by_systemd(machine, home):
        machine.require_systemctl("start", UNIT)
        return f"The worker runs as {UNIT}; log: journalctl --user -u {UNIT}"
    before = control.supervisor(home)
    running = control.start(home, machine.env)
    how = "is already running" if before else "was started"
    return f"The worker {how} (supervisor: process {running.pid}); log: {control.worker_log(home)}"


def stop(machine: Machine, home: Path) -> bool:
    """Stop the worker until the next start; trainings continue. Return whether it ran."""
    ran = runs_as_unit(machine, home)
    if ran:
        machine.require_systemctl("stop", UNIT)
    return control.stop(home) or ran


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "$USER"

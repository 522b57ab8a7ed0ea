"""How a box comes up by itself: AutoDL's boot hook, a systemd unit of the user's, or not at all; and its worker."""

from __future__ import annotations

import getpass
import hashlib
import json
import shlex
import signal
import sys
from pathlib import Path

from pi0q.jobs.errors import Pi0qError
from pi0q.ops import keeper, stored
from pi0q.ops.machine import AUTODL_HOOK, Machine
from pi0q.ops.steps import UNIT, Plan, prune
from pi0q.workers import network


class Hook:
    """AutoDL: one line in /etc/autodl.sh, beside what the user has there; its body on the data disk."""

    name = "start at boot"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.file, self.body = plan.machine.at(AUTODL_HOOK), plan.home / "boot.sh"
        self.command = f"bash {shlex.quote(str(self.body))}"

    def missing(self) -> str:
        text = stored.read(self.file)
        if stored.read(self.body) != boot_script(self.plan):
            return f"{self.body} is not there, or another version's"
        if text != stored.with_hook(text, self.command):
            return f"{AUTODL_HOOK} does not start it (a system reset or another image takes that file away)"
        return ""

    def do(self) -> str:
        stored.write(self.body, boot_script(self.plan), 0o755)
        text = stored.read(self.file)
        if (wanted := stored.with_hook(text, self.command)) != text:
            stored.write(self.file, wanted, None if text else 0o755)
        return f"one line in {AUTODL_HOOK}, its body in {self.body}"

    def undo(self) -> str:
        text = stored.read(self.file)
        rest = stored.without_hook(text)
        self.body.unlink(missing_ok=True)
        if rest == text:
            return ""
        if rest.strip() in ("", "#!/bin/bash"):
            self.file.unlink()
        else:
            stored.write(self.file, rest)
        return f"our line in {AUTODL_HOOK}"


class Unit:
    """A Linux host: a systemd unit of the user's. Stopping it ends the worker alone; trainings go on."""

    name = "start at boot"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.file = _unit_file(plan.machine)

    def text(self) -> str:
        """The unit."""
        home = self.plan.home
        return (
            "# Written by `pi0q box setup`.\n"
            "[Unit]\nDescription=pi0q: the worker of this box\nAfter=network-online.target\nStartLimitIntervalSec=0\n\n"
            f"[Service]\nExecStart={_quoted(sys.executable)} -m pi0q.queue.cli worker\n"
            f"WorkingDirectory={home}\nEnvironment={_quoted(f'PI0Q_HOME={home}')}\n"
            f"EnvironmentFile=-{keeper.environment_file(home)}\n"
            # Runners and trainers are in its group and outlive it.
            "KillMode=process\nRestart=always\nRestartSec=5\n\n"
            "[Install]\nWantedBy=default.target\n"
        )

    def missing(self) -> str:
        if stored.read(self.file) != self.text():
            return f"{self.file} is not there, or another version's"
        if self.plan.machine.systemctl("is-enabled", UNIT).returncode:
            return f"{UNIT} is not enabled"
        return ""

    def do(self) -> str:
        stored.write(self.file, self.text())
        self.plan.machine.systemctl("daemon-reload")
        _asked(self.plan.machine, "enable", UNIT)
        return f"{self.file}; for a start before you log in: loginctl enable-linger {_user()}"

    def undo(self) -> str:
        if not self.file.exists():
            return ""
        self.plan.machine.systemctl("disable", "--now", UNIT)
        self.file.unlink()
        prune(self.file.parent)
        self.plan.machine.systemctl("daemon-reload")
        return str(self.file)


class NoBoot:
    """Neither of them: nothing starts it but a person."""

    name = "start at boot"

    def missing(self) -> str:
        return ""

    def do(self) -> str:
        return "nothing here starts it after a restart: run `pi0q box start` then (for cron: @reboot pi0q box start)"

    def undo(self) -> str:
        return ""


class Worker:
    """The worker itself, detached and held up; anew when what it was started with has changed since."""

    name = "worker"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        #: Which pi0q and which settings the worker was started with.
        self.note = plan.home / ".started-with"

    @property
    def _by_systemd(self) -> bool:
        return self.plan.machine.systemd

    def missing(self) -> str:
        if self._by_systemd:
            if self.plan.machine.systemctl("is-active", UNIT).returncode:
                return f"{UNIT} is not active"
        elif not keeper.keeper(self.plan.home):
            return "nothing holds the worker up"
        same = stored.read(self.note) == self._now()
        return "" if same else "it runs since before pi0q or its settings changed"

    def _now(self) -> str:
        files = (self.plan.config, keeper.environment_file(self.plan.home))
        told = "\0".join([_code(), *map(stored.read, files)])
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()

    def do(self) -> str:
        text = self._start(anew=bool(self.missing()))
        stored.write(self.note, self._now(), 0o600)
        return text

    def _start(self, *, anew: bool) -> str:
        machine, home = self.plan.machine, self.plan.home
        if self._by_systemd:
            _asked(machine, "restart" if anew else "is-active", UNIT)
            return f"{UNIT} runs; see journalctl --user -u {UNIT}"
        living, left = keeper.keeper(home), keeper.worker(home)
        # A shell that sourced the turbo file must not make the worker another than the one that comes up at boot.
        turbo = network.read_turbo(self.plan.settings.network_turbo)
        fast = {name for word in turbo for name in (word, word.upper()) if machine.env.get(name) == turbo[word]}
        held = keeper.start(home, {name: value for name, value in machine.env.items() if name not in fast})
        if anew and (living or left):
            held.signal(signal.SIGHUP)
            return f"started anew with what has changed; log: {keeper.log_of(home)}"
        return f"{'runs already' if living else 'started'}; log: {keeper.log_of(home)}"

    def undo(self) -> str:
        """Trainings that run go on to their end."""
        self.note.unlink(missing_ok=True)
        if self._by_systemd:
            return f"{UNIT} was stopped" if self.plan.machine.systemctl("stop", UNIT).returncode == 0 else ""
        stopped = keeper.stop(self.plan.home)
        (self.plan.home / "keeper.lock").unlink(missing_ok=True)
        return "the worker was stopped; trainings that run go on to their end" if stopped else ""


def boot_script(plan: Plan) -> str:
    """The body of the boot hook. It returns at once: what else is in the hook must not wait."""
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
    """What starts this machine's worker with the machine."""
    if plan.machine.autodl:
        return Hook(plan)
    return Unit(plan) if plan.machine.systemd else NoBoot()


def starts_by_itself(machine: Machine, home: Path) -> str:
    """What starts the worker with the machine, for the doctor; "" if nothing does."""
    if machine.autodl:
        body = home / "boot.sh"
        return AUTODL_HOOK if body.is_file() and str(body) in stored.read(machine.at(AUTODL_HOOK)) else ""
    return UNIT if by_systemd(machine, home) and machine.systemctl("is-enabled", UNIT).returncode == 0 else ""


def by_systemd(machine: Machine, home: Path) -> bool:
    """Whether a unit of the user's holds this home's worker up, rather than a keeper."""
    return machine.systemd and _quoted(f"PI0Q_HOME={home}") in stored.read(_unit_file(machine))


def start(machine: Machine, home: Path) -> str:
    """Starts the worker of what is a box already, unless it runs; says what was done. Raises Pi0qError."""
    if by_systemd(machine, home):
        _asked(machine, "start", UNIT)
        return f"The worker runs as {UNIT}; log: journalctl --user -u {UNIT}"
    before = keeper.keeper(home)
    living = keeper.start(home, machine.env)
    how = "runs already" if before else "is started"
    return f"The worker {how} (kept by process {living.pid}); log: {keeper.log_of(home)}"


def stop(machine: Machine, home: Path) -> bool:
    """Ends the worker until the next start; trainings go on. Whether there was one."""
    ran = by_systemd(machine, home) and machine.systemctl("is-active", UNIT).returncode == 0
    if ran:
        _asked(machine, "stop", UNIT)
    return keeper.stop(home) or ran


def _unit_file(machine: Machine) -> Path:
    return Path(machine.env.get("XDG_CONFIG_HOME") or machine.user_home / ".config") / "systemd" / "user" / UNIT


def _asked(machine: Machine, *words: str) -> None:
    """Asks systemd for something that must come about. Raises Pi0qError with its words if it does not."""
    done = machine.systemctl(*words)
    if done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise Pi0qError(f"systemctl --user {' '.join(words)}: {said}; see journalctl --user -u {UNIT}")


def _code() -> str:
    """Differs after each installation."""
    return str(Path(__file__).stat().st_mtime_ns)


def _quoted(text: str) -> str:
    """An argument as systemd reads it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "$USER"

"""The steps of `pi0q box setup`, except the start at boot (autostart). Each can be checked, done and undone."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from pi0q.ops import file_edits
from pi0q.ops.box import control
from pi0q.ops.box.plan import COMMAND, STARTED_WITH, UNIT, Plan, link, prune
from pi0q.ops.box.worker_state import WorkerState, worker_state
from pi0q.workers.host import cache_paths
from pi0q.workers.network import routes


class Folders:
    """Directories of pi0q: home, caches, logs, temporary files."""

    name = "folders"

    def __init__(self, plan: Plan) -> None:
        caches = [Path(value) for name, value in cache_environment(plan).items() if name != "HF_TOKEN_PATH"]
        self.paths = [plan.home, *(plan.home / name for name in ("logs", "runs", "cache")), *caches]

    def missing(self) -> str:
        gone = [str(path) for path in self.paths if not path.is_dir()]
        return f"{gone[0]}{f' and {len(gone) - 1} more' if gone[1:] else ''} not there" if gone else ""

    def do(self) -> str:
        for path in self.paths:
            path.mkdir(parents=True, exist_ok=True)
        return f"home and every cache below {self.paths[0]}"

    def undo(self) -> str:
        """Remove empty directories only: runs, checkpoints and caches are the user's."""
        for path in sorted(self.paths, key=lambda path: len(path.parts), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        return ""


def cache_environment(plan: Plan) -> dict[str, str]:
    """Return the cache variables of worker and trainer, also for pip and for libraries that only know XDG's."""
    root = plan.home / "cache"
    known = {name: value for name, value in cache_paths.caches(plan.settings).items() if name != "HF_TOKEN_PATH"}
    return known | {"PIP_CACHE_DIR": str(root / "pip"), "XDG_CACHE_HOME": str(root / "xdg")}


class StoredSettings:
    """The settings file: on the data disk, linked from its usual place, readable by its owner only."""

    name = "settings"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.file = plan.home / "config.toml" if plan.exposed(plan.config.parent) else plan.config

    def _text(self) -> str:
        return file_edits.with_settings(
            file_edits.read(self.plan.config) or file_edits.read(self.file), self.plan.values
        )

    def missing(self) -> str:
        if file_edits.read(self.plan.config) != self._text():
            return f"{self.plan.config} does not hold {', '.join(sorted(self.plan.values))}"
        if self.plan.config.stat().st_mode & 0o077:
            return f"{self.plan.config} can be read by others"
        if self.plan.config.resolve() != self.file.resolve():
            return f"{self.plan.config} is on the system disk: a saved image would have the password"
        return ""

    def do(self) -> str:
        text = self._text()
        # Both files hold the settings before the first is replaced.
        file_edits.write(self.file, text, 0o600)
        if self.plan.config.resolve() != self.file.resolve():
            link(self.plan.config, self.file)
        return f"{', '.join(sorted(self.plan.values))} in {self.file}, mode 0600"

    def undo(self) -> str:
        text = file_edits.read(self.plan.config) or file_edits.read(self.file)
        rest = file_edits.without_settings(text)
        if rest == text and not self.plan.config.is_symlink():
            return ""
        if self.plan.config.is_symlink():
            self.plan.config.unlink()
            self.file.unlink(missing_ok=True)
        if rest.strip():
            file_edits.write(self.plan.config, rest, 0o600)
        else:
            self.plan.config.unlink(missing_ok=True)
        prune(self.plan.config.parent)
        return f"our lines in {self.plan.config}"


#: Keys of experiment trackers that a setup takes over from its own environment, and what they are called.
TRACKER_KEYS = {"WANDB_API_KEY": "the WandB key", "SWANLAB_API_KEY": "the SwanLab key"}


class Secrets:
    """The worker's environment file: cache directories and trackers' keys, which a booting machine does not have."""

    name = "environment"

    def __init__(self, plan: Plan) -> None:
        self.plan, self.file = plan, control.environment_file(plan.home)

    def _wanted(self) -> dict[str, str]:
        there = control.read_environment(self.plan.home)
        keys = {name: self.plan.machine.env.get(name) or there.get(name) for name in TRACKER_KEYS}
        return cache_environment(self.plan) | {name: key for name, key in keys.items() if key}

    def missing(self) -> str:
        lacking = sorted(set(self._wanted().items()) - set(control.read_environment(self.plan.home).items()))
        return f"{self.file} does not name {', '.join(name for name, _ in lacking)}" if lacking else ""

    def do(self) -> str:
        lines = "".join(f"{name}={value}\n" for name, value in sorted(self._wanted().items()))
        file_edits.write(self.file, "# The worker's environment; written by `pi0q box setup`.\n" + lines, 0o600)
        keys = [text for name, text in TRACKER_KEYS.items() if name in self._wanted()]
        return f"{' and '.join(['caches', *keys])} in {self.file}"

    def undo(self) -> str:
        there = self.file.exists()
        self.file.unlink(missing_ok=True)
        return str(self.file) if there else ""


class Token:
    """The Hub's token below HF_HOME; a login from before HF_HOME was moved left it elsewhere."""

    name = "token"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.here = plan.settings.hf_home / "token"
        self.login = plan.machine.user_home / ".cache" / "huggingface" / "token"
        #: Exists where setup wrote the token, so that undo may remove it.
        self.note = plan.home / ".token-put-here"

    @property
    def _astray(self) -> bool:
        """Whether a login's token is elsewhere; `~/.cache/huggingface` may itself link here."""
        return self.login.is_file() and self.login.resolve() != self.here.resolve()

    @property
    def _exposed(self) -> bool:
        return self._astray and self.plan.exposed(self.login)

    def _source(self) -> str:
        """Return the token to write here; "" if it is here already, or there is none."""
        own = file_edits.read(self.here).strip()
        if self._astray:
            found = file_edits.read(self.login).strip()
            # The last login wins.
            newer = not own or self.login.stat().st_mtime > self.here.stat().st_mtime
            if found and found != own and newer:
                return found
        return "" if own else self.plan.machine.env.get("HF_TOKEN", "").strip()

    def missing(self) -> str:
        if self._source():
            return f"{self.here} is not there, or older than the last login"
        if self.here.is_file() and self.here.stat().st_mode & 0o077:
            return f"{self.here} can be read by others"
        return f"{self.login} is on the system disk: a saved image would have it" if self._exposed else ""

    def do(self) -> str:
        if source := self._source():
            if not self.here.exists():
                self.note.parent.mkdir(parents=True, exist_ok=True)
                self.note.touch()
            file_edits.write(self.here, source, 0o600)
        if self.here.is_file():
            self.here.chmod(0o600)
        if self._exposed:
            link(self.login, self.here)
        return f"in {self.here}" if self.here.is_file() else self.beyond()

    def beyond(self) -> str:
        return "" if self.here.is_file() or self._source() else "none yet: hf auth login, then this command again"

    def undo(self) -> str:
        ours, done = self.note.exists(), ""
        if self.login.is_symlink() and self.login.resolve() == self.here.resolve():
            text = file_edits.read(self.here)
            self.login.unlink()
            file_edits.write(self.login, text, 0o600)
            done = f"back in {self.login}"
        if ours:
            self.here.unlink(missing_ok=True)
            self.note.unlink()
            done = done or str(self.here)
        return done


class PipCache:
    """pip's cache, moved to the data disk where there are two disks: torch's wheels alone are 3 GB."""

    name = "pip cache"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.place = plan.machine.user_home / ".cache" / "pip"
        self.target = plan.home / "cache" / "pip"

    def missing(self) -> str:
        if not self.plan.exposed(self.place):
            return ""
        return f"{self.place} is on the system disk"

    def do(self) -> str:
        if not self.missing():
            return f"in {self.place.resolve()}"
        if self.place.is_dir() and not self.place.is_symlink():
            # Everything in it can be downloaded again; copying gigabytes between disks would take longer.
            shutil.rmtree(self.place)
        link(self.place, self.target)
        return f"{self.place} leads to {self.target}"

    def undo(self) -> str:
        if not self.place.is_symlink() or self.place.resolve() != self.target.resolve():
            return ""
        self.place.unlink()
        return f"the link {self.place}"


class Command:
    """The command `pi0q` in every shell, also where it is installed in a virtual environment."""

    name = "command"

    def __init__(self, plan: Plan) -> None:
        self.place = plan.machine.at(COMMAND)
        if not os.access(self.place.parent, os.W_OK):
            # Without root: on the PATH of login shells as well.
            self.place = plan.machine.user_home / ".local" / "bin" / "pi0q"
        # Not resolved: a venv's python links to another one, beside which there is no pi0q.
        self.script = Path(sys.executable).parent / "pi0q"
        self.env = plan.machine.env

    def missing(self) -> str:
        if not self.script.is_file() or shutil.which("pi0q", path=self.env.get("PATH")):
            return ""
        if self.place.is_symlink() and self.place.resolve() == self.script.resolve():
            return ""
        return f"{self.place} does not lead to {self.script}"

    def do(self) -> str:
        if self.missing():
            link(self.place, self.script)
        return f"{shutil.which('pi0q', path=self.env.get('PATH')) or f'{sys.executable} -m pi0q.queue.cli'}"

    def undo(self) -> str:
        if not self.place.is_symlink() or self.place.resolve() != self.script.resolve():
            return ""
        self.place.unlink()
        return f"the link {self.place}"


class Worker:
    """The worker, supervised in the background; restarted when pi0q or its settings changed since its start."""

    name = "worker"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        #: Fingerprint of the installation and the settings that the worker was started with.
        self.started_with = plan.home / STARTED_WITH

    @property
    def _by_systemd(self) -> bool:
        return self.plan.machine.systemd

    def missing(self) -> str:
        if self._by_systemd:
            if self.plan.machine.systemctl("is-active", UNIT).returncode:
                return f"{UNIT} is not active"
        elif not control.supervisor(self.plan.home):
            state = worker_state(self.plan.machine, self.plan.home)
            return "no supervisor runs" + (f"; the worker {state.value}" if state is WorkerState.BY_HAND else "")
        if file_edits.read(self.started_with) != self._fingerprint():
            return "running with an old version or old settings; restart needed"
        return ""

    def do(self) -> str:
        restart = bool(self.missing())
        text = self._run_unit(restart) if self._by_systemd else self._run_supervisor(restart)
        file_edits.write(self.started_with, self._fingerprint(), 0o600)
        return text

    def undo(self) -> str:
        """Stop the worker; running trainings continue to their end."""
        self.started_with.unlink(missing_ok=True)
        if self._by_systemd:
            return f"stopped {UNIT}" if self.plan.machine.systemctl("stop", UNIT).returncode == 0 else ""
        stopped = control.stop(self.plan.home)
        control.remove_lock(self.plan.home)
        return "stopped; running trainings continue to their end" if stopped else ""

    def _run_unit(self, restart: bool) -> str:
        self.plan.machine.require_systemctl("restart" if restart else "is-active", UNIT)
        return f"{UNIT} runs; log: journalctl --user -u {UNIT}"

    def _run_supervisor(self, restart: bool) -> str:
        home = self.plan.home
        log = control.worker_log(home)
        if not restart:
            control.start(home, self._environment())
            return f"already running; log: {log}"
        # The supervisor too: it may be of an older version.
        ran = control.stop(home)
        control.start(home, self._environment())
        return f"restarted with what has changed; log: {log}" if ran else f"started; log: {log}"

    def _environment(self) -> dict[str, str]:
        """Return this shell's environment without the turbo file's proxies, which a boot does not have either."""
        env = self.plan.machine.env
        turbo = routes.read_turbo(self.plan.settings.network_turbo)
        sourced = {name for word in turbo for name in (word, word.upper()) if env.get(name) == turbo[word]}
        return {name: value for name, value in env.items() if name not in sourced}

    def _fingerprint(self) -> str:
        files = (self.plan.config, control.environment_file(self.plan.home))
        content = "\0".join([installation(), *map(file_edits.read, files)])
        return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def installation() -> str:
    """Return a text that differs after each installation of pi0q."""
    return str(Path(__file__).stat().st_mtime_ns)

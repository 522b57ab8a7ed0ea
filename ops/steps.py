"""What makes a machine a box, each thing on its own: whether it is in place, how it is put there and taken back."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pi0q.ops import keeper, stored
from pi0q.ops.machine import Machine, same_disk
from pi0q.queue.settings import Settings, config_path
from pi0q.workers.run import environment

UNIT = "pi0q-box.service"
#: On PATH in every shell, AutoDL's boot script included.
COMMAND = "/usr/local/bin/pi0q"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the box will be."""

    machine: Machine
    #: As they will be once `values` are stored.
    settings: Settings
    #: Settings that go into the file.
    values: Mapping[str, str]

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def config(self) -> Path:
        """The settings file, or the link to it."""
        return config_path(self.machine.env)

    def exposed(self, path: Path) -> bool:
        """Whether it is on another disk than pi0q's things: the one that is part of a saved and shared image."""
        return not self.machine.on_data_disk(path) if self.machine.autodl else not same_disk(path, self.home)


class Step(Protocol):
    """One thing. `missing` changes nothing; `do` after `do` changes nothing either."""

    name: str

    def missing(self) -> str:
        """What is not in place, in one line; "" if all is."""
        ...

    def do(self) -> str:
        """Puts it in place; what was done, in one line."""
        ...

    def undo(self) -> str:
        """Takes it back; "" if there was nothing to take."""
        ...


class Folders:
    """Home, caches, logs and the place for temporary files."""

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
        """Only what is empty goes: runs, checkpoints and caches are the user's."""
        for path in sorted(self.paths, key=lambda path: len(path.parts), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        return ""


def cache_environment(plan: Plan) -> dict[str, str]:
    """Where every cache of worker and trainer goes, pip's and those of libraries that know only XDG's too."""
    root = plan.home / "cache"
    known = {name: value for name, value in environment.caches(plan.settings).items() if name != "HF_TOKEN_PATH"}
    return known | {"PIP_CACHE_DIR": str(root / "pip"), "XDG_CACHE_HOME": str(root / "xdg")}


class StoredSettings:
    """The settings file: on the data disk, linked from where it is looked for; only its owner can read it."""

    name = "settings"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        # Before the link is made, and through it after.
        self.file = plan.home / "config.toml" if plan.exposed(plan.config.parent) else plan.config

    def _text(self) -> str:
        return stored.with_settings(stored.read(self.plan.config) or stored.read(self.file), self.plan.values)

    def missing(self) -> str:
        if stored.read(self.plan.config) != self._text():
            return f"{self.plan.config} does not hold {', '.join(sorted(self.plan.values))}"
        if self.plan.config.stat().st_mode & 0o077:
            return f"{self.plan.config} can be read by others"
        if self.plan.config.resolve() != self.file.resolve():
            return f"{self.plan.config} is on the system disk: a saved image would have the password"
        return ""

    def do(self) -> str:
        text = self._text()
        # Both hold it before the first goes.
        stored.write(self.file, text, 0o600)
        if self.plan.config.resolve() != self.file.resolve():
            link(self.plan.config, self.file)
        return f"{', '.join(sorted(self.plan.values))} in {self.file}, mode 0600"

    def undo(self) -> str:
        text = stored.read(self.plan.config) or stored.read(self.file)
        rest = stored.without_settings(text)
        if rest == text and not self.plan.config.is_symlink():
            return ""
        if self.plan.config.is_symlink():
            self.plan.config.unlink()
            self.file.unlink(missing_ok=True)
        if rest.strip():
            stored.write(self.plan.config, rest, 0o600)
        else:
            self.plan.config.unlink(missing_ok=True)
        prune(self.plan.config.parent)
        return f"our lines in {self.plan.config}"


class Secrets:
    """What a shell knows and a machine that starts does not: caches' places and the WandB key."""

    name = "environment"

    def __init__(self, plan: Plan) -> None:
        self.plan, self.file = plan, keeper.environment_file(plan.home)

    def _wanted(self) -> dict[str, str]:
        key = self.plan.machine.env.get("WANDB_API_KEY") or keeper.read_environment(self.plan.home).get("WANDB_API_KEY")
        return cache_environment(self.plan) | ({"WANDB_API_KEY": key} if key else {})

    def missing(self) -> str:
        lacking = sorted(set(self._wanted().items()) - set(keeper.read_environment(self.plan.home).items()))
        return f"{self.file} does not name {', '.join(name for name, _ in lacking)}" if lacking else ""

    def do(self) -> str:
        lines = "".join(f"{name}={value}\n" for name, value in sorted(self._wanted().items()))
        stored.write(self.file, "# The worker's environment; written by `pi0q box setup`.\n" + lines, 0o600)
        key = " and the WandB key" if "WANDB_API_KEY" in self._wanted() else ""
        return f"caches{key} in {self.file}"

    def undo(self) -> str:
        there = self.file.exists()
        self.file.unlink(missing_ok=True)
        return str(self.file) if there else ""


class Token:
    """The Hub's token where HF_HOME needs it: beside the caches. A login before HF_HOME was moved left it elsewhere."""

    name = "token"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.here = plan.settings.hf_home / "token"
        self.login = plan.machine.user_home / ".cache" / "huggingface" / "token"
        #: Says that the token here is ours to take away.
        self.note = plan.home / ".token-put-here"

    @property
    def _astray(self) -> bool:
        """Whether a login's token lies elsewhere; `~/.cache/huggingface` may itself lead here."""
        return self.login.is_file() and self.login.resolve() != self.here.resolve()

    @property
    def _exposed(self) -> bool:
        return self._astray and self.plan.exposed(self.login)

    def _source(self) -> str:
        """The token to put here; "" if it is here, or there is none at all."""
        own = stored.read(self.here).strip()
        if self._astray:
            found = stored.read(self.login).strip()
            # Whoever logged in last meant it.
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
            stored.write(self.here, source, 0o600)
        if self.here.is_file():
            self.here.chmod(0o600)
        if self._exposed:
            link(self.login, self.here)
        return f"in {self.here}" if self.here.is_file() else "none yet: hf auth login, then this command again"

    def undo(self) -> str:
        ours, done = self.note.exists(), ""
        if self.login.is_symlink() and self.login.resolve() == self.here.resolve():
            text = stored.read(self.here)
            self.login.unlink()
            stored.write(self.login, text, 0o600)
            done = f"back in {self.login}"
        if ours:
            self.here.unlink(missing_ok=True)
            self.note.unlink()
            done = done or str(self.here)
        return done


class PipCache:
    """pip's cache on the data disk: torch's wheels alone are 3 GB. Only where there are two disks."""

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
            # All of it can be fetched again; copying gigabytes between disks would take longer.
            shutil.rmtree(self.place)
        link(self.place, self.target)
        return f"{self.place} leads to {self.target}"

    def undo(self) -> str:
        if not self.place.is_symlink() or self.place.resolve() != self.target.resolve():
            return ""
        self.place.unlink()
        return f"the link {self.place}"


class Command:
    """`pi0q` in every shell, also where it lives in an environment of its own."""

    name = "command"

    def __init__(self, plan: Plan) -> None:
        self.place = plan.machine.at(COMMAND)
        if not os.access(self.place.parent, os.W_OK):
            # Without root: where login shells look as well.
            self.place = plan.machine.user_home / ".local" / "bin" / "pi0q"
        # A venv's python is a link to another's, beside which there is no pi0q.
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


def link(place: Path, target: Path) -> None:
    """Makes `place` lead to `target`, in one step, whatever file was there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.{os.getpid()}.link")
    fresh.symlink_to(target)
    fresh.replace(place)


def prune(folder: Path) -> None:
    """Removes a folder of ours that is empty now."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()

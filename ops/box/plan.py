"""The plan of a box, the protocol of a setup step, and what steps share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from pi0q.ops.box.tunnel import Tunnel
from pi0q.ops.machine import Machine, same_disk
from pi0q.queue.settings import Settings, config_path

#: The file below home that says with what setup started the worker last.
STARTED_WITH = ".started-with"
#: The worker's systemd unit.
UNIT = "pi0q-box.service"
#: On PATH in every shell, AutoDL's boot script included.
COMMAND = "/usr/local/bin/pi0q"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What setup makes of this machine."""

    machine: Machine
    #: Settings as they are once `values` are stored.
    settings: Settings
    #: Settings to write into the file.
    values: Mapping[str, str]
    #: The ssh tunnel that this setup asks for; None leaves the one that there is.
    tunnel: Tunnel | None = None

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def config(self) -> Path:
        """The settings file's usual place; it may be a link."""
        return config_path(self.machine.env)

    def exposed(self, path: Path) -> bool:
        """Return whether a path is not on pi0q's disk, but on the one that becomes part of a saved and shared image."""
        return not self.machine.on_data_disk(path) if self.machine.autodl else not same_disk(path, self.home)


@runtime_checkable
class Beyond(Protocol):
    """A step that may lack what setup can't provide."""

    def beyond(self) -> str:
        """Return what a person has to provide, and how; "" where nothing is lacking."""
        ...


class Step(Protocol):
    """One step of setup. `missing` changes nothing, and a second `do` changes nothing either."""

    name: str

    def missing(self) -> str:
        """Return what is not in place, in one line; "" if everything is."""
        ...

    def do(self) -> str:
        """Put it in place; return what was done, in one line."""
        ...

    def undo(self) -> str:
        """Take it back; return what was removed, "" if there was nothing."""
        ...


def link(place: Path, target: Path) -> None:
    """Replace `place`, whatever file it is, by a link to `target` in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.{os.getpid()}.link")
    fresh.symlink_to(target)
    fresh.replace(place)


def prune(folder: Path) -> None:
    """Remove a directory of ours if it is empty."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()

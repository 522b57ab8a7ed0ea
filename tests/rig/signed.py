"""Keys of users and boxes in a story: each machine has a directory of settings of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from pi0q.jobs.signing.keys import PublicKey, Role, TrustedKeys
from pi0q.queue import keys

#: Whether the user of a cluster signs, and its boxes run signed jobs alone.
ON = os.environ.get("PI0Q_TEST_SIGNED", "on") != "off"


class Config:
    """The settings of all machines of a cluster: its user signs, and they trust that key and each box's."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._trusted: dict[str, PublicKey] = {}
        if self._is_own:
            self._trusted["the user's"] = new_user(place)
            trust(place, *self._trusted.values())

    @property
    def _is_own(self) -> bool:
        """Whether the story has not chosen the settings itself."""
        return "XDG_CONFIG_HOME" not in os.environ

    @property
    def env(self) -> Mapping[str, str]:
        return {"XDG_CONFIG_HOME": str(self.place)} if self._is_own else {}

    def trust_box(self, home: Path, name: str) -> None:
        """Has every machine take checkpoints over from this box, too."""
        if self._is_own:
            self._trusted[name] = box_key(home, name)
            trust(self.place, *self._trusted.values())

    @contextmanager
    def used(self) -> Iterator[None]:
        """This process signs with the user's key meanwhile."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.env.items():
                patch.setenv(name, value)
            yield


def new_user(config: Path) -> PublicKey:
    """Make a user's key below this XDG_CONFIG_HOME; return its public half."""
    path = keys.signing_key_path({"XDG_CONFIG_HOME": str(config)})
    keys.create_private(path)
    return keys.load_private(path, Role.SUBMITTER, "ada@laptop").public


def trust(config: Path, *trusted: PublicKey) -> None:
    """Make the machine with this XDG_CONFIG_HOME trust these keys and no others."""
    keys.write_trusted(keys.trusted_keys_path({"XDG_CONFIG_HOME": str(config)}), TrustedKeys(keys=trusted))


def box_key(home: Path, name: str) -> PublicKey:
    """Return the public half of a box's key; it is made at the first call."""
    return keys.box_key(home, name).public

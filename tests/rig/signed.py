"""Keys of users and boxes in a story: each machine has a directory of settings of its own."""

from __future__ import annotations

from pathlib import Path

from pi0q.jobs.signing.keys import PublicKey, Role, TrustedKeys
from pi0q.queue import keys


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

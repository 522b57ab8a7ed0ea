"""Passwords: made at random; those of this machine's own parts lie beside the server's data, 0600."""

from __future__ import annotations

import secrets
from pathlib import Path

from pi0q.ops import file_edits

FOLDER = "passwords"
#: Bytes of randomness.
LENGTH = 24


def new() -> str:
    """Return a new password; nothing in it needs an escape in an address."""
    return secrets.token_urlsafe(LENGTH)


def keep(data: Path, name: str, secret: str) -> None:
    """Write the password of a part of this machine."""
    folder = data / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    file_edits.write(folder / name, f"{secret}\n", 0o600)


def kept(data: Path, name: str) -> str:
    """Return the password of a part of this machine. Raises OSError."""
    return (data / FOLDER / name).read_text(encoding="utf-8").strip()

"""Who types a command."""

from __future__ import annotations

import getpass
import os
import socket


def user() -> str:
    """Return user@host."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        # A container's user may be a number alone.
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"

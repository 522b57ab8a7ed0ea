"""What the reading verbs share."""

from __future__ import annotations

import getpass
import os
import socket

from pi0q.queue import settings
from pi0q.queue.connection import connect
from pi0q.queue.store import Store


def open_store() -> Store:
    """The store that the settings name."""
    chosen = settings.load()
    return Store(connect(chosen), chosen.prefix)


def user() -> str:
    """Who types the command, user@host."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        # A container's user may be a number alone.
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"

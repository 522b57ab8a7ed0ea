"""What both web pages share: password files, and the names under which this machine may be asked."""

from __future__ import annotations

import secrets
from pathlib import Path
from urllib.parse import urlsplit

from pi0q.jobs.errors import UsageError
from pi0q.ops import file_edits

#: User name of the login, where none is given.
USER = "pi0q"
#: Names of this machine by which a page may be asked while it listens on the loopback address.
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def password(path: Path) -> str:
    """Return the password in a file; create it on the first call. Raises UsageError if the file is unusable."""
    if not path.exists():
        file_edits.write(path, secrets.token_urlsafe(16) + "\n", 0o600)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Can't read the password of the page in {path}: {error}. Nothing was started.") from None
    if not text or not text.isascii() or not text.isprintable():
        raise UsageError(
            f"{path} must hold one line of printable ASCII. Nothing was started.\n"
            "Fix: remove the file; the next start makes a new one."
        )
    return text


def host_of(header: str) -> str:
    """Return the host of a Host header without its port; empty if it is none."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""

"""The address of the queue's server: whether it can be read, and what of it may be shown. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

#: What a user reads of an address that can't be read.
FORM = (
    "It looks like redis://USER:PASSWORD@HOST:PORT/0; special characters of the password are written %XX "
    "(@ is %40, # is %23, / is %2F, ? is %3F, : is %3A, % is %25)."
)
#: A command that writes a password so, without showing it.
ENCODE = "python3 -c 'import getpass, urllib.parse as u; print(u.quote(getpass.getpass(), safe=\"\"))'"
_HOST = r"(?:\[[0-9A-Fa-f:.%\w]+\]|[^\s/?#@:\[\]]*)"
_SHOWN = re.compile(rf"{_HOST}(?::\d+)?(?:/\d*)?")


def check(url: str) -> None:
    """Raise ValueError, with a text that holds nothing of the address, where it can't mean what it says.

    A password with `#`, `/` or `?` ends the host's part for every reader of addresses; what follows an `@` before it
    would be taken for the host, asked for at the name server, and shown.
    """
    if re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError("a blank or a control character is in it")
    parts = urlsplit(url)
    if "#" in url:
        raise ValueError("a `#` is in it")
    if "@" in parts.path + parts.query:
        raise ValueError("an `@` comes behind a `/` or `?`")
    if parts.scheme != "unix" and not re.fullmatch(r"/?\d*", parts.path):
        raise ValueError("what follows the host is no number of a database")
    # Raises ValueError for what is no number.
    if parts.scheme != "unix" and parts.port == 0:
        raise ValueError("0 is no port")


def shown(url: str) -> str:
    """Return the address without user, password and options, wherever they stand in it; a part of it where unsure."""
    scheme, _, rest = url.partition("://")
    before, _, rest = rest.rpartition("@")
    # An `@` in an option: what follows may be a part of a password.
    rest = "…" if re.search(r"\?.*=", before) else rest.partition("?")[0]
    scheme = scheme if scheme in ("redis", "rediss", "unix") else "redis"
    if scheme == "unix":
        return f"unix://{rest if rest.startswith('/') else '…'}"
    return f"{scheme}://{rest if _SHOWN.fullmatch(rest) else '…'}"

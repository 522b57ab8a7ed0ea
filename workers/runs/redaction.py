"""Texts of this box that no log, reason or record may show: tokens, keys, passwords, and their base64 forms."""

from __future__ import annotations

import base64
import contextlib
import netrc
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pi0q.workers.network import swanlab_key

#: Variables whose values are secrets.
SECRET_NAMES = re.compile(r"TOKEN|API_KEY|PASSWORD|SECRET")
#: Shorter values would hide ordinary words.
SHORTEST = 8


def known_secrets(env: Mapping[str, str], *, user_home: Path) -> list[str]:
    """Return every form of this box's secrets to hide, longest first.

    They are the values of variables named like secrets, the password in PI0Q_REDIS_URL, and the keys in `~/.netrc`
    and SwanLab's file of that name (where `wandb login` and `swanlab login` put theirs). The longest come first, so
    that a part of one never leaves its rest.
    """
    plain = {text for text in _plain(env, user_home) if len(text) >= SHORTEST}
    forms = plain | {form for text in plain for form in base64_forms(text) if len(form) >= SHORTEST}
    return sorted(forms, key=lambda text: (-len(text), text))


def base64_forms(text: str) -> Iterator[str]:
    """Yield what stays the same of the text in base64, at each of the three places where it may begin."""
    raw = text.encode()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        # The first characters hold bits of what comes before, the last one of what follows.
        first = (0, 2, 3)[before]
        last = len(encoded) - (1 if (before + len(raw)) % 3 else 0)
        form = encoded[first:last]
        yield form
        yield form.replace("+", "-").replace("/", "_")


def _plain(env: Mapping[str, str], user_home: Path) -> Iterator[str]:
    yield from (value for name, value in env.items() if SECRET_NAMES.search(name))
    try:
        password = urlsplit(env.get("PI0Q_REDIS_URL", "")).password or ""
    except ValueError:
        password = ""
    yield from {password, unquote(password)}
    for file in (user_home / ".netrc", swanlab_key.login_file(env, user_home=user_home)):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            yield from (str(entry[2]) for entry in netrc.netrc(os.fspath(file)).hosts.values() if entry[2])

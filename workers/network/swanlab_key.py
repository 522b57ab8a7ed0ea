"""Whose SwanLab key this box has, and whether SwanLab still takes it."""

from __future__ import annotations

import json
import netrc
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pi0q.queue.settings import Settings
from pi0q.workers.network import routes

HOST = "https://api.swanlab.cn"
#: Seconds for SwanLab's answer, and bytes of it that are read.
SECONDS, LARGEST = 15.0, 64 * 1024


@dataclass(frozen=True, kw_only=True)
class SwanLab:
    """What SwanLab says of the key."""

    #: "ok"; "none": there is no key; "refused"; "away": SwanLab does not answer.
    state: str
    #: Whose it is.
    user: str = ""
    #: Who was asked.
    host: str = ""


#: What is wrong with a SwanLab key, in words.
WRONG = {
    "none": "this box has no key (`swanlab login` on it)",
    "refused": "it refuses this box's key (`swanlab login --relogin` on it)",
    "away": "it does not answer",
}


def check(settings: Settings, env: Mapping[str, str], *, user_home: Path) -> SwanLab:
    """Ask SwanLab; its servers are near, so past AutoDL's proxy. The key: see `find`."""
    key, address = find(env, user_home=user_home)
    host = urlsplit(address).hostname or ""
    if not key:
        return SwanLab(state="none", host=host)
    direct = routes.ways(address, settings, env, routes.read_turbo(settings.network_turbo))[-1]
    status, user = _login(direct, key)
    if status in (401, 403) or (status == 200 and not user):
        return SwanLab(state="refused", host=host)
    return SwanLab(state="ok", user=user, host=host) if status == 200 else SwanLab(state="away", host=host)


def find(env: Mapping[str, str], *, user_home: Path) -> tuple[str, str]:
    """Return the key and the address of its server: those of the environment, else of `swanlab login` ("" for none)."""
    key, address = env.get("SWANLAB_API_KEY", ""), env.get("SWANLAB_API_HOST", "")
    if not key:
        known, stored = _stored(login_file(env, user_home=user_home))
        # A key of another server is not sent to this one.
        if not address or _plain(address) == _plain(stored):
            key, address = known, stored
    return key, _plain(address or HOST)


def login_file(env: Mapping[str, str], *, user_home: Path) -> Path:
    """Return where `swanlab login` keeps the key."""
    place = env.get("SWANLAB_ROOT") or env.get("SWANLAB_SAVE_DIR")
    return (Path(place) if place else user_home / ".swanlab") / ".netrc"


def _stored(file: Path) -> tuple[str, str]:
    """The key and the server in a file of SwanLab's login: its first entry, as SwanLab reads it."""
    try:
        hosts = netrc.netrc(os.fspath(file)).hosts
    except (OSError, netrc.NetrcParseError, ValueError):
        return "", ""
    return next(((str(entry[2] or ""), host) for host, entry in hosts.items()), ("", ""))


def _plain(address: str) -> str:
    """Scheme, host and port alone, as SwanLab takes an address."""
    whole = address.strip() if "://" in address else f"https://{address.strip()}"
    parts = urlsplit(whole)
    return f"{parts.scheme}://{parts.netloc}"


def _login(route: routes.Route, key: str) -> tuple[int, str]:
    """The status of SwanLab's answer (0: none) and whose key it is."""
    try:
        asked = urllib.request.Request(f"{route.endpoint}/api/login/api_key", data=b"", method="POST")
        asked.add_header("authorization", key)
        with routes.open(route, asked, timeout=SECONDS) as answer:
            told = json.loads(answer.read(LARGEST))
            return answer.status, str(told["userInfo"]["username"])
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, ""
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""

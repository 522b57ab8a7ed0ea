"""Whose WandB key this box has, and whether WandB still takes it."""

from __future__ import annotations

import json
import netrc
import os
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pi0q.queue.settings import Settings
from pi0q.workers.network import routes

#: Seconds for WandB's answer.
WANDB_SECONDS = 15.0
#: As every client of WandB asks who it is.
VIEWER = {"query": "query {viewer {username}}"}


@dataclass(frozen=True, kw_only=True)
class WandB:
    """What WandB says of the key."""

    #: "ok"; "none": there is no key; "refused"; "away": WandB does not answer.
    state: str
    #: Whose it is.
    user: str = ""
    #: Who was asked.
    host: str = ""


def wandb(settings: Settings, env: Mapping[str, str], *, user_home: Path) -> WandB:
    """Asks over each way until one answers. The key is that of the environment, else that of `~/.netrc`."""
    address = env.get("WANDB_BASE_URL") or routes.WANDB
    host = urlsplit(address).hostname or ""
    key = env.get("WANDB_API_KEY") or _netrc_key(user_home / ".netrc", host)
    if not key:
        return WandB(state="none", host=host)
    turbo = routes.read_turbo(settings.network_turbo)
    ways = routes.Ways("wandb", routes.ways(address, settings, env, turbo), settings.home)
    for route in ways.order():
        status, user = _viewer(route, key)
        if status in (401, 403) or (status == 200 and not user):
            return WandB(state="refused", host=host)
        if status == 200:
            ways.remember(route)
            return WandB(state="ok", user=user, host=host)
        ways.forget(route)
    return WandB(state="away", host=host)


def _netrc_key(file: Path, host: str) -> str:
    try:
        found = netrc.netrc(os.fspath(file)).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return ""
    return found[2] or "" if found else ""


def _viewer(route: routes.Route, key: str) -> tuple[int, str]:
    """The status of WandB's answer (0: none) and whose key it is."""
    asked = urllib.request.Request(
        route.endpoint.rstrip("/") + "/graphql", data=json.dumps(VIEWER).encode(), method="POST"
    )
    asked.add_header("Content-Type", "application/json")
    asked.add_header("Authorization", "Basic " + b64encode(f"api:{key}".encode()).decode())
    try:
        with routes.open(route, asked, timeout=WANDB_SECONDS) as answer:
            viewer = (json.load(answer).get("data") or {}).get("viewer") or {}
            return answer.status, str(viewer.get("username") or "")
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, ""
    except (OSError, ValueError, AttributeError):
        return 0, ""


#: What is wrong with a WandB key, in words.
WANDB = {
    "none": "this box has no key (`wandb login` on it)",
    "refused": "it refuses this box's key (`wandb login` on it)",
    "away": "it does not answer",
}

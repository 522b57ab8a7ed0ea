"""The shared servers of the tests with roles: each command of pi0q runs as the user that may do it, and no other.

`PI0Q_TEST_ROLES=off` runs the tests on a server with one password, as `pi0q up` has it before `pi0q server init`. The
stories of whole boxes run on a server of their own with TLS, where this machine has one; `PI0Q_TEST_TLS=off` or a
machine without one runs them on that of the other tests.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from pi0q.ops.server import binary, certificates, live, passwords
from pi0q.ops.server.roles import Role, rules
from pi0q.ops.server.users import AUTHORITY, OWN_PARTS, OWNER, SERVER, TLS, Access, User, hashed

ON = os.environ.get("PI0Q_TEST_ROLES", "on") != "off"
#: A test's own prefix, as a pattern of Redis (the fixture `store`).
PREFIXES = "t????????:"
SUBMITTERS = ("submit", "cancel", "hold", "release", "bump", "retry", "checkpoint", "import", "key")
VIEWERS = ("ls", "show", "why", "logs", "watch", "report", "get", "explain", "notify", "cost", "open", "top")
#: Verbs of the command -> who may use them; all others are an admin's.
VERBS = {
    **dict.fromkeys(SUBMITTERS, Role.SUBMITTER),
    **dict.fromkeys(("worker", "cache", "adopt", "box"), Role.WORKER),
    **dict.fromkeys(VIEWERS, Role.VIEWER),
    "flower": Role.FLOWER,
}
#: Where tests of one part of pi0q lie -> as whom that part runs within the test's own process.
FOLDERS = {
    "tests/scenarios/": Role.WORKER,
    "tests/ops/flower/": Role.FLOWER,
    "tests/ops/notify/": Role.VIEWER,
}


def of_verb(args: Sequence[str]) -> Role:
    # Who may spend how much is for an admin to say.
    if "--limit" in args:
        return Role.ADMIN
    return VERBS.get(next((word for word in args if not word.startswith("-")), ""), Role.ADMIN)


def of_test(path: str) -> Role:
    return next((role for folder, role in FOLDERS.items() if folder in path), Role.ADMIN)


def binary_with_tls() -> Path | None:
    """A server of this machine that was built with TLS: Debian's is. None where stories shall run without."""
    if not ON or os.environ.get("PI0Q_TEST_TLS", "on") == "off":
        return None
    found = map(Path, filter(None, map(shutil.which, ("redis-server", "valkey-server"))))
    return next((one for one in found if binary.version_of(one) >= (7, 0) and binary.has_tls(one)), None)


def init(data: Path, *, tls: bool = False) -> None:
    """Gives a server's directory one user of each role; a worker there may be any box."""
    data.mkdir(parents=True, exist_ok=True)
    access = Access(prefix=PREFIXES, memory_mib=2048, tls=tls)
    names, now = {*OWN_PARTS, *(role.value for role in Role)}, datetime.now(timezone.utc)
    if tls:
        certificates.make_authority(data / TLS / AUTHORITY, now)
        certificates.sign(data / TLS / AUTHORITY, data / TLS / SERVER, SERVER, now, hosts=("127.0.0.1", "localhost"))
        for name in names:
            certificates.sign(data / TLS / AUTHORITY, data / TLS / name, name, now)
    for name in names:
        role = OWN_PARTS[name] if name in OWN_PARTS else Role(name)
        secret = passwords.new()
        passwords.keep(data, name, secret)
        box = "any" if role is Role.WORKER else ""
        access = access.with_user(User(name=name, role=role, password_hash=hashed(secret), box=box))
    (data / "users.json").write_text(access.dumps())


def any_box(client: redis.Redis) -> None:
    """Lets the worker of the tests be whatever box it says."""
    words = rules(Role.WORKER, prefix=PREFIXES, user="worker", box="*", version=live.version(client))
    live.ask(client, "ACL", "SETUSER", "worker", *words[1:], "allchannels")
    # Who listens to a pattern must have it in its rule word for word, and here the prefix is one itself.
    live.ask(client, "ACL", "SETUSER", "flower", "allchannels")


def url(owner_url: str, role: Role) -> str:
    """The server's address for another of its users; its password lies in the process's own table."""
    parts = urlsplit(owner_url)
    known = FOLDERS_OF.get(parts.port or 0)
    if parts.username != OWNER or known is None:
        return owner_url
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{role.value}:{passwords.kept(known, role.value)}@{place}{parts.path}"


def tls(owner_url: str, role: Role) -> dict[str, str]:
    """The variable that names the certificate of this user; none for a server without TLS."""
    known = FOLDERS_OF.get(urlsplit(owner_url).port or 0)
    return {"PI0Q_TLS": str(known / TLS / role.value)} if owner_url.startswith("rediss:") and known else {}


#: Port of a server with roles -> its directory.
FOLDERS_OF: dict[int, Path] = {}


def remember(data: Path, port: int) -> None:
    FOLDERS_OF[port] = data


def refused(client: redis.Redis) -> list[dict[str, Any]]:
    """What the server refused its users since the last call."""
    found = live.ask(client, "ACL", "LOG")
    live.ask(client, "ACL", "LOG", "RESET")
    return [dict(zip(entry[::2], entry[1::2], strict=True)) if isinstance(entry, list) else entry for entry in found]

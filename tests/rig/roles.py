"""The shared server of the tests with roles: each command of pi0q runs as the user that may do it, and no other.

`PI0Q_TEST_ROLES=off` runs the tests on a server with one password, as `pi0q up` has it before `pi0q server init`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from pi0q.ops.server import live, passwords
from pi0q.ops.server.roles import Role, rules
from pi0q.ops.server.users import OWN_PARTS, OWNER, Access, User, hashed

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
    return VERBS.get(next((word for word in args if not word.startswith("-")), ""), Role.ADMIN)


def of_test(path: str) -> Role:
    return next((role for folder, role in FOLDERS.items() if folder in path), Role.ADMIN)


def init(data: Path) -> None:
    """Gives a server's directory one user of each role; a worker there may be any box."""
    data.mkdir(parents=True, exist_ok=True)
    access = Access(prefix=PREFIXES, memory_mib=2048)
    for name in {*OWN_PARTS, *(role.value for role in Role)}:
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
    before, _, place = owner_url.rpartition("@")
    return f"redis://{role.value}:{SECRETS[role]}@{place}" if f"//{OWNER}:" in before and SECRETS else owner_url


#: Role -> its user's password; empty where the server has no roles.
SECRETS: dict[Role, str] = {}


def remember(data: Path) -> None:
    SECRETS.update({role: passwords.kept(data, role.value) for role in Role})
    assert OWNER in OWN_PARTS


def refused(client: redis.Redis) -> list[dict[str, Any]]:
    """What the server refused its users since the last call."""
    found = live.ask(client, "ACL", "LOG")
    live.ask(client, "ACL", "LOG", "RESET")
    return [dict(zip(entry[::2], entry[1::2], strict=True)) if isinstance(entry, list) else entry for entry in found]

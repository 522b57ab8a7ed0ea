"""What changes on a server that runs: a user comes or goes, scripts are given to it, its port opens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi0q.ops.server import scripts
from pi0q.ops.server.users import Access, User

if TYPE_CHECKING:
    from redis import Redis

#: The hash, below the prefix, of the users' limits (queue/lua/submit.lua).
LIMITS = "limits"


def prepare(client: Redis, access: Access, data: Path) -> None:
    """Give a server that has just started its scripts and the users' limits. Raises redis.RedisError."""
    # It had to read the data; see users.NOBODY_LOADS.
    ask(client, "ACL", "SETUSER", "default", "reset")
    scripts.load(client, scripts.keep(data))
    pipe = client.pipeline(transaction=True)
    pipe.delete(access.prefix + LIMITS)
    if limits := access.limits():
        pipe.hset(access.prefix + LIMITS, items=[word for pair in limits.items() for word in pair])
    pipe.execute()


def set_user(client: Redis, access: Access, user: User) -> None:
    """Make a user, or change it. Raises redis.RedisError."""
    ask(client, "ACL", "SETUSER", user.name, *user.rule(access.prefix, version(client)))
    if limit := access.limits().get(user.name):
        client.hset(access.prefix + LIMITS, user.name, limit)


def remove_user(client: Redis, access: Access, name: str) -> int:
    """Remove a user and close its connections; return how many it had. Raises redis.RedisError."""
    # No new connection first, then the old ones are counted and closed.
    ask(client, "ACL", "SETUSER", name, "off")
    closed = ask(client, "CLIENT", "KILL", "USER", name)
    client.acl_deluser(name)
    client.hdel(access.prefix + LIMITS, name)
    return int(closed)


def ask(client: Redis, *words: str) -> Any:
    """Send a command in its own words and return its answer. Raises redis.RedisError."""
    return client.execute_command(*words)  # type: ignore[no-untyped-call]


def version(client: Redis) -> tuple[int, int]:
    """Return the version of Redis whose commands the server has."""
    major, minor, *_ = str(client.info("server")["redis_version"]).split(".")
    return int(major), int(minor)

"""What each role may do on the queue's server, as the words of Redis' access control lists. Pure.

A rule is a base, which every role has (greeting, reading), and grants: some commands on some keys. Commands inside a
script are checked like any other, so a grant names what pi0q's scripts (queue/lua) and Celery's transport write.
Nobody but `admin` may send a script, read or change the configuration, or delete a job's record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Role(str, Enum):
    """Who a user of the server is."""

    #: A person who submits, cancels, holds and prioritises jobs.
    SUBMITTER = "submitter"
    #: A box.
    WORKER = "worker"
    #: Somebody who looks on; `pi0q notify` is one.
    VIEWER = "viewer"
    #: The web page: a submitter that also hears Celery's events.
    FLOWER = "flower"
    #: Whoever runs the server.
    ADMIN = "admin"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Grant:
    """Commands that may be used on keys with these names below the prefix; `*` and `?` as in Redis."""

    commands: tuple[str, ...]
    keys: tuple[str, ...]


#: Redis and Valkey from here on have key permissions, selectors and a port that can be changed while they run.
OLDEST = (7, 0)
#: Commands that came later -> the version; older servers refuse a rule that names them.
LATER = {"client|setinfo": (7, 2), "waitaof": (7, 2)}

GREETING = ("hello", "auth", "ping", "echo", "select", "quit", "reset", "client|setname", "client|id", "client|setinfo")
READING = (
    *("get", "getrange", "exists", "type", "hget", "hgetall", "hlen", "hmget", "hexists", "lrange", "llen", "lindex"),
    *("lpos", "smembers", "scard", "sismember", "zcard", "zcount", "zlexcount", "zscore", "zmscore", "zrange"),
    *("zrangebyscore", "zrevrange", "zrevrangebyscore", "zrangebylex"),
)
SERVER = ("time", "info", "multi", "exec", "discard", "watch", "unwatch", "evalsha", "script|exists")
LISTENING = ("subscribe", "unsubscribe", "psubscribe", "punsubscribe")

HASH, ZSET, SET = ("hset", "hsetnx", "hdel", "hincrby"), ("zadd", "zrem"), ("sadd", "srem")
#: The lists in which jobs wait (celery_message.QUEUE_KEYS): their suffix holds two control characters.
QUEUES = ("jobs", "jobs??[0-9]")

#: What putting a job into the queue, and taking it out, writes.
QUEUE_ACTS = (
    Grant(
        commands=HASH,
        keys=("job:*", "server", "order", "waiting", "spots", "reserved", "idle", "placed", "choices", "sweep:*"),
    ),
    Grant(
        commands=ZSET,
        keys=(
            *("live", "ended", "lookup", "classes", "class:*", "news", "unchecked", "calls"),
            *("idle:*", "cards:*", "room:*", "shared:*", "conditional", "timed", "sweeps", "turns:*"),
        ),
    ),
    Grant(commands=("lpush", "rpush", "lpop", "rpop", "lset"), keys=QUEUES),
    Grant(commands=("rpush", "ltrim"), keys=("history:*",)),
    Grant(commands=SET, keys=("former:*", "lacking", "dependants:*", "active:*")),
    Grant(commands=("set",), keys=("recent:*", "adopted", "searching")),
    Grant(commands=("expire",), keys=("searching",)),
    Grant(commands=("zadd", "zincrby", "zremrangebyscore", "del"), keys=("shares",)),
)
#: What a box writes besides; `{box}` is its own name.
BOX_ACTS = (
    Grant(
        commands=HASH,
        keys=("promises:*", "peaks", "paces", "box:{box}", "refusals:{box}", "plans:{box}", "prices", "budgets"),
    ),
    Grant(commands=ZSET, keys=("leases", "boxes", "peaks:age", "paces:age", "held")),
    # What a claim cost, kept as it ends.
    Grant(commands=("rpush", "lpop"), keys=("holds:*",)),
    Grant(commands=("zpopmin",), keys=("unchecked",)),
    Grant(commands=("zremrangebyrank",), keys=("peaks:age", "paces:age", "held")),
    Grant(commands=SET, keys=("owned:{box}", "awaited")),
    # Any box requeues the jobs of one that is gone.
    Grant(commands=("srem",), keys=("owned:*",)),
    Grant(commands=("lrem",), keys=("box.*",)),
    Grant(commands=("lpush", "rpush", "brpop"), keys=("box.{box}", "box.{box}??[0-9]")),
    Grant(commands=("set",), keys=("planned", "planned:again", "swept")),
    Grant(commands=("pexpire",), keys=("swept",)),
    Grant(commands=("set", "append"), keys=("tail:*",)),
    Grant(commands=("rpush", "ltrim", "del"), keys=("curve:*",)),
    Grant(commands=("del",), keys=("awaited", "reserved", "refusals:{box}", "plans:{box}")),
)
#: What follows the name of a list that has priorities: two control characters and a digit.
STEP = "??[0-9]"
#: Mailboxes in which Flower gets the answers of workers.
MAILBOXES = ("*.reply.celery.pidbox", f"*.reply.celery.pidbox{STEP}")
#: What kombu writes for whoever listens to a queue (kombu/transport/redis.py): its tables of who gets a broadcast,
#: messages that were taken and not begun, and the lock of whoever brings those back. The scripts that it calls with
#: keys of its own need them in one grant.
KOMBU = (
    Grant(commands=("evalsha", *SET, *ZSET, "del"), keys=("_kombu.binding*",)),
    Grant(commands=("hset", "hdel"), keys=("unacked",)),
    Grant(commands=ZSET, keys=("unacked_index",)),
    Grant(commands=("evalsha", "set", "get", "del"), keys=("unacked_mutex",)),
)
#: A Celery worker's besides: its mailbox, and answers.
CELERY_WORKER = (
    *KOMBU,
    Grant(commands=("lpush", "rpush"), keys=MAILBOXES),
    Grant(commands=("brpop", "del"), keys=("*@{box}.celery.pidbox", "*@{box}.celery.pidbox" + STEP)),
)
#: What hears Celery's events and asks its workers.
CELERY_MONITOR = (
    *KOMBU,
    Grant(commands=("brpop", "lpush", "rpush", "del"), keys=(*MAILBOXES, "celeryev.*")),
)
WORD_CHANNELS = ("changes", "wish:*", "wake:*", "wake")
#: Word for word as Celery listens to them: a pattern is not matched with a pattern.
EVENT_CHANNELS = ("/0.celery.pidbox", "/0.celeryev/*")


@dataclass(frozen=True, kw_only=True)
class RoleRights:
    """What a role has besides the base."""

    grants: tuple[Grant, ...] = ()
    #: Further commands that name no key.
    commands: tuple[str, ...] = ()
    #: Channels that it may listen to, and publish on where it has that command.
    channels: tuple[str, ...] = WORD_CHANNELS


#: A user's own jobs for its limit (queue/lua/submit.lua).
OWN_SUBMITS = Grant(commands=ZSET, keys=("submitted:{user}",))
RIGHTS = {
    Role.VIEWER: RoleRights(channels=("changes", "wish:*")),
    Role.SUBMITTER: RoleRights(grants=(*QUEUE_ACTS, OWN_SUBMITS), commands=("publish", "waitaof")),
    Role.FLOWER: RoleRights(
        grants=(*QUEUE_ACTS, *CELERY_MONITOR), commands=("publish",), channels=(*WORD_CHANNELS, *EVENT_CHANNELS)
    ),
    Role.WORKER: RoleRights(
        grants=(*QUEUE_ACTS, *BOX_ACTS, *CELERY_WORKER, OWN_SUBMITS),
        commands=("publish", "waitaof"),
        channels=(*WORD_CHANNELS, *EVENT_CHANNELS),
    ),
}
#: What not even an admin may do: the server's data and place are the business of its machine.
NOBODY = ("module", "debug", "replicaof", "slaveof", "psync", "sync", "failover", "migrate", "shutdown", "swapdb")


def prefix_fault(prefix: str) -> str:
    """Return why keys below a prefix cannot be named in a rule; "" where they can."""
    if re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", prefix):
        return ""
    return "it must hold letters, digits, '_', '.', ':' and '-', 64 at the most"


def rules(role: Role, *, prefix: str, user: str, box: str = "", version: tuple[int, int] = OLDEST) -> list[str]:
    """Return the words of a user's rule for ACL SETUSER, without its password.

    Args:
        role: What the user may do.
        prefix: What the keys of the installation start with, as a pattern of Redis.
        user: The user's name.
        box: The box that a worker is.
        version: The server's, for commands that came later.
    """
    if role is Role.ADMIN:
        return ["on", "~*", "&*", "+@all", *(f"-{name}" for name in NOBODY)]
    rights = RIGHTS[role]
    words = ["on", "resetkeys", "resetchannels", "-@all"]
    words += _commands((*GREETING, *READING, *SERVER, *LISTENING, *rights.commands), version)
    # The scripts are called with the prefix itself as their key.
    words += [f"%R~{prefix}*", f"~{prefix}"]
    words += [f"&{prefix}{channel}" for channel in rights.channels]
    for grant in rights.grants:
        keys = [f"~{prefix}{name.format(box=box, user=user)}" for name in grant.keys]
        words.append(f"({' '.join(['-@all', *_commands(grant.commands, version), *keys])})")
    return words


def _commands(names: Iterable[str], version: tuple[int, int]) -> list[str]:
    return [f"+{name}" for name in names if version >= LATER.get(name, OLDEST)]

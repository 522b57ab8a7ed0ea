"""The connection to the server that holds the queue, and what to tell a person when there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pi0q.jobs.errors import QueueUnreachable
from pi0q.queue.settings import Settings

if TYPE_CHECKING:
    from redis import Redis, RedisError

#: Seconds. Without a socket timeout a dead NAT mapping hangs a client for ever (kombu and redis-py alike).
SOCKET_TIMEOUT = 5.0
#: Seconds of silence after which a pooled connection is tried before it is used.
HEALTH_CHECK_INTERVAL = 5


def connect(settings: Settings) -> Redis:
    """A client of the server; it connects at its first command."""
    import redis

    return redis.Redis.from_url(
        settings.redis_url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT,
        socket_connect_timeout=SOCKET_TIMEOUT,
        socket_keepalive=True,
        health_check_interval=HEALTH_CHECK_INTERVAL,
    )


def explain(error: RedisError, settings: Settings) -> QueueUnreachable:
    """What a failed command means: what happened, what pi0q did, what to do."""
    text = str(error)
    where = settings.safe_url()
    origin = settings.sources.get("redis_url")
    given = f"(from {origin})" if origin else "(the default; set PI0Q_REDIS_URL to your server's address)"
    kind = type(error).__name__
    if kind == "AuthenticationError" or "WRONGPASS" in text or "NOAUTH" in text or "AUTH" in text:
        what = f"The queue's server at {where} {given} refuses the user or password."
        cure = "Put them into the address: redis://USER:PASSWORD@HOST:PORT/0."
    elif "OOM" in text or kind == "OutOfMemoryError":
        what = f"The queue's server at {where} is out of memory."
        cure = "Raise its maxmemory, and keep maxmemory-policy noeviction."
    elif "READONLY" in text:
        what = f"The server at {where} is a read-only replica."
        cure = "Point PI0Q_REDIS_URL at the primary."
    elif "NOPERM" in text:
        what = f"The user in PI0Q_REDIS_URL may not do this on {where}: {text}"
        cure = "Ask whoever runs the queue for a user with these rights."
    elif "Timeout" in kind:
        what = f"The queue's server at {where} {given} did not answer within {SOCKET_TIMEOUT:.0f} s."
        cure = "Check the address, the tunnel or the firewall."
    elif kind == "ResponseError":
        what = f"The queue's server at {where} answered with an error: {text}"
        cure = "It must be Redis 6.2 or Valkey 7.2, or newer."
    else:
        what = f"Can't reach the queue's server at {where} {given}: {text}"
        cure = "Start one with `pi0q up`, or check the address and the tunnel."
    return QueueUnreachable(f"{what}\nNothing was changed.\n{cure}")

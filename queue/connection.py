"""The connection to the server that holds the queue, and what to tell a person when there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pi0q.jobs.errors import QueueUnreachable, UsageError
from pi0q.queue.settings import Settings

if TYPE_CHECKING:
    from redis import Redis, RedisError

#: Names of redis-py's errors and codes of the server's -> what is told, and the cure. Checked in this order.
MEANINGS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("AuthenticationError", "AuthenticationWrongNumberOfArgsError", "WRONGPASS", "NOAUTH"),
        "refuses the user or password.",
        "Put them into the address: redis://USER:PASSWORD@HOST:PORT/0.",
    ),
    (("OutOfMemoryError", "OOM"), "is out of memory.", "Raise its maxmemory, and keep maxmemory-policy noeviction."),
    (("ReadOnlyError", "READONLY"), "is a read-only replica.", "Point PI0Q_REDIS_URL at the primary."),
    (
        ("NoPermissionError", "NOPERM", "ACL failure"),
        "does not let this user do this: {error}",
        "Ask whoever runs the queue for a user with these rights.",
    ),
    (("BusyLoadingError", "LOADING"), "is still reading its data.", "Try again in a moment."),
    (
        ("TimeoutError",),
        "did not answer in time.",
        "Check the address, the tunnel or the firewall.",
    ),
    (
        ("ResponseError",),
        "answered with an error: {error}",
        "It must be Redis 6.2 or Valkey 7.2, or newer.",
    ),
)
#: What redis-py says of a connection that was lost with a question open.
MIDWAY = ("reading from", "while writing", "writing to", "closed by server")
OTHERWISE = ("can't be reached: {error}", "Start one with `pi0q up`, or check the address and the tunnel.")


def connect(settings: Settings) -> Redis:
    """A client of the server; it connects at its first command. Raises UsageError for an address that is none."""
    import redis

    try:
        client = redis.Redis.from_url(
            settings.redis_url,
            decode_responses=True,
            # What a stranger wrote into the queue must not end us.
            encoding_errors="replace",
            socket_timeout=settings.timing.socket,
            socket_connect_timeout=settings.timing.socket,
            socket_keepalive=True,
            health_check_interval=health_check_seconds(settings),
        )
        pool = client.connection_pool
        str(pool.connection_kwargs.get("host", "")).encode("idna")
        # An option after `?` that there is none of shows only here.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError):
        # Its text may hold a part of the password.
        raise UsageError(
            f"The address of the queue's server {_origin(settings)} can't be read: {settings.safe_url()}\n"
            "Nothing was changed.\n"
            "It looks like redis://USER:PASSWORD@HOST:PORT/0; special characters of the password are written %XX."
        ) from None
    return client


def eviction(client: Redis) -> str | None:
    """Why this server may drop jobs when its memory is full; None if it never does."""
    known = client.info("memory")
    policy = known.get("maxmemory_policy", "noeviction")
    if not known.get("maxmemory") or policy == "noeviction":
        return None
    return (
        f"The queue's server may drop jobs when its memory is full (maxmemory-policy is {policy}).\n"
        "Set it right with: redis-cli CONFIG SET maxmemory-policy noeviction, and in its configuration file."
    )


def health_check_seconds(settings: Settings) -> int:
    """Silence, in whole seconds, after which a pooled connection is tried before it is used."""
    return max(1, round(settings.timing.socket))


def explain(error: RedisError, settings: Settings) -> QueueUnreachable:
    """What a failed command means: what happened, what pi0q did, what to do."""
    kind, text = type(error).__name__, str(error)
    what, cure = next(
        ((what, cure) for signs, what, cure in MEANINGS if kind in signs or any(sign in text for sign in signs)),
        OTHERWISE,
    )
    told = f"The queue's server at {settings.safe_url()} {_origin(settings)} {what.replace('{error}', text)}"
    if any(sign in text for sign in MIDWAY):
        changed = "Whether it still did what was asked is not known: look with `pi0q ls` before you ask again."
    else:
        changed = "Nothing was changed."
    return QueueUnreachable(f"{told}\n{changed}\n{cure}")


def _origin(settings: Settings) -> str:
    origin = settings.sources.get("redis_url")
    return f"(from {origin})" if origin else "(the default; set PI0Q_REDIS_URL to your server's address)"

"""Connect to the queue's server; explain a failed connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pi0q.jobs.errors import QueueUnreachable, UsageError
from pi0q.queue import server_address, tls
from pi0q.queue.settings import Settings

if TYPE_CHECKING:
    from redis import Redis, RedisError

    from pi0q.queue.resp_protocol import RespError
    from pi0q.queue.server_client import Client
    from pi0q.queue.server_disk import ServerDisk

#: Names of both clients' errors and codes of the server's -> what is told, and the cure. Checked in this order.
MEANINGS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("AuthenticationError", "AuthenticationWrongNumberOfArgsError", "WRONGPASS", "NOAUTH"),
        "refuses the user or password.",
        "Put them into the address: redis://USER:PASSWORD@HOST:PORT/0.",
    ),
    (("OutOfMemoryError", "OOM"), "is out of memory.", "Raise its maxmemory, and keep maxmemory-policy noeviction."),
    (("ReadOnlyError", "READONLY"), "is a read-only replica.", "Point PI0Q_REDIS_URL at the primary."),
    (
        ("script|load", "'eval' command", "NOSCRIPT", "NoScriptError"),
        "does not have the scripts of this version of pi0q, and only who runs it may send some.",
        "Upgrade pi0q on the server's machine first, and start it again there: pi0q up --stop; pi0q up -d",
    ),
    (
        ("NoPermissionError", "NOPERM", "ACL failure"),
        "does not let this user do this: {error}",
        "Ask whoever runs the queue for a user with these rights (pi0q server list, on its machine, shows who has "
        "which); a box must have the name that its user was made for.",
    ),
    (("BusyLoadingError", "LOADING"), "is still loading its data.", "Try again in a moment."),
    (
        ("MISCONF", "Errors writing to the AOF file", "No space left on device"),
        "can't write to its disk, so it takes no changes: {error}",
        "Look at the space on the server's disk (df -h, df -i) and at its log; once there is room it goes on by "
        "itself, and boxes and jobs with it.",
    ),
    (
        ("DB index is out of range", "invalid DB index"),
        "has no database of the number at the end of the address.",
        "Most servers have 0 to 15, and some 0 alone: redis://USER:PASSWORD@HOST:PORT/0.",
    ),
    (
        ("an HTTP reply", "HTTP/1."),
        "is a web server or an HTTP proxy, not a queue's server.",
        "Look at host and port of the address: `pi0q up` prints that of its server, and Flower's is another one.",
    ),
    (
        ("TimeoutError", "NoAnswer"),
        "did not answer in time.",
        "Check the address, the tunnel or the firewall.",
    ),
    (
        ("ResponseError", "CommandRefused"),
        "answered with an error: {error}",
        "It must be Redis 6.2 or Valkey 7.2, or newer.",
    ),
)
#: What redis-py says of a connection that was lost with a question open.
MIDWAY = ("reading from", "while writing", "writing to", "closed by server")
MAYBE_DONE = (
    "The connection dropped before the server answered, so the command may have taken effect. Check `pi0q ls` before "
    "retrying."
)
OTHERWISE = ("can't be reached: {error}", "Start one with `pi0q up`, or check the address and the tunnel.")


def connect(settings: Settings) -> Redis:
    """A client of the server; it connects at its first command. Raises UsageError for an address that is none."""
    import redis

    from pi0q.queue.connection_pool import FrugalPool

    try:
        server_address.check(settings.redis_url)
        if tls.fault(settings.redis_url):
            raise ValueError
        pool = FrugalPool.from_url(
            settings.redis_url,
            decode_responses=True,
            # A connection is ready after one round trip instead of three; nothing here needs more of the protocol.
            protocol=2,
            # What a stranger wrote into the queue must not end us.
            encoding_errors="replace",
            socket_timeout=settings.timing.socket,
            socket_connect_timeout=settings.timing.socket,
            **tls.options(settings),
            # A socket of this machine has none, and redis-py refuses the word for it.
            **({} if settings.redis_url.startswith("unix:") else {"socket_keepalive": True}),
            health_check_interval=health_check_seconds(settings),
        )
        str(pool.connection_kwargs.get("host", "")).encode("idna")
        # An option after `?` that there is none of shows only here.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError):
        raise _unreadable(settings) from None
    return redis.Redis.from_pool(pool)


def connect_briefly(settings: Settings) -> Client:
    """A client for a command that only reads, or submits: without redis-py where the address needs nothing of it.

    Raises UsageError for an address that is none.
    """
    from pi0q.queue.resp_client import Address, RespClient

    try:
        server_address.check(settings.redis_url)
        address = Address.parse(settings.redis_url)
    except ValueError:
        raise _unreadable(settings) from None
    return connect(settings) if address is None else RespClient(address, timeout=settings.timing.socket)


def _unreadable(settings: Settings) -> UsageError:
    # The error's own text may hold a part of the password.
    if fault := tls.fault(settings.redis_url):
        return UsageError(
            f"The address of the queue's server {_origin(settings)} can't be used: {fault}.\nNothing was changed.\n"
            "Fix: take that option out of the address; PI0Q_TLS=DIRECTORY names the ca.pem that counts"
        )
    return UsageError(
        f"The address of the queue's server {_origin(settings)} can't be read: {settings.safe_url()}\n"
        "Nothing was changed.\n"
        f"{server_address.FORM}\n"
        f"Fix: {server_address.ENCODE}"
    )


def eviction(client: Client) -> str | None:
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


def explain(error: RedisError | RespError, settings: Settings) -> QueueUnreachable:
    """Return what a failed command means: what happened, what became of the command, what to do."""
    known, text = {type(error).__name__, getattr(error, "code", "")}, str(error)
    meaning, fix = next(
        ((what, cure) for signs, what, cure in MEANINGS if known & {*signs} or any(sign in text for sign in signs)),
        OTHERWISE,
    )
    if told := tls.meaning(error, settings):
        meaning, fix = told
    if disk := _full_disk(settings):
        meaning = f"can't work, the disk under it is full: {disk}."
        fix = (
            f"Free space there (du -xsh {disk.path.parent}/*; `pi0q cache ls` shows caches and runs): `pi0q up` starts "
            "the server again by itself, with all its jobs."
        )
    what = f"The queue's server at {settings.safe_url()} {_origin(settings)} {meaning.replace('{error}', text)}"
    midway = getattr(error, "midway", any(sign in text for sign in MIDWAY))
    return QueueUnreachable(what, MAYBE_DONE if midway else "Nothing was changed.", fix)


def _full_disk(settings: Settings) -> ServerDisk | None:
    """Return the disk under the server of this machine's `pi0q up`, if it is full: the server ends on it."""
    from pi0q.queue import server_disk

    disk = server_disk.of(settings)
    return disk if disk and disk.full else None


def _origin(settings: Settings) -> str:
    origin = settings.sources.get("redis_url")
    return f"(from {origin})" if origin else "(the default; set PI0Q_REDIS_URL to your server's address)"

"""The queue's server: whether it answers, keeps what it was told, and lets nobody in."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from pi0q.jobs.errors import Pi0qError
from pi0q.ops.checks.finding import Finding, Patient, broken, ok, skipped, warning
from pi0q.queue.connection import connect, eviction, explain
from pi0q.queue.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

Version = tuple[int, ...]

#: The oldest that has every command of the store's.
OLDEST = {"Redis": (6, 2), "Valkey": (7, 2)}
#: Holes through which a client, or whoever stole one's password, takes over the server: name -> product -> by the
#: first two numbers of a version, the first of them that is mended. Series that are not listed never had it, those
#: below the first are not mended at all.
HOLES: dict[str, dict[str, tuple[Version, ...]]] = {
    "CVE-2025-49844 (Lua)": {
        "Redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
        "Valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4)),
    },
}
#: Those that have no mended release within their series: name -> product -> (from, mended).
LONG_HOLES: dict[str, dict[str, tuple[Version, Version]]] = {
    "CVE-2026-23479 (unblock)": {"Redis": ((7, 2, 0), (8, 6, 3))},
}
#: Seconds by which this machine's clock may be wrong. Leases go by the server's; tokens and certificates do not.
CLOCK_SECONDS = 30.0
#: Part of maxmemory from which on it is time to do something.
FULL = 0.9
KEEP = "redis-cli CONFIG SET appendonly yes, and `appendonly yes` in its configuration file"


def check(patient: Patient) -> Iterator[Finding]:
    """Everything about the server; where it does not answer, only that."""
    import redis

    settings = patient.settings
    if patient.fault:
        yield skipped("server", "the settings can't be read, see `settings`")
        return
    try:
        client = connect(settings)
        began = time.monotonic()
        client.ping()
        first = time.monotonic() - began
    except (Pi0qError, redis.RedisError, OSError) as error:
        yield _unreachable(error, settings)
        return
    try:
        yield from _answering(client, settings, first)
    except redis.exceptions.NoPermissionError as error:
        yield skipped("server rights", f"this user may not look at the rest ({_one_line(str(error))})")
    finally:
        client.close()


def _unreachable(error: Exception, settings: Settings) -> Finding:
    told = str(error if isinstance(error, Pi0qError) else explain(error, settings))  # type: ignore[arg-type]
    what, *_, cure = told.splitlines()
    # Nothing names a server: an empty laptop is not ill, it has only not been told.
    if "redis_url" not in settings.sources:
        cure = "pi0q up, or export PI0Q_REDIS_URL=rediss://USER:PASSWORD@HOST:PORT/0"
    return broken("server", what, cure)


def _answering(client: Redis, settings: Settings, first: float) -> Iterator[Finding]:
    began = time.monotonic()
    seconds, micros = client.time()
    trip = time.monotonic() - began
    skew = time.time() - trip / 2 - (seconds + micros / 1e6)
    yield _link(settings, first, trip)
    yield _clock(skew)
    yield _password(settings)
    yield _tls(settings)
    info: dict[str, Any] = client.info()
    yield _version(info)
    yield _persistence(client, info)
    yield _eviction(client)
    yield _memory(info)


def _link(settings: Settings, first: float, trip: float) -> Finding:
    told = f"{settings.safe_url()} answers in {trip * 1000:.0f} ms ({first * 1000:.0f} ms the first time)"
    if trip > settings.timing.socket / 4:
        return warning("server", f"{told}: slow", "use a server nearer to the boxes, or look at the tunnel")
    return ok("server", told)


def _clock(skew: float) -> Finding:
    told = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    if abs(skew) > CLOCK_SECONDS:
        return warning("clock", told, "sudo timedatectl set-ntp true (in a container: the host's clock is wrong)")
    return ok("clock", told)


def hosts(url: str) -> tuple[str, bool, bool]:
    """Of an address: its host, whether what is sent stays on this machine or in a tunnel, and whether in a private
    network. A name that can't be resolved is taken for a public one."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return "a socket of this machine", True, True
    host = parts.hostname or "127.0.0.1"
    try:
        addresses = [ipaddress.ip_address(one[4][0]) for one in socket.getaddrinfo(host, None)]
    except (OSError, ValueError):
        return host, False, False
    return host, all(one.is_loopback for one in addresses), all(one.is_private for one in addresses)


def _password(settings: Settings) -> Finding:
    """Whether the server asks for one: known by asking without."""
    import redis

    host, local, _ = hosts(settings.redis_url)
    stranger = connect(_without_password(settings))
    try:
        stranger.ping()
    # It is a ConnectionError too.
    except (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError):
        return ok("password", "the server asks for one")
    except (redis.RedisError, OSError):
        return skipped("password", f"a second connection to {host} was refused")
    finally:
        stranger.close()
    cure = "`requirepass` or ACL users in the server's configuration; then redis://USER:PASSWORD@… in PI0Q_REDIS_URL"
    if local:
        return warning("password", "the server asks for none: every user of this machine may change the queue", cure)
    return broken("password", f"the server asks for none: whoever reaches {host} owns the queue and its boxes", cure)


def _without_password(settings: Settings) -> Settings:
    # As in safe_url: wherever user and password stand.
    bare = re.sub(r"//.*@", "//", settings.redis_url, flags=re.DOTALL)
    bare = re.sub(r"(?<=[?&])(username|password)=[^&]*&?", "", bare).rstrip("?&")
    return replace(settings, redis_url=bare)


def _tls(settings: Settings) -> Finding:
    host, local, private = hosts(settings.redis_url)
    parts = urlsplit(settings.redis_url)
    if parts.scheme == "rediss":
        required = parse_qs(parts.query).get("ssl_cert_reqs", ["required"])[0]
        if unquote(required).lower() != "required":
            cure = "drop ssl_cert_reqs from PI0Q_REDIS_URL; for a private CA add ?ssl_ca_certs=/path/ca.pem"
            return broken("tls", f"encrypted, but the certificate is not checked (ssl_cert_reqs={required})", cure)
        return ok("tls", f"encrypted, and the certificate of {host} is checked")
    if local:
        return ok("tls", "none needed: the address is this machine's, or the end of a tunnel")
    cure = (
        "TLS on the server and rediss:// in PI0Q_REDIS_URL, or an ssh tunnel: ssh -N -L 6389:127.0.0.1:6389 USER@HOST"
    )
    if private:
        return warning("tls", f"the password goes over the private network to {host} in the clear", cure)
    return broken("tls", f"the password and every job go over the internet to {host} in the clear", cure)


def verdict(product: str, version: Version) -> tuple[str, list[str]]:
    """What to think of a server: why it is too old ("" if it is not), and which holes it has."""
    oldest = OLDEST[product]
    old = f"older than {product} {'.'.join(map(str, oldest))}" if version < oldest else ""
    found = []
    for hole, mended in HOLES.items():
        series = {fix[:2]: fix for fix in mended.get(product, ())}
        fix = series.get(version[:2])
        if series and ((fix is not None and version < fix) or (fix is None and version < max(series.values()))):
            found.append(hole)
    for hole, spans in LONG_HOLES.items():
        if product in spans and spans[product][0] <= version < spans[product][1]:
            found.append(hole)
    return old, found


def _version(info: dict[str, Any]) -> Finding:
    product = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    text = str(info.get("valkey_version") or info.get("redis_version") or "0")
    old, holes = verdict(product, tuple(int(part) for part in re.findall(r"\d+", text)[:3]))
    told = f"{product} {text}"
    if old:
        return broken(
            "server version", f"{told} is {old}", "install a newer one: pip install 'pi0q[server]' has Valkey"
        )
    if holes:
        cure = "upgrade it (Valkey 9, or Redis 8.6.3); until then let only boxes and people you trust have its password"
        return warning("server version", f"{told} has {', '.join(holes)}: who has a password can take it over", cure)
    return ok("server version", told)


def _persistence(client: Redis, info: dict[str, Any]) -> Finding:
    name = "persistence"
    failed = [
        what
        for what, key in (("append-only file", "aof_last_write_status"), ("snapshot", "rdb_last_bgsave_status"))
        if info.get(key, "ok") != "ok"
    ]
    if failed:
        cure = "df -h and df -i where its data lie; its log says why"
        return broken(name, f"the server could not write its {' and '.join(failed)}", cure)
    if info.get("aof_enabled"):
        how = _config(client, "appendfsync")
        if how == "no":
            cure = "redis-cli CONFIG SET appendfsync everysec, and in its configuration file"
            return warning(name, "append-only file, but never flushed: a crash of the machine loses minutes", cure)
        return ok(name, f"append-only file{f', appendfsync {how}' if how else ''}")

    def keep() -> str:
        client.config_set("appendonly", "yes")
        return "the server writes an append-only file from now on; put `appendonly yes` into its configuration file too"

    snapshots = _config(client, "save")
    if snapshots == "":
        return broken(name, "nothing is kept: a restart of the server loses every job", KEEP, keep)
    # A server that lets nobody ask lets nobody set either.
    fix = keep if snapshots else None
    return warning(name, "snapshots at best: a restart of the server loses what came after the last", KEEP, fix)


def _config(client: Redis, name: str) -> str | None:
    """One of its settings; None where this user may not ask (managed servers let nobody)."""
    import redis

    try:
        return str(client.config_get(name).get(name, ""))
    except redis.RedisError:
        return None


def _eviction(client: Redis) -> Finding:
    told = eviction(client)
    if not told:
        return ok("eviction", "no job is dropped for want of memory")

    def stay() -> str:
        client.config_set("maxmemory-policy", "noeviction")
        return "maxmemory-policy is noeviction from now on; put it into the server's configuration file too"

    return broken("eviction", told.splitlines()[0], "redis-cli CONFIG SET maxmemory-policy noeviction", stay)


def _memory(info: dict[str, Any]) -> Finding:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    told = f"{used / 2**20:.0f} MiB used" + (f" of {most / 2**20:.0f} MiB" if most else "")
    if most and used > FULL * most:
        cure = f"redis-cli CONFIG SET maxmemory {max(2 * most // 2**20, 256)}mb, and in its configuration file"
        return warning("server memory", f"{told}: at the limit no job can be queued and no progress kept", cure)
    return ok("server memory", told)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:160]

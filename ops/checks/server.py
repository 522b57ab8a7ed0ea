"""The queue's server: whether it answers, persists its data, and is protected."""

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
from pi0q.ops.checks.finding import CheckTarget, Finding, broken, ok, skipped, warning
from pi0q.queue import damage_report, server_disk
from pi0q.queue.connection import connect, eviction, explain
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.waiting_index import LIST_NODE_SIZE

if TYPE_CHECKING:
    from redis import Redis

Version = tuple[int, ...]

#: The oldest version of each product that has every command of the store.
OLDEST = {"Redis": (6, 2), "Valkey": (7, 2)}
#: The version of each product from which on no known vulnerability lets a client take over the server.
RECOMMENDED = {"Redis": (8, 6, 3), "Valkey": (8, 1, 4)}
#: Seconds by which this machine's clock may be wrong. Leases follow the server's clock; tokens and certificates don't.
CLOCK_SECONDS = 30.0
#: Ended jobs whose records the doctor reads.
RECORDS_READ = 1000
#: Free space under the server below which the doctor warns: a queue of 100,000 jobs writes its file anew in that. MiB.
SERVER_FREE_MIB = 1024
#: Share of maxmemory above which the doctor warns.
FULL = 0.9
KEEP = "redis-cli CONFIG SET appendonly yes, and `appendonly yes` in its configuration file"


def check(target: CheckTarget) -> Iterator[Finding]:
    """Yield the findings on the server; only one if it does not answer."""
    import redis

    settings = target.settings
    if target.fault:
        yield skipped("server", "the settings can't be read, see `settings`")
        return
    yield from _disk(settings)
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


def _disk(settings: Settings) -> Iterator[Finding]:
    """Yield the finding on the disk under the server, where a `pi0q up` of this machine runs it."""
    disk = server_disk.of(settings)
    if disk is None:
        return
    cure = f"free space there: du -xsh {disk.path.parent}/*; pi0q cache ls"
    if disk.full:
        yield broken("queue's disk", f"full, so no job can be queued and no progress kept: {disk}", cure)
    elif disk.free_mib < SERVER_FREE_MIB:
        yield warning("queue's disk", f"{disk}; the server ends where it can't write", cure)
    else:
        yield ok("queue's disk", str(disk))


def _unreachable(error: Exception, settings: Settings) -> Finding:
    told = str(error if isinstance(error, Pi0qError) else explain(error, settings))  # type: ignore[arg-type]
    what, *_, cure = told.splitlines()
    # No setting names a server: the laptop only lacks its address.
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
    yield from _list_nodes(client)
    yield _records(client, settings.prefix)
    yield from _backup(settings)


def _records(client: Redis, prefix: str) -> Finding:
    """Return the finding on jobs whose records cannot be read; of those that ended the newest are looked at."""
    damaged = Store(client, prefix).page(live=-1, ended=RECORDS_READ, whole=True).broken
    if not damaged:
        return ok("records", "every job's record can be read")
    named = "; ".join(f"{error.shown_id}: {error.damage}" for error in damaged[:3])
    more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
    cure = "pi0q prune --broken removes them; whoever has the server's password can write such records"
    return warning("records", f"{len(damaged)} can't be read, so no box takes these jobs: {named}{more}", cure)


def _backup(settings: Settings) -> Iterator[Finding]:
    """Yield the finding on records that somebody damaged, where a `pi0q up` of this machine keeps a backup of them."""
    folder = damage_report.path_of(settings.home).parent
    if server_disk.of(settings) is None or not folder.is_dir():
        return
    if not (found := damage_report.read(settings.home)):
        yield ok("backup", f"the records are kept in {folder}")
        return
    named = "; ".join(f"{job}: {why}" for job, why in list(found.items())[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    yield broken("backup", f"{len(found)} damaged: {named}{more}; see pi0q server list, revoke", "pi0q server restore")


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
    """Return the host of an address, whether its traffic stays on this machine or in a tunnel, and whether it stays in
    a private network. A name that can't be resolved counts as public."""
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
    """Return whether the server asks for a password: tried by a connection without one."""
    import redis

    host, local, _ = hosts(settings.redis_url)
    stranger = connect(_without_password(settings))
    try:
        stranger.ping()
    # AuthenticationError is a ConnectionError too.
    except (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError):
        return ok("password", "the server asks for one")
    except (redis.RedisError, OSError):
        return skipped("password", f"a second connection to {host} was refused")
    finally:
        stranger.close()
    cure = "`requirepass` or ACL users in the server's configuration; then redis://USER:PASSWORD@… in PI0Q_REDIS_URL"
    if local:
        return warning("password", "the server asks for none: every user of this machine may change the queue", cure)
    return broken("password", f"the server asks for none: whoever reaches {host} controls queue and boxes", cure)


def _without_password(settings: Settings) -> Settings:
    # As in safe_url: wherever user and password are.
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


def _version(info: dict[str, Any]) -> Finding:
    product = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    text = str(info.get("valkey_version") or info.get("redis_version") or "0")
    return version(product, text)


def version(product: str, text: str) -> Finding:
    """Return the finding on a server's version. Pure."""
    number = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    oldest, recommended = OLDEST[product], RECOMMENDED[product]
    if number < oldest:
        detail = f"{product} {text} is older than {_dotted(oldest)}, the oldest that pi0q can use"
        return broken("server version", detail, "install a newer one: pip install 'pi0q[server]' has Valkey")
    if number < recommended:
        least = _dotted(recommended)
        detail = f"{product} {text}: at least {least} is recommended, older ones have known vulnerabilities"
        fix = f"upgrade to {product} {least}; until then give its password only to boxes and people you trust"
        return warning("server version", detail, fix)
    return ok("server version", f"{product} {text}")


def _dotted(number: Version) -> str:
    return ".".join(map(str, number))


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
        return broken(name, "nothing is persisted: a restart of the server loses every job", KEEP, keep)
    # A server that does not let this user read settings does not let it change them.
    fix = keep if snapshots else None
    return warning(name, "snapshots at best: a restart of the server loses what came after the last", KEEP, fix)


def _config(client: Redis, name: str) -> str | None:
    """Return a setting of the server; None where this user may not read it (managed servers let nobody)."""
    import redis

    try:
        return str(client.config_get(name).get(name, ""))
    except redis.RedisError:
        return None


def _eviction(client: Redis) -> Finding:
    told = eviction(client)
    if not told:
        return ok("eviction", "no job is dropped when memory runs out")

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


def _list_nodes(client: Redis) -> Iterator[Finding]:
    """Yield the finding on the size of the nodes of long lists; none where this user may not read it."""
    # The second is the name that Redis 6.2 knows.
    for name in ("list-max-listpack-size", "list-max-ziplist-size"):
        if size := _config(client, name):
            break
    else:
        return
    if size == LIST_NODE_SIZE:
        yield ok("server lists", f"{name} {size}: a message is found in few steps, also behind 100,000 others")
        return

    def enlarge() -> str:
        client.config_set(name, LIST_NODE_SIZE)
        return f"{name} is {LIST_NODE_SIZE} from now on; put it into the server's configuration file too"

    told = f"{name} is {size}: with 100,000 waiting jobs a claim takes the server several times as long"
    yield warning("server lists", told, f"redis-cli CONFIG SET {name} {LIST_NODE_SIZE}", enlarge)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:160]

"""The users of the queue's server and its limits, as they lie beside its data: `users.json`. Pure, but for `read`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from pi0q.jobs.errors import UsageError
from pi0q.ops.server.roles import Role, rules

FILE = "users.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
#: Users of the machine's own parts: made by `init`, their passwords stay in the server's directory.
OWNER, LOCAL_BOX, PAGE, MESSENGER = "owner", "local-box", "page", "messenger"
OWN_PARTS = {OWNER: Role.ADMIN, LOCAL_BOX: Role.WORKER, PAGE: Role.FLOWER, MESSENGER: Role.VIEWER}
#: Waiting jobs and MiB of their records that one user may have in the queue.
MOST_JOBS, MOST_MIB = 1000, 64
#: Seconds without a word after which the server closes a connection, one without a password too.
IDLE_SECONDS = 600
#: Connections in all: six a box and two a running job are enough for some 1,000 boxes.
MOST_CLIENTS = 10000
MIB = 2**20
#: The rule of the user `default` at a start. A server reads its own file as that user and leaves out, silently, what a
#: script or a transaction wrote where `default` may not do it (redis/redis#14541, valkey-io/valkey#3983): all of pi0q's
#: writes. Nobody can be this user, for it is off; `live.prepare` takes its rights away once all is read.
NOBODY_LOADS = "reset off ~* &* +@all"
#: Folder, beside the server's data, of certificates: one a user; the server's own and the authority's besides.
TLS, SERVER, AUTHORITY = "tls", "server", "authority"


@dataclass(frozen=True, kw_only=True)
class User:
    """Who may use the server."""

    name: str
    role: Role
    #: SHA-256 of the password, hex, as the server itself keeps it.
    password_hash: str
    #: The box that a worker is; "" for others.
    box: str = ""
    #: Waiting jobs, and MiB of their records, that the user may have in the queue.
    jobs: int = MOST_JOBS
    mib: int = MOST_MIB

    def rule(self, prefix: str, version: tuple[int, int]) -> list[str]:
        """Return the words of ACL SETUSER that make the user what it is."""
        words = rules(self.role, prefix=prefix, user=self.name, box=self.box, version=version)
        return ["reset", f"#{self.password_hash}", *words]


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may use the server, and how much of it."""

    #: What the keys of the installation start with.
    prefix: str
    #: MiB of memory for the queue; the server then refuses writes and drops nothing.
    memory_mib: int
    tls: bool = False
    #: Names and addresses by which others reach the server: what its certificate says.
    hosts: tuple[str, ...] = ()
    users: tuple[User, ...] = ()

    def user(self, name: str) -> User | None:
        """Return a user; None if there is none of that name."""
        return next((user for user in self.users if user.name == name), None)

    def with_user(self, user: User) -> Access:
        """Return the same with one more user. Raises UsageError where the name is taken."""
        if known := self.user(user.name):
            raise UsageError(
                f"There is a user {user.name} already, a {known.role}. Nothing was changed.\n"
                f"Fix: choose another name, or pi0q server revoke {user.name} first"
            )
        return replace(self, users=(*self.users, user))

    def without(self, name: str) -> Access:
        """Return the same without a user. Raises UsageError for one that is not there, or that `pi0q up` needs."""
        if name in OWN_PARTS:
            raise UsageError(
                f"{name} is a part of pi0q up on this machine. Nothing was changed.\n"
                "Fix: pi0q server init --new-passwords gives these parts new passwords"
            )
        if not self.user(name):
            self.missing(name)
        return replace(self, users=tuple(user for user in self.users if user.name != name))

    def missing(self, name: str) -> NoReturn:
        """Raise UsageError: there is no user of that name."""
        known = ", ".join(user.name for user in self.users if user.name not in OWN_PARTS) or "none so far"
        raise UsageError(f"There is no user {name}; nothing was changed. Known are: {known}.")

    def configuration(self, version: tuple[int, int], data: Path) -> str:
        """Return the server's configuration: its limits and users, and nothing that anybody did to a running server."""
        limits = {
            "maxmemory": f"{self.memory_mib}mb",
            "maxclients": MOST_CLIENTS,
            "timeout": IDLE_SECONDS,
            "tcp-keepalive": 60,
            "acllog-max-len": 128,
            "user default": NOBODY_LOADS,
        }
        own = data / TLS / SERVER
        encryption = {
            "tls-cert-file": own / "cert.pem",
            "tls-key-file": own / "key.pem",
            "tls-ca-cert-file": own / "ca.pem",
            "tls-auth-clients": "yes",
            "tls-protocols": '"TLSv1.2 TLSv1.3"',
        }
        lines = [f"{name} {value}" for name, value in (limits | (encryption if self.tls else {})).items()]
        lines += [f"user {user.name} {' '.join(user.rule(self.prefix, version))}" for user in self.users]
        return "".join(f"{line}\n" for line in lines)

    def limits(self) -> dict[str, str]:
        """Return what submit.lua reads: a user's waiting jobs and bytes."""
        return {user.name: f"{user.jobs} {user.mib * MIB}" for user in self.users if user.role is not Role.ADMIN}

    def dumps(self) -> str:
        """Return the text of the file."""
        return json.dumps({"version": 1, **asdict(self)}, indent=1) + "\n"


def hashed(password: str) -> str:
    """Return the SHA-256 of a password. It is random and long: nothing slower is needed."""
    return hashlib.sha256(password.encode()).hexdigest()


def name_fault(name: str) -> str:
    """Return why a text cannot be a user's name; "" where it can."""
    if not _NAME.fullmatch(name):
        return "it may hold letters, digits, '.', '_' and '-', 63 at the most"
    if name in (*OWN_PARTS, "default", "all"):
        return f"{name} is pi0q's own"
    return ""


def loads(text: str, where: Path) -> Access:
    """Return what the file says. Raises UsageError for one that pi0q did not write."""
    try:
        raw = json.loads(text)
        users = tuple(_user(one) for one in raw["users"])
        hosts = tuple(map(str, raw["hosts"]))
        prefix, memory = str(raw["prefix"]), int(raw["memory_mib"])
        if len({user.name for user in users}) != len(users) or memory < 1:
            raise ValueError
        return Access(prefix=prefix, memory_mib=memory, tls=bool(raw["tls"]), hosts=hosts, users=users)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            f"{where} cannot be read: it is not what `pi0q server` wrote. Nothing was started or changed.\n"
            f"Fix: bring a copy of it back, or begin anew: mv {where} {where}.old; pi0q server init"
        ) from None


def _user(raw: Mapping[str, Any]) -> User:
    user = User(**{**raw, "role": Role(raw["role"])})
    texts = (user.name, user.password_hash, user.box)
    numbers = (user.jobs, user.mib)
    good = all(isinstance(text, str) for text in texts) and all(type(one) is int and one >= 0 for one in numbers)
    if not good or not _NAME.fullmatch(user.name) or not re.fullmatch(r"[0-9a-f]{64}", user.password_hash):
        raise ValueError
    if (user.box or user.role is Role.WORKER) and not _NAME.fullmatch(user.box):
        raise ValueError
    return user


def read(data: Path) -> Access | None:
    """Return who may use the server of a data directory; None where it has one password and no roles."""
    file = data / FILE
    try:
        return loads(file.read_text(encoding="utf-8"), file)
    except FileNotFoundError:
        return None

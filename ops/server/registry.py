"""Who may use the server of this machine: changes to its files, and to the server where it runs."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi0q.jobs.errors import UsageError
from pi0q.ops import file_edits
from pi0q.ops.server import live, passwords, users
from pi0q.ops.server.roles import Role
from pi0q.ops.server.users import AUTHORITY, OWN_PARTS, SERVER, TLS, Access, User
from pi0q.queue.settings import Settings, make_home

if TYPE_CHECKING:
    from redis import Redis

#: Folder, beside the server's data, of what is handed to each user.
HANDED = "access"
DEFAULT_PORT = 6389
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Handed:
    """What a new user gets."""

    folder: Path
    #: The address of the server with the user's password.
    url: str
    #: Whether the running server knows the user; else from its next start on.
    live: bool


class Registry:
    """The users of the server that `pi0q up` of this home runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.data = settings, settings.home / "server"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other `pi0q server` of this home change anything meanwhile."""
        make_home(self.settings)
        self.data.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(self.data / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def access(self) -> Access:
        """Return who may use the server. Raises UsageError where it has no roles."""
        if found := users.read(self.data):
            return found
        raise UsageError(
            f"The server in {self.data} has one password and no roles. Nothing was changed.\nFix: pi0q server init"
        )

    def init(self, wanted: Access, *, new_passwords: bool) -> None:
        """Turn roles on, or change what `wanted` holds besides users."""
        with self._locked():
            known = users.read(self.data)
            access = replace(wanted, users=known.users if known else ())
            for name, role in OWN_PARTS.items():
                if access.user(name) and not new_passwords:
                    continue
                secret = passwords.new()
                passwords.keep(self.data, name, secret)
                made = User(name=name, role=role, password_hash=users.hashed(secret), box=_box(role, self.settings))
                access = replace(access, users=(*(one for one in access.users if one.name != name), made))
            if access.tls:
                self._certify(SERVER, hosts=(*access.hosts, LOOPBACK, "localhost"))
                for name in OWN_PARTS:
                    self._certify(name)
            self._write(access)

    def _certify(self, name: str, *, hosts: Sequence[str] = (), into: Path | None = None) -> None:
        """Make the certificate of a user, or of the server under these names, signed by the own authority."""
        from pi0q.ops.server import certificates

        folder, now = self.data / TLS, datetime.now(timezone.utc)
        certificates.make_authority(folder / AUTHORITY, now)
        certificates.sign(folder / AUTHORITY, into or folder / name, name, now, hosts=hosts)

    def add(self, user: User) -> Handed:
        """Add a user with a password of its own. Raises UsageError."""
        with self._locked():
            secret = passwords.new()
            user = replace(user, password_hash=users.hashed(secret))
            access = self.access().with_user(user)
            self._write(access)
            with self._running() as client:
                if client:
                    live.set_user(client, access, user)
                return Handed(
                    folder=self._hand_over(access, user, secret), url=self._url(access, user, secret), live=bool(client)
                )

    def limit(self, name: str, *, jobs: int | None, mib: int | None) -> User:
        """Change what a user may have waiting; return the user. Raises UsageError for one that is not there."""
        with self._locked():
            access = self.access()
            user = access.user(name) or access.missing(name)
            user = replace(user, jobs=user.jobs if jobs is None else jobs, mib=user.mib if mib is None else mib)
            access = replace(access, users=tuple(user if one.name == name else one for one in access.users))
            self._write(access)
            with self._running() as client:
                if client:
                    live.set_user(client, access, user)
            return user

    def revoke(self, name: str) -> int | None:
        """Remove a user; return how many connections of it were closed, None where the server does not run."""
        with self._locked():
            access = self.access().without(name)
            self._write(access)
            folder = self.data / HANDED / name
            if folder.is_dir():
                shutil.rmtree(folder)
            with self._running() as client:
                return live.remove_user(client, access, name) if client else None

    def _write(self, access: Access) -> None:
        file_edits.write(self.data / users.FILE, access.dumps(), 0o600)

    def _url(self, access: Access, user: User, secret: str) -> str:
        port_file = self.data / "port"
        port = port_file.read_text().strip() if port_file.is_file() else DEFAULT_PORT
        host = access.hosts[0] if access.hosts else LOOPBACK
        return f"{'rediss' if access.tls else 'redis'}://{user.name}:{secret}@{host}:{port}/0"

    def _hand_over(self, access: Access, user: User, secret: str) -> Path:
        """Write what the user needs into a folder that only the owner of this machine reads."""
        folder = self.data / HANDED / user.name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = [f"export PI0Q_REDIS_URL='{self._url(access, user, secret)}'"]
        lines += [f"export PI0Q_BOX={user.box}"] if user.box else []
        if access.tls:
            self._certify(user.name, into=folder / TLS)
            lines.append('export PI0Q_TLS="$HOME/.config/pi0q/tls"')
        file_edits.write(folder / "env", "".join(f"{line}\n" for line in lines), 0o600)
        return folder

    @contextmanager
    def _running(self) -> Iterator[Redis | None]:
        """Yield a connection of the owner to the running server; None where it does not run with roles."""
        import redis

        from pi0q.queue.connection import connect

        url = str(_up(self.settings.home).get("redis_url", ""))
        if f"//{users.OWNER}:" not in url:
            yield None
            return
        client = connect(replace(self.settings, redis_url=url, tls=self.data / TLS / users.OWNER))
        try:
            client.ping()
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            client.close()
            yield None
            return
        with client:
            yield client

    @contextmanager
    def connected(self) -> Iterator[Redis]:
        """Yield a connection of whoever runs the server, with roles or without. Raises UsageError where it is down."""
        from pi0q.queue.connection import connect

        url = str(_up(self.settings.home).get("redis_url", ""))
        if not url:
            raise UsageError(
                f"No server of {self.settings.home} runs on this machine. Nothing was changed.\n"
                "Fix: pi0q up -d, or PI0Q_HOME=DIRECTORY where another home has it"
            )
        own = self.data / TLS / users.OWNER
        with connect(replace(self.settings, redis_url=url, tls=own if own.is_dir() else self.settings.tls)) as client:
            yield client

    def is_up(self) -> bool:
        """Return whether a `pi0q up` of this home has said where its server is."""
        return "redis_url" in _up(self.settings.home)


def _up(home: Path) -> dict[str, Any]:
    try:
        facts = json.loads((home / "up.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _box(role: Role, settings: Settings) -> str:
    from pi0q.workers.host import identity

    return identity.box_name(settings) if role is Role.WORKER else ""


def name_local_box(settings: Settings) -> None:
    """Write down what the box of this machine is called now, before its server starts."""
    access = users.read(settings.home / "server")
    if access is None:
        return
    name = _box(Role.WORKER, settings)
    renamed = tuple(replace(one, box=name) if one.name == users.LOCAL_BOX else one for one in access.users)
    if renamed != access.users:
        file_edits.write(settings.home / "server" / users.FILE, replace(access, users=renamed).dumps(), 0o600)

"""A small client of the server for commands that take a tenth of a second; importing redis-py alone takes longer.

It speaks RESP2 over TCP or a Unix socket, and nothing but that: no TLS, no subscriptions, no pool. `connection.connect`
gives redis-py's client for those. It sends a command again after a lost connection, so it is for reads and for scripts
that do nothing the second time (`submit`). What the server answers is untrusted: replies have limits.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import parse_qs, unquote, urlsplit

from pi0q.queue.digests import sha1
from pi0q.queue.resp_protocol import (
    CommandRefused,
    ConnectionLost,
    NoAnswer,
    ReplyReader,
    RespError,
    converted,
    good,
    known_words,
    pack,
    pairs,
    scored,
    words_of,
)
from pi0q.queue.server_client import Word

#: Seconds before a lost connection is tried again, once each: a server that restarts, a tunnel that came back.
PAUSES = (0.1, 0.4)
DEFAULT_PORT = 6379


class Address(NamedTuple):
    """Where the server is and who asks."""

    #: A host's name or address as `getaddrinfo` takes it; empty for a Unix socket.
    host: bytes
    port: int
    path: str
    user: str
    password: str
    db: int

    @classmethod
    def parse(cls, url: str) -> Address | None:
        """Read redis://… or unix://…; None for what only redis-py can do. Raises ValueError for what is no address."""
        parts = urlsplit(url)
        options = parse_qs(parts.query)
        if parts.scheme not in ("redis", "unix") or options.keys() - {"db"}:
            return None
        path = unquote(parts.path)
        number = options["db"][0] if "db" in options else path.strip("/") if parts.scheme == "redis" else ""
        return cls(
            host=_host(parts.hostname or "localhost") if parts.scheme == "redis" else b"",
            port=parts.port or DEFAULT_PORT,
            path=path if parts.scheme == "unix" else "",
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            db=int(number or 0),
        )

    def __str__(self) -> str:
        return self.path or f"{self.host.decode('ascii')}:{self.port}"


def _host(name: str) -> bytes:
    # The codec that knows other alphabets is large; a plain name needs only its checks.
    host = name.encode("ascii") if name.isascii() else name.encode("idna")
    if not all(0 < len(label) < 64 for label in host.removesuffix(b".").split(b".")):
        raise ValueError("a part of the host's name is empty or too long")
    return host


class _Sent(NamedTuple):
    packed: bytes
    convert: Callable[[Any], Any] | None


class _Commands:
    """Commands by redis-py's names; `_send` says what becomes of one."""

    def _send(self, packed: bytes, convert: Callable[[Any], Any] | None = None) -> Any:
        raise NotImplementedError

    def get(self, name: str) -> Any:
        return self._send(pack("GET", name))

    def hget(self, name: str, key: str) -> Any:
        return self._send(pack("HGET", name, key))

    def hgetall(self, name: str) -> Any:
        return self._send(pack("HGETALL", name), pairs)

    def hlen(self, name: str) -> Any:
        return self._send(pack("HLEN", name))

    def hmget(self, name: str, keys: list[str]) -> Any:
        # The names of the fields are the same for thousands of jobs.
        return self._send(b"*%d\r\n$5\r\nHMGET\r\n" % (len(keys) + 2) + words_of((name,)) + known_words(tuple(keys)))

    def lrange(self, name: str, start: int, end: int) -> Any:
        return self._send(pack("LRANGE", name, start, end))

    def smembers(self, name: str) -> Any:
        return self._send(pack("SMEMBERS", name), set)

    def time(self) -> Any:
        return self._send(pack("TIME"), lambda parts: (int(parts[0]), int(parts[1])))

    def zcard(self, name: str) -> Any:
        return self._send(pack("ZCARD", name))

    def zlexcount(self, name: str, start: str, end: str) -> Any:
        return self._send(pack("ZLEXCOUNT", name, start, end))

    def zmscore(self, key: str, members: list[str]) -> Any:
        return self._send(
            pack("ZMSCORE", key, *members), lambda scores: [None if one is None else float(one) for one in scores]
        )

    def zrange(self, name: str, start: Word, end: Word, **how: Any) -> Any:
        """`how`: bylex, withscores, and offset with num, as redis-py has them."""
        words: list[Word] = ["ZRANGE", name, start, end]
        words += ["BYLEX"] if how.get("bylex") else []
        words += ["LIMIT", how["offset"], how["num"]] if how.get("num") is not None else []
        words += ["WITHSCORES"] if how.get("withscores") else []
        return self._send(pack(*words), scored if how.get("withscores") else None)

    def zrevrange(self, name: str, start: int, end: int) -> Any:
        return self._send(pack("ZREVRANGE", name, start, end))

    def execute_command(self, *words: Word) -> Any:
        return self._send(pack(*words))


class RespPipeline(_Commands):
    """Commands that are sent together."""

    def __init__(self, client: RespClient, *, transaction: bool) -> None:
        self._client, self._transaction = client, transaction
        self._commands: list[_Sent] = []

    def _send(self, packed: bytes, convert: Callable[[Any], Any] | None = None) -> RespPipeline:
        self._commands.append(_Sent(packed, convert))
        return self

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the commands and return their answers in order.

        Raises the first refusal among them; without `raise_on_error` a refusal is the answer of its command.
        """
        commands, self._commands = self._commands, []
        packed = [command.packed for command in commands]
        if self._transaction:
            *_, replies = self._client.ask([pack("MULTI"), *packed, pack("EXEC")])
        else:
            replies = self._client.ask(packed) if packed else []
        if raise_on_error:
            good(replies)
        return [
            reply if isinstance(reply, CommandRefused) else converted(reply, command.convert)
            for command, reply in zip(commands, replies, strict=True)
        ]


class RespClient(_Commands):
    """One connection, made at the first command. Raises RespError when the server can't be asked or refuses."""

    def __init__(self, address: Address, *, timeout: float) -> None:
        self.address, self.timeout = address, timeout
        self._socket: socket.socket | None = None
        self._file: BinaryIO | None = None

    def pipeline(self, transaction: bool = True) -> RespPipeline:
        """Return an empty pipeline; with `transaction` the server runs its commands as one."""
        return RespPipeline(self, transaction=transaction)

    def register_script(self, script: str) -> Callable[..., Any]:
        """Return a function that runs a Lua script with `keys` and `args`; the script is sent where it is unknown."""
        name = sha1(script.encode())

        def run(keys: Sequence[str], args: Sequence[Word]) -> Any:
            words = (len(keys), *keys, *args)
            (reply,) = self.ask([pack("EVALSHA", name, *words)])
            if isinstance(reply, CommandRefused) and reply.code == "NOSCRIPT":
                (reply,) = self.ask([pack("EVAL", script, *words)])
            return good([reply])[0]

        return run

    def info(self, section: str) -> dict[str, Any]:
        """Return a section of the server's INFO; whole numbers are numbers."""
        lines = (line.partition(":") for line in str(self.execute_command("INFO", section)).splitlines())
        return {
            name: int(value) if value.isdecimal() else value for name, _, value in lines if name[:1] not in ("", "#")
        }

    def close(self) -> None:
        """Close the connection; the next command makes another."""
        for held in (self._file, self._socket):
            if held:
                held.close()
        self._file = self._socket = None

    def __del__(self) -> None:
        # As redis-py: whoever asked once and is over need not say so.
        self.close()

    def _send(self, packed: bytes, convert: Callable[[Any], Any] | None = None) -> Any:
        (reply,) = good(self.ask([packed]))
        return converted(reply, convert)

    def ask(self, packed: Sequence[bytes]) -> list[Any]:
        """Send commands and return the raw replies, refusals among them. Raises ConnectionLost."""
        for pause in PAUSES:
            try:
                return self._ask(packed)
            except NoAnswer:
                raise
            except ConnectionLost:
                time.sleep(pause)
        return self._ask(packed)

    def _ask(self, packed: Sequence[bytes]) -> list[Any]:
        connection, file = self._connected()
        try:
            connection.sendall(b"".join(packed))
            reading = ReplyReader(file)
            return [reading.reply() for _ in packed]
        except TimeoutError:
            self.close()
            raise NoAnswer("Timeout reading from socket", midway=True) from None
        except EOFError:
            self.close()
            raise ConnectionLost("Connection closed by server.", midway=True) from None
        except (OSError, ValueError) as error:
            self.close()
            raise ConnectionLost(f"Error while reading from {self.address}: {error}", midway=True) from None

    def _connected(self) -> tuple[socket.socket, BinaryIO]:
        if self._socket is None or self._file is None:
            self._socket = self._connect()
            self._file = cast(BinaryIO, self._socket.makefile("rb", 64 << 10))
            self._greet()
        return self._socket, self._file

    def _connect(self) -> socket.socket:
        address = self.address
        try:
            if not address.path:
                # A host in bytes is not run through the codec of international names, which is large.
                return socket.create_connection((address.host, address.port), timeout=self.timeout)  # type: ignore[arg-type]
            return _connect_unix(address.path, self.timeout)
        except TimeoutError:
            raise NoAnswer(f"Timeout connecting to {address}", midway=False) from None
        except (OSError, UnicodeError) as error:
            told = getattr(error, "strerror", None) or str(error)
            raise ConnectionLost(f"no connection to {address}: {told}", midway=False) from None

    def _greet(self) -> None:
        """Say who asks and choose the database. Raises CommandRefused."""
        address, greeting = self.address, list[bytes]()
        if address.user or address.password:
            greeting.append(pack("AUTH", *filter(None, [address.user]), address.password))
        if address.db:
            greeting.append(pack("SELECT", address.db))
        if greeting:
            try:
                good(self._ask(greeting))
            except RespError as error:
                self.close()
                # Nothing of the command itself was sent.
                error.midway = False
                raise


def _connect_unix(path: str, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection

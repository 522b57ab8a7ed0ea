"""What the store needs of a client of the server: redis-py's own method names, so that redis-py is one such client.

The other is resp_client.py, for commands that are over before redis-py would be imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Commands(Protocol):
    """Commands that read, on a client or in its pipeline; the answers are text, decoded."""

    def get(self, name: str, /) -> Any: ...
    def hget(self, name: str, key: str, /) -> Any: ...
    def hgetall(self, name: str, /) -> Any: ...
    def hlen(self, name: str, /) -> Any: ...
    def hmget(self, name: str, keys: list[str], /) -> Any: ...
    def lrange(self, name: str, start: int, end: int, /) -> Any: ...
    def smembers(self, name: str, /) -> Any: ...
    def time(self) -> Any: ...
    def zcard(self, name: str, /) -> Any: ...
    def zlexcount(self, name: str, start: str, end: str, /) -> Any: ...
    def zmscore(self, key: str, members: list[str], /) -> Any: ...
    def zrange(  # noqa: PLR0913 - redis-py's own signature
        self,
        name: str,
        start: Any,
        end: Any,
        /,
        *,
        bylex: bool = False,
        withscores: bool = False,
        offset: int | None = None,
        num: int | None = None,
    ) -> Any: ...
    def zrevrange(self, name: str, start: int, end: int, /) -> Any: ...


class Pipeline(Commands, Protocol):
    """Commands that are sent together."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the commands and return their answers in order, the server's refusals among them or raised."""


class Client(Commands, Protocol):
    """A client of one server."""

    def pipeline(self, transaction: bool = True) -> Any:
        """Return an empty `Pipeline`; with `transaction` the server runs its commands as one."""

    def register_script(self, script: str) -> Callable[..., Any]:
        """Return a function that runs a Lua script with `keys` and `args`; the script is sent where it is unknown."""

    def execute_command(self, *words: Any) -> Any:
        """Send a command in its own words and return its answer."""

    def info(self, section: str, /) -> Any:
        """Return a section of the server's INFO."""


#: What a script takes as an argument.
Word = str | int | float | bytes
Words = Sequence[Word]

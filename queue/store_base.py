"""One prefix of one Redis server, and the Lua scripts that run on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi0q.jobs.errors import BadRecord, NotFound
from pi0q.jobs.state import State

if TYPE_CHECKING:
    from pi0q.queue.server_client import Client

#: Texts that every script begins with.
PRELUDE = ("common", "dependencies", "sweeps")
#: The first element of a script's answer to a sender that knows more than the server.
OLDER = 2


@cache
def source(name: str) -> str:
    """Return the text of a script as the server runs it."""
    return "".join((_lua() / f"{part}.lua").read_text(encoding="utf-8") for part in (*PRELUDE, name))


def script_names() -> list[str]:
    """Return the names of all scripts."""
    return sorted(file.stem for file in _lua().glob("*.lua") if file.stem not in PRELUDE)


def _lua() -> Path:
    # importlib.resources finds the same, and takes a fourteenth of a submit to be imported.
    (lua, *_) = map(Path, import_module("pi0q.queue.lua").__path__)
    return lua


class StoreBase:
    """Connection and scripts. Raises the client's error (redis.RedisError, RespError) if it can't reach the server."""

    def __init__(
        self, client: Client, prefix: str = "pi0q:", *, on_broken: Callable[[BadRecord], object] = lambda _: None
    ) -> None:
        """`on_broken` is told of each record that was passed over because it cannot be read."""
        self.client: Client = client
        self.prefix = prefix
        self.on_broken = on_broken
        self._scripts: dict[str, Any] = {}

    def load(self, *names: str) -> None:
        """Read scripts that will be run later: the package may be upgraded in place meanwhile."""
        for name in names:
            self._registered(name)

    def _run(self, script: str, *args: str | int) -> Any:
        return self._registered(script)(keys=[self.prefix], args=args)

    def _registered(self, name: str) -> Any:
        if name not in self._scripts:
            self._scripts[name] = self.client.register_script(source(name))
        return self._scripts[name]


def script_failed(error: Exception) -> bool:
    """Return whether a script ended with an error of its own: with these arguments it does so each time."""
    text = str(error)
    return "script" in text and not text.startswith(("BUSY", "NOSCRIPT")) and "busy running" not in text


def state_of(job_id: str, state: str) -> State:
    """The state in a script's answer. Raises NotFound for an empty one: there is no such job."""
    if not state:
        raise NotFound(f"There is no job {job_id}. `pi0q ls --all` lists every job.")
    return State(state)


def number(text: Any) -> int:
    """Return a whole number that a script wrote; 0 for anything else."""
    try:
        return int(float(text or 0))
    except (ValueError, OverflowError):
        return 0

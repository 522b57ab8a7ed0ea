"""The Lua scripts that the server gets at its start: nobody but an admin may send one.

Those of earlier versions stay, so that boxes may be upgraded after the server: they lie in `scripts/`, one file each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pi0q.ops import file_edits
from pi0q.queue import store_base
from pi0q.queue.digests import sha1

if TYPE_CHECKING:
    from redis import Redis

FOLDER = "scripts"
#: Texts that are kept: some ten versions of pi0q's.
MOST_KEPT = 400


def texts() -> Iterator[str]:
    """Yield every script that this version of pi0q, Celery's transport and redis-py's locks run."""
    from redis.lock import Lock

    yield from map(store_base.source, store_base.script_names())
    yield from (Lock.LUA_RELEASE_SCRIPT, Lock.LUA_EXTEND_SCRIPT, Lock.LUA_REACQUIRE_SCRIPT)
    # A machine with the server alone may lack Celery; then its boxes' Celery can't be served, see `server init`.
    with suppress(ImportError):
        from kombu.transport import redis as transport

        for name in ("REFRESH_BINDING", "SWEEP_BINDINGS"):
            if text := getattr(transport, name, ""):
                yield text


def keep(data: Path) -> list[str]:
    """Add this version's scripts to those that are kept; return the texts of all of them."""
    folder = data / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    own = {sha1(text.encode()): text for text in texts()}
    for name, text in own.items():
        if not (folder / f"{name}.lua").exists():
            file_edits.write(folder / f"{name}.lua", text, 0o600)
    kept = sorted(folder.glob("*.lua"), key=lambda file: file.stat().st_mtime, reverse=True)
    earlier = [file for file in kept if file.stem not in own]
    for file in earlier[MOST_KEPT:]:
        file.unlink()
    # A file that somebody changed has another name than its text.
    read = [file.read_text(encoding="utf-8") for file in earlier[:MOST_KEPT]]
    named = {file.stem for file in earlier}
    return [*own.values(), *(text for text in read if sha1(text.encode()) in named)]


def load(client: Redis, scripts: list[str]) -> None:
    """Give the server these scripts. Raises redis.RedisError."""
    pipe = client.pipeline(transaction=False)
    for text in scripts:
        pipe.script_load(text)
    pipe.execute()

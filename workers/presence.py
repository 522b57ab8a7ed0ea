"""What a box and its server know of each other: the box says that it lives, the server how it stands with the queue."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi0q.jobs.errors import UsageError
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store, Welcome
from pi0q.workers.identity import Identity


class NameTaken(UsageError):
    """Another machine that lives has this box's name."""


class Presence:
    """Announces a box, and notices a server that is another one or has older data than this box has seen."""

    def __init__(self, settings: Settings, store: Store, identity: Identity) -> None:
        self.store, self.identity, self.timing = store, identity, settings.timing
        self.file: Path = settings.home / "server.json"
        #: The server's answer to the last word; None before the first.
        self.welcome: Welcome | None = None
        #: The server may know less than this box's ledgers, until `caught_up`.
        self.behind = True
        self._server, self._beats, self._drain = _read(self.file)

    @property
    def drain(self) -> str:
        """What a user wants of this box: "" nothing, `drain` no new jobs, `now` hand back those it has too."""
        return self.welcome.drain if self.welcome else ""

    @property
    def regroup_seconds(self) -> float:
        """How long claims still wait for other boxes, as of the last word."""
        return self.welcome.regroup_seconds if self.welcome else 0.0

    def announce(self, fields: Mapping[str, Any]) -> Welcome:
        """Says that the box lives and what it has. Raises NameTaken, and then nothing was written."""
        welcome = self.store.announce_box(
            self.identity.name, self.identity.box_id, fields, timing=self.timing, beats=self._beats, drain=self._drain
        )
        if welcome is None:
            raise NameTaken(
                f"Another machine is the box {self.identity.name}; this worker takes nothing.\n"
                "Give it a name of its own: pi0q worker --name NAME."
            )
        self.welcome = welcome
        if welcome.older or welcome.server != self._server:
            self.behind = True
        self._server, self._beats, self._drain = welcome.server, welcome.beats, welcome.drain
        if not self.behind:
            self._remember()
        return welcome

    def caught_up(self) -> None:
        """The server was told all that this box knows: what it is now is what later ones are held against."""
        self.behind = False
        self._remember()

    def _remember(self) -> None:
        fresh = self.file.with_suffix(".new")
        # A full disk must not keep a box from saying that it lives.
        with contextlib.suppress(OSError):
            fresh.write_text(json.dumps({"server": self._server, "beats": self._beats, "drain": self._drain}))
            fresh.replace(self.file)


def _read(file: Path) -> tuple[str, int, str]:
    try:
        raw = json.loads(file.read_text())
        return str(raw["server"]), int(raw["beats"]), str(raw.get("drain", ""))
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0, ""

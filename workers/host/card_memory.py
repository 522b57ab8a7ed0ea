"""The cards that this box had when it had some: without them it still knows which jobs it can run with them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pi0q.jobs.record_codecs import MAX_GPUS, json_of, whole
from pi0q.workers.host import files
from pi0q.workers.host.probe import Gpu

#: In the box's home.
FILE = "cards.json"
#: Bytes that are read of it.
MOST_BYTES = 64 * 1024


class CardMemory:
    """Keeps names and sizes of cards on the disk."""

    def __init__(self, home: Path) -> None:
        self._file = home / FILE
        self._known: list[dict[str, Any]] | None = None

    def note(self, gpus: Sequence[Gpu]) -> None:
        """Remember the cards that the box shows now; where it shows none, what it had stays."""
        cards = [{"name": gpu.name, "total_mib": gpu.total_mib} for gpu in gpus]
        if not cards or cards == self.cards():
            return
        self._known = cards
        # A full disk must not keep a box from its heartbeat.
        with contextlib.suppress(OSError):
            files.write_atomic(self._file, json.dumps(cards))

    def cards(self) -> list[dict[str, Any]]:
        """Return name and MiB of each card; empty where the box never had one, or nobody can read what it had."""
        if self._known is None:
            self._known = _read(self._file)
        return self._known


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        with file.open("rb") as source:
            found = json_of(source.read(MOST_BYTES).decode())
        return [{"name": str(card["name"]), "total_mib": whole(card["total_mib"])} for card in found[:MAX_GPUS]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []

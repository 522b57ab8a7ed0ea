"""VRAM peak of one trainer process, as its hook reports it; kept for the next jobs of its shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pi0q.workers.runs.listener import TrainerListener


class VramWatch(TrainerListener):
    """Takes the peak and the number of steps from the hook's events."""

    def __init__(self) -> None:
        #: Most that torch held, MiB; 0 where it told nothing.
        self.peak_mib = 0
        #: Steps that this process has done.
        self.steps = 0

    def on_event(self, event: Mapping[str, Any]) -> None:
        if event.get("event") != "step":
            return
        self.steps += 1
        peak = event.get("vram_peak_mib")
        if isinstance(peak, int) and peak > 0:
            self.peak_mib = max(self.peak_mib, peak)

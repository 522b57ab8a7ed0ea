"""The cards that a box had when it had some."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi0q.workers.host.card_memory import FILE, CardMemory
from pi0q.workers.host.probe import Gpu

GPU = Gpu(uuid="GPU-1", name="RTX 4090", total_mib=49_140, free_mib=12)
KNOWN = [{"name": "RTX 4090", "total_mib": 49_140}]


def test_what_a_box_had_is_known_after_a_start_without_cards(tmp_path: Path) -> None:
    CardMemory(tmp_path).note([GPU])
    later = CardMemory(tmp_path)
    later.note([])
    assert later.cards() == KNOWN
    later.note([GPU, GPU])
    assert CardMemory(tmp_path).cards() == KNOWN * 2


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"name": "x"}]', '[{"name": "x", "total_mib": -1}]', "[" * 9000])
def test_a_file_that_nobody_can_have_written_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert CardMemory(tmp_path).cards() == []


def test_a_disk_that_takes_nothing_costs_only_the_memory(tmp_path: Path) -> None:
    gone = CardMemory(tmp_path / "gone")
    gone.note([GPU])
    assert gone.cards() == KNOWN

"""Each row of the table of faults that happens to a queue or a box has a story here."""

from __future__ import annotations

import re
from pathlib import Path

from tests.tiers import FAULTS

#: Rows about downloads, job files and secrets; their tests lie beside the code, see tests/tiers.py.
ELSEWHERE = {*range(21, 27), *range(36, 45)}


def test_every_row_has_a_story() -> None:
    told = set[int]()
    for module in Path(__file__).parent.glob("test_*.py"):
        told |= {int(row) for row in re.findall(r"^def test_row_(\d\d)_", module.read_text(encoding="utf-8"), re.M)}
    assert told == set(FAULTS) - ELSEWHERE

"""What saves may cost, in words and numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs.estimates import save_cost
from pi0q.jobs.record import Record, from_hash
from pi0q.jobs.state import State

SPEC: dict[str, Any] = {"checkpoints": {"every": "1800.0s", "keep": 2}, "train": {"save_freq": 20000}}


def job(**fields: Any) -> Record:
    plain = from_hash({"id": "a1a1a1a1a1a1", "name": "a", "state": "running", "created_ms": "1"})
    return replace(plain, **{"spec": SPEC, **fields})


def test_full_pi0_each_half_hour_costs_what_it_may() -> None:
    """28.6 s a save were measured on an H100, 0.7 s a step."""
    assert save_cost.interval(1800, 28.6) == 1800
    assert save_cost.words(SPEC, 28.6, 0.71) == ["", ""]
    assert save_cost.shown(job(save_seconds=28.6, step_seconds=0.71)) == ["28.6 s each"]


def test_more_often_than_pays_is_stretched_and_said() -> None:
    often = {**SPEC, "checkpoints": {"every": "60.0s"}}
    stretched, _ = save_cost.words(often, 28.6, 0.71)
    assert stretched.startswith("a save takes 28.6 s, so saves by the clock come every 1401 s instead of every 60 s")
    assert save_cost.words({**SPEC, "checkpoints": {"every": None}}, 28.6, 0.71) == ["", ""]


@pytest.mark.parametrize("known", [(None, 0.7), (28.6, None), (0.0, 0.7)])
def test_nothing_is_said_before_it_is_measured(known: tuple[float | None, float | None]) -> None:
    assert save_cost.words({"train": {"save_freq": 1}}, *known) == ["", ""]


def test_a_save_freq_that_costs_more_is_heeded_and_told_of() -> None:
    dear = {"checkpoints": {"every": None}, "train": {"save_freq": 500}}
    _, said = save_cost.words(dear, 28.6, 0.71)
    assert "save_freq: 500 costs 7% of the time" in said and "From 1974 on" in said
    cheap = save_cost.dear(1974, save_seconds=28.6, step_seconds=0.71)
    assert cheap == "" != save_cost.dear(1900, save_seconds=28.6, step_seconds=0.71)


def test_show_says_what_was_asked_for_and_what_is_pinned() -> None:
    assert save_cost.shown(job()) == []
    asked = job(save_wish=5, save_served=4, save_at=120, pinned_steps=(100, 200))
    assert save_cost.shown(asked) == ["asked for at step 120, not made yet", "pinned: step 100, 200"]
    assert save_cost.shown(replace(asked, state=State.QUEUED, pinned_steps=())) == []

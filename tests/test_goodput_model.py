"""The accounting of benchmarks/goodput.py: each lost second has one cause, and a day has 86,400 of them."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.goodput_model import (
    DAY_S,
    FETCH_S,
    RESTART_S,
    RESUME_S,
    SAVE_S,
    Cause,
    Cost,
    Happened,
    Kind,
    Life,
    Scale,
    cost,
    lives,
    markdown,
    week,
)

SCALE = Scale(lease=6.0, steps=60)


def life(first: int, last: int, ended: float = 100.0, **more: Any) -> Life:
    return Life(**{"epoch": 1, "first_step": first, "last_step": last, "began": 0.0, "ended": ended, **more})


def happened(kind: Kind, **more: Any) -> Happened:
    before = {"ended": (life(1, 90),), "following": life(61, 70)}
    return Happened(**{"kind": kind, "at": 100.0, "queued": 101.0, "claimed": 104.0, **before, **more})


def test_scale_is_that_of_the_lease() -> None:
    assert (SCALE.factor, SCALE.step_s) == (100.0, 30.0)


def test_fault_that_interrupted_nothing_costs_nothing() -> None:
    assert cost(happened(Kind.PARTITION, ended=(), following=None), SCALE).total == 0


def test_restart_costs_the_steps_since_the_last_checkpoint_the_container_and_a_resume() -> None:
    found = cost(happened(Kind.RESTART), SCALE).seconds
    assert found[Cause.REDONE] == 30 * 30.0
    assert (found[Cause.DOWN], found[Cause.RESUMING], found[Cause.SAVES]) == (RESTART_S, RESUME_S, 0)


def test_checkpoint_that_came_back_from_a_copy_costs_the_way() -> None:
    assert cost(happened(Kind.DAMAGE, fetched=True), SCALE).seconds[Cause.RESUMING] == RESUME_S + FETCH_S


def test_partition_costs_what_it_took_until_the_next_claim_times_the_factor() -> None:
    saved = life(1, 90, saves=(60, 90))
    found = cost(happened(Kind.PARTITION, ended=(saved,), following=life(91, 99)), SCALE).seconds
    assert (found[Cause.LINK], found[Cause.REDONE]) == (400.0, 0)
    assert found[Cause.SAVES] == SAVE_S, "the save at its stop is one that the clock did not ask for"


def test_hang_costs_the_products_own_limit_and_the_unscaled_rest() -> None:
    found = cost(happened(Kind.HANG, claimed=108.0), SCALE).seconds
    assert found[Cause.UNNOTICED] == 600.0 + 2.0


def test_full_disk_costs_the_scaled_wait_for_room() -> None:
    assert cost(happened(Kind.DISK), SCALE).seconds[Cause.NO_ROOM] == 300.0 + 1.0


def test_life_that_ended_at_once_is_a_second_resume() -> None:
    two = cost(happened(Kind.RESTART, ended=(life(1, 90), life(61, 62))), SCALE).seconds
    assert two[Cause.RESUMING] == 2 * RESUME_S and two[Cause.REDONE] == 900.0


def test_week_without_faults_loses_its_saves_alone() -> None:
    found = week([Cost(kind=Kind.PARTITION, detail="", seconds={})], every=1800.0, save=36.0)
    assert found.goodput == pytest.approx(1800 / 1836)
    assert found.paid == DAY_S


def test_all_that_is_lost_and_what_survives_is_what_was_paid() -> None:
    costs = [cost(happened(kind), SCALE) for kind in Kind]
    found = week(costs, unplanned=1)
    assert found.goodput * found.paid + sum(found.lost.values()) == pytest.approx(5 * DAY_S)
    assert "**all**" in markdown(found) and Kind.HANG.value in markdown(found)


def test_lives_are_those_of_the_trainers_of_one_job_in_turn() -> None:
    def line(event: str, step: int, t: float, *, pid: int = 1, epoch: int = 1, job: str = "a") -> dict[str, object]:
        return {"e": event, "pid": pid, "step": step, "t0": t - 0.5, "t": t, "job": job, "epoch": epoch}

    records = [
        line("step", 61, 20.0, pid=2, epoch=2),
        line("step", 59, 9.0),
        line("step", 60, 10.0),
        line("saved", 60, 11.0),
        line("step", 61, 12.0),
        line("stepping", 62, 12.5),
        line("step", 1, 1.0, job="b"),
    ]
    first, second = lives(records, "a")
    assert (first.first_step, first.last_step, first.saves, first.ended) == (59, 61, (60,), 12.0)
    assert (second.epoch, second.first_step, second.began) == (2, 61, 19.5)

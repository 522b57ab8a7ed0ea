"""Accounting of benchmarks/month.py: each yuan that is paid has one purpose, and a month is the same each time."""

from __future__ import annotations

import math

import pytest

from benchmarks.goodput_model import SAVE_S
from benchmarks.month import RENTS, STYLES, Month, markdown
from benchmarks.month_model import Box, Fault, Job, Style, run
from benchmarks.schedule import HOUR, Kind
from pi0q.jobs.cost import total

KINDS = (Kind(0.5, 1, 2_000, 3.0), Kind(0.3, 1, 43_000, 12.0), Kind(0.2, 1, 92_160, 12.0), Kind(0.1, 8, 1, 1.0))
HAND, PI0Q = STYLES[1], STYLES[-1]


def job(*faults: tuple[float, Fault]) -> Job:
    return Job("00", 2_000, 0.0, 10.0, {}, list(faults))


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_what_is_paid_is_training_lost_idle_and_staging(style: Style) -> None:
    month = Month(3, style, KINDS)
    bill = month.simulate()
    assert math.isclose(bill.paid, bill.training + bill.lost + bill.idle + bill.staging, abs_tol=0.01)
    assert min(bill.training, bill.lost, bill.idle, bill.staging) > 0
    assert all(one.ended is not None and not one.faults for one in month.jobs)
    # All that was trained lies in the holds, once; saves come on top.
    kept = sum(hold.hours - hold.lost_hours for hold in bill.holds)
    assert kept > sum(one.hours for one in month.jobs) - 1
    assert math.isclose(bill.training + bill.lost, total(bill.holds).money["CNY"], rel_tol=0.05)
    assert Month(3, style, KINDS).simulate() == bill


def test_a_restart_costs_pi0q_half_an_hour_at_the_most_and_a_person_what_the_last_save_is_old() -> None:
    mine = run(job((3.75, Fault.RESTART)), Box(RENTS[0]), 0.0, PI0Q)
    assert mine.saved == 3.5 and mine.end - mine.saved_at == pytest.approx(0.25 * HOUR)
    theirs = run(job((3.75, Fault.RESTART)), Box(RENTS[0]), 0.0, HAND)
    assert theirs.saved == 0.0 and theirs.saved_at == 0.0
    late = run(job((9.0, Fault.RESTART)), Box(RENTS[0]), 0.0, HAND)
    assert late.saved == 8.0 and late.end - late.saved_at == pytest.approx(HOUR)


def test_nan_and_a_stall_last_until_a_person_looks() -> None:
    night = 22.5 * HOUR
    nan = run(job((2.0, Fault.NAN)), Box(RENTS[0]), night, HAND)
    assert nan.end == 33 * HOUR, "9:00 the next day"
    assert run(job((2.0, Fault.NAN)), Box(RENTS[0]), night, PI0Q).end < 25 * HOUR
    stalled = Job("00", 2_000, 0.0, 10.0, {"base-14": 14}, [(0.0, Fault.STALL)])
    assert run(stalled, Box(RENTS[0]), night, HAND).end == 23 * HOUR
    again = run(Job("00", 2_000, 0.0, 10.0, {"base-14": 14}, [(0.0, Fault.STALL)]), Box(RENTS[0]), night, PI0Q)
    assert again.fault is None and again.fetched < 1000


def test_a_full_disk_keeps_what_was_trained_under_pi0q() -> None:
    one = run(job((3.2, Fault.DISK)), Box(RENTS[0]), 0.0, PI0Q)
    assert one.saved == 3.2 and one.saved_at == one.end
    theirs = run(job((3.2, Fault.DISK)), Box(RENTS[0]), 0.0, HAND)
    assert theirs.saved == 0.0 and theirs.end == pytest.approx(theirs.ran + 4.0 * HOUR, abs=SAVE_S + 1)


def test_the_report_has_a_row_for_each_style() -> None:
    told = markdown({style.name: [Month(seed, style, KINDS).simulate() for seed in (1, 2)] for style in STYLES})
    assert all(f"| {style.name} |" in told for style in STYLES) and "| the loss becomes NaN | 1 |" in told

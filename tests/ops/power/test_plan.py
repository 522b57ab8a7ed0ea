"""Which switched-off boxes are started."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pi0q.ops.power.plan import DAY_MS, Need, Power, ReleaseSoon, RentedBox, Start, TooPoor, releases, starts

GIB = 1024
NEED = Need(job="job-a", gpus=1, vram_mib=60 * GIB, waited_seconds=600, seconds=3600)
SMALL = RentedBox(
    box="small", instance="pro-1", power=Power.OFF, cards_mib=(24 * GIB,), is_up=False, price=2.0, off_ms=1
)
BIG = replace(SMALL, box="big", instance="pro-2", cards_mib=(96 * GIB,), price=6.0)
DEAR = replace(BIG, box="dear", instance="pro-3", price=9.0)


def test_starts_the_cheapest_box_that_fits() -> None:
    assert starts([NEED], [DEAR, SMALL, BIG], balance=100.0, paused=()) == [Start(box=BIG, need=NEED)]


def test_starts_one_box_a_job_and_takes_an_unknown_price_last() -> None:
    other, unknown = replace(NEED, job="job-b"), replace(BIG, box="unknown", price=None)
    acts = starts([NEED, other], [unknown, BIG], balance=None, paused=())
    assert acts == [Start(box=BIG, need=NEED), Start(box=unknown, need=other)]


@pytest.mark.parametrize(
    "need",
    [replace(NEED, waited_seconds=10), replace(NEED, gpus=0), replace(NEED, gpus=2), replace(NEED, vram_mib=100 * GIB)],
)
def test_starts_nothing_for_a_job_that_has_just_come_or_fits_no_box(need: Need) -> None:
    assert starts([need], [BIG], balance=None, paused=()) == []


def test_starts_nothing_where_a_box_is_coming_up_for_the_job() -> None:
    coming = replace(DEAR, power=Power.ON)
    assert starts([NEED], [coming, BIG], balance=None, paused=()) == []
    assert starts([NEED], [replace(coming, is_up=True), BIG], balance=None, paused=()) == [Start(box=BIG, need=NEED)]


def test_starts_no_box_that_is_paused_or_neither_on_nor_off() -> None:
    assert starts([NEED], [BIG], balance=None, paused=("big",)) == []
    assert starts([NEED], [replace(BIG, power=Power.OTHER)], balance=None, paused=()) == []


def test_refuses_when_the_balance_does_not_cover_the_job_and_counts_what_was_started() -> None:
    # 6 CNY an hour for an hour and a quarter.
    assert starts([NEED], [BIG], balance=7.4, paused=()) == [TooPoor(box=BIG, need=NEED, cost=7.5, balance=7.4)]
    other = replace(NEED, job="job-b")
    first, second = starts([NEED, other], [BIG, DEAR], balance=10.0, paused=())
    assert isinstance(first, Start)
    assert isinstance(second, TooPoor)
    assert second.balance == 2.5


@pytest.mark.parametrize(("days", "left"), [(12, 3), (14, 1), (15, 0), (40, 0)])
def test_warns_from_the_twelfth_day_on(days: int, left: int) -> None:
    now = 100 * DAY_MS
    off = replace(BIG, off_ms=now - days * DAY_MS)
    assert releases([off, replace(off, power=Power.ON)], now) == [ReleaseSoon(box=off, days_left=left)]
    assert releases([replace(BIG, off_ms=now - 12 * DAY_MS + 1)], now) == []

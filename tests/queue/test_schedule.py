"""Whose turn it is, which cards are kept for whom, and when each job may start."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pi0q.queue import schedule
from pi0q.queue.schedule import BoxCards, Card, Reserved, Waiting

GIB = 1024
HOUR = 3600.0


def job(name: str = "a", gpus: int = 1, gib: int = 60, **fields: Any) -> Waiting:
    return Waiting(id=name, gpus=gpus, vram_mib=gib * GIB, **fields)


def box(name: str, *busy: float, gib: int = 80) -> BoxCards:
    """A box whose cards are busy for so many hours."""
    return BoxCards(name=name, cards=tuple(Card(total_mib=gib * GIB, busy=hours * HOUR) for hours in busy))


def started(*jobs: Waiting, on: list[BoxCards]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {start.job.id: (start.box, start.cards) for start in schedule.starts_now(jobs, on)}


def test_a_small_job_goes_to_the_tightest_box() -> None:
    fleet = [box("large", 0, gib=96), box("small", 0, gib=24)]
    assert started(job("act", gib=6), job("pi0", gib=90), on=fleet) == {"act": ("small", (0,)), "pi0": ("large", (0,))}


def test_priority_comes_before_everything_else() -> None:
    late = job("late", rank=schedule.URGENT, submitted=50 * HOUR, place=2, seconds=9 * HOUR)
    early = job("early", place=1, seconds=HOUR)
    assert [one.id for one in schedule.in_turn([early, late], [box("a", 1)])] == ["late", "early"]


def test_within_a_window_the_shortest_is_next_and_no_later_window_overtakes() -> None:
    long = job("long", place=1, seconds=9 * HOUR)
    short = job("short", place=2, submitted=HOUR, seconds=HOUR)
    later = job("later", place=3, submitted=schedule.WINDOW_SECONDS, seconds=60)
    # Much other work: neither is pressed.
    rest = [job(f"rest{number}", gib=90, place=9, seconds=20 * HOUR) for number in range(20)]
    fleet = [box("a", 0, 0, 0, 0), box("large", 0, gib=96)]
    ids = [one.id for one in schedule.in_turn([later, long, short, *rest], fleet)]
    assert ids[-3:] == ["short", "long", "later"]


def test_jobs_whose_cards_have_the_most_work_are_first_in_their_window() -> None:
    """One card of 96 GiB has 24 hours to do, five of 24 GiB a fifth of that."""
    large = [job(f"large{number}", gib=90, place=9 + number, seconds=12 * HOUR) for number in range(2)]
    small = [job(f"small{number}", gib=6, place=number, seconds=HOUR) for number in range(4)]
    fleet = [box("large", 0, gib=96), *(box(f"small{number}", 0, gib=24) for number in range(4))]
    assert [one.id for one in schedule.in_turn([*small, *large], fleet)][:2] == ["large0", "large1"]


def test_a_job_of_two_cards_has_those_reserved_that_come_free_first() -> None:
    fleet = [box("a", 5, 2, 9), box("b", 4)]
    (kept,) = schedule.reserve([job(gpus=2)], fleet)
    assert (kept.box, kept.cards, kept.start) == ("a", (0, 1), 5 * HOUR)


def test_a_job_of_one_card_has_none_reserved_and_a_job_that_fits_nowhere_neither() -> None:
    assert not schedule.reserve([job(), job("b", gpus=4), job("c", gpus=2, gib=90)], [box("a", 5, 2)])


def test_only_the_first_few_have_cards_reserved_and_never_the_same() -> None:
    fleet = [box(f"b{number}", 1, 2) for number in range(9)]
    found = schedule.reserve([job(f"j{number}", gpus=2, place=number) for number in range(9)], fleet)
    assert len(found) == len({one.box for one in found}) == schedule.MOST_RESERVATIONS


@pytest.mark.parametrize(("at_most", "may"), [(HOUR, True), (2 * HOUR, True), (2 * HOUR + 1, False), (math.inf, False)])
def test_a_reserved_card_is_taken_only_by_who_is_sure_to_end_before(at_most: float, may: bool) -> None:
    kept = [Reserved(job_id="big", box="a", cards=(0, 1), start=2 * HOUR)]
    other = job("other", seconds=60, at_most=at_most)
    assert (schedule.is_kept_from(other, 0, kept, "a") is None) is may
    assert schedule.is_kept_from(other, 2, kept, "a") is None
    assert schedule.is_kept_from(other, 0, kept, "b") is None
    assert schedule.is_kept_from(job("big", gpus=2), 0, kept, "a") is None


def test_a_start_that_nobody_can_tell_is_no_reason_to_take_a_reserved_card() -> None:
    kept = [Reserved(job_id="big", box="a", cards=(0,), start=math.inf)]
    assert schedule.is_kept_from(job("other"), 0, kept, "a") is not None


def test_a_two_card_job_behind_a_stream_starts_once_those_end_that_run() -> None:
    """A job of 2 hours each 0.9 hours on two cards: without a reservation the last of the stream comes first."""
    fleet = [box("a", 0.2, 1.1)]
    stream = [job(f"s{number}", submitted=number * HOUR, place=number + 9, seconds=2 * HOUR) for number in range(50)]
    starts = schedule.forecast([*stream, job("big", gpus=2, seconds=2 * HOUR, place=1)], fleet)
    assert starts["big"] == pytest.approx(1.1 * HOUR)


def test_a_forecast_plays_one_end_after_the_other() -> None:
    first, second = job("first", seconds=HOUR, place=1), job("second", seconds=HOUR, place=2)
    assert schedule.forecast([second, first], [box("a", 2)]) == {"first": 2 * HOUR, "second": 3 * HOUR}


def test_a_forecast_says_so_where_nobody_can_tell() -> None:
    unknown = job("unknown", place=1)
    starts = schedule.forecast([unknown, job("behind", place=2), job("too_big", gib=96)], [box("a", 1)])
    assert starts == {"unknown": HOUR, "behind": math.inf, "too_big": math.inf}
    assert schedule.forecast([job()], [box("a", math.inf)]) == {"a": math.inf}


# -- fair share ---------------------------------------------------------------------------------------


def test_the_user_with_the_fewest_cards_comes_first_whoever_came_first() -> None:
    flood = [job(f"a{number}", user="a", place=number) for number in range(4)]
    late = [job(f"b{number}", user="b", place=9 + number, submitted=50 * HOUR) for number in range(2)]
    busy = BoxCards(name="x", cards=(Card(total_mib=80 * GIB, busy=HOUR, user="a"),))
    assert [one.id for one in schedule.in_turn([*flood, *late], [busy])][:4] == ["a0", "a1", "a2", "a3"]
    shared = [one.id for one in schedule.in_turn([*flood, *late], [busy], fair=True)]
    assert shared == ["b0", "a0", "b1", "a1", "a2", "a3"]


def test_fair_share_counts_cards_and_not_jobs() -> None:
    big = [job("a0", user="a", gpus=2, place=0), job("a1", user="a", gpus=2, place=1)]
    small = [job(f"b{number}", user="b", place=2 + number) for number in range(3)]
    shared = schedule.in_turn([*big, *small], [box("x", 1, 1)], fair=True)
    assert [one.id for one in shared] == ["a0", "b0", "b1", "a1", "b2"]


def test_fair_share_stays_within_a_priority() -> None:
    urgent = [job(f"a{number}", user="a", rank=schedule.URGENT, place=number) for number in range(2)]
    other = job("b", user="b", place=2)
    assert [one.id for one in schedule.in_turn([other, *urgent], [box("x", 1)], fair=True)] == ["a0", "a1", "b"]


def test_a_forecast_gives_cards_back_to_the_share_as_jobs_end() -> None:
    waiting = [job("a", user="a", place=0, seconds=HOUR), job("b", user="b", place=1, seconds=HOUR)]
    cards = (Card(total_mib=80 * GIB, busy=HOUR, user="a"), Card(total_mib=80 * GIB, busy=2 * HOUR, user="b"))
    told = schedule.forecast(waiting, [BoxCards(name="x", cards=cards)], fair=True)
    assert told == {"a": HOUR, "b": 2 * HOUR}

"""Delays of an exponential backoff."""

from __future__ import annotations

from pi0q.workers.host.backoff import Backoff


def test_backoff_doubles_from_the_first_delay_to_the_longest() -> None:
    backoff = Backoff(first=1.0, longest=10.0)
    assert [backoff.delay(attempt) for attempt in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_backoff_uses_its_own_factor() -> None:
    assert [Backoff(first=30.0, longest=600.0, factor=4.0).delay(attempt) for attempt in (1, 2, 3, 4)] == [
        30.0,
        120.0,
        480.0,
        600.0,
    ]


def test_backoff_stays_at_the_longest_after_any_number_of_failures() -> None:
    assert Backoff(first=1.0, longest=60.0).delay(100_000) == 60.0


def test_backoff_before_the_first_failure_is_the_first_delay() -> None:
    assert Backoff(first=5.0, longest=60.0).delay(0) == 5.0

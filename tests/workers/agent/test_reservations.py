"""Cards that are kept for jobs that need several: real boxes on a real queue."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from pi0q.jobs.state import State
from pi0q.jobs.transition import cancelled
from pi0q.queue.refusals import Drained
from pi0q.queue.reservation import CardReservation, Plan, pressed_json
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.agent.box import Box
from tests.conftest import JobDriver
from tests.workers.conftest import change_record, refused, submit

CARDS = ("FAKE-box-a-0", "FAKE-box-a-1")


def ends(store: Store, job: str) -> None:
    """The job's runner has ended it."""
    assert store.move(job, cancelled(store.get(job).epoch, text="it ended"))


def listen(store: Store) -> None:
    """No job is told to a woken box alone any longer, as after a second."""
    for call in store.client.zrange(f"{store.prefix}calls", 0, -1):
        store.client.zadd(f"{store.prefix}calls", {str(call): 1})
    store.call_again()


def look(box: Box, store: Store) -> None:
    """The box looks at the queue, and somebody plans anew: later than a plan is old."""
    store.client.delete(f"{store.prefix}planned", f"{store.prefix}planned:again")
    listen(store)
    box.claims.claim()
    box.announce()


@pytest.fixture
def two_cards(box: Box, store: Store) -> Box:
    """A box of two cards that has announced them."""
    look(box, store)
    return box


def kept(store: Store) -> dict[str, tuple[str, ...]]:
    return {one.job_id: one.cards for one in store.plan().reservations}


@pytest.mark.parametrize("priority", ["normal", "urgent"])
def test_a_two_card_job_starts_once_those_end_that_ran_when_it_came(
    two_cards: Box, store: Store, priority: str
) -> None:
    """A stream of jobs of one card goes on and on; without a reservation the big one starts after its end."""
    running = [submit(store) for _ in range(2)]
    look(two_cards, store)
    big = submit(store, priority=priority, gpus=2)
    stream = [submit(store) for _ in range(5)]
    look(two_cards, store)
    assert kept(store) == {big: CARDS}

    ends(store, running[0])
    look(two_cards, store)
    assert {store.get(job).state for job in stream} == {State.QUEUED}, "the free card is kept"
    assert f"card 0 is kept for job {big}" in refused(two_cards, stream[0])

    ends(store, running[1])
    look(two_cards, store)
    assert store.get(big).gpus == CARDS
    assert not kept(store), "it ended with the claim"
    assert {store.get(job).state for job in stream} == {State.QUEUED}


def test_a_job_that_is_sure_to_end_before_takes_the_kept_card(two_cards: Box, store: Store, driver: JobDriver) -> None:
    running = [submit(store) for _ in range(2)]
    look(two_cards, store)
    for job, eta in zip(running, (60.0, 7200.0), strict=True):
        driver.report(job, store.get(job).epoch, step=1, step_seconds=1.0, eta_seconds=eta)
    two_cards.announce()
    big = submit(store, gpus=2)
    look(two_cards, store)
    ends(store, running[0])
    long, short = submit(store), submit(store)
    change_record(store, long, steps="7200", step_seconds="1.0")
    change_record(store, short, steps="5000", step_seconds="1.0")
    look(two_cards, store)
    assert [store.get(job).state for job in (long, short, big)] == [State.QUEUED, State.CLAIMED, State.QUEUED]
    assert "may start in 2 h" in refused(two_cards, long)


def test_a_job_with_a_time_limit_takes_the_kept_card_before_anything_was_measured(
    two_cards: Box, store: Store, driver: JobDriver
) -> None:
    running = [submit(store) for _ in range(2)]
    look(two_cards, store)
    for job, eta in zip(running, (60.0, 7200.0), strict=True):
        driver.report(job, store.get(job).epoch, step=1, step_seconds=1.0, eta_seconds=eta)
    two_cards.announce()
    submit(store, gpus=2)
    look(two_cards, store)
    ends(store, running[0])
    unlimited, limited = submit(store), submit(store, limit="1h")
    look(two_cards, store)
    assert [store.get(job).state for job in (unlimited, limited)] == [State.QUEUED, State.CLAIMED]


def test_the_server_refuses_a_claim_of_a_kept_card_that_a_box_did_not_know_of(two_cards: Box, store: Store) -> None:
    big, small = submit(store, 90, gpus=2), submit(store)
    held = CardReservation(
        job_id=big, box="box-a", cards=CARDS, from_ms=store.now_ms() + 60_000, expires_ms=store.now_ms() + 60_000
    )
    for key in ("planned", "planned:again"):
        store.client.set(f"{store.prefix}{key}", 1, ex=60)
    refresh: Callable[[], None] = two_cards.claims.reservations.refresh
    first = True

    def late() -> None:
        nonlocal first
        if first:
            first = False
            two_cards.claims.reservations.plan = Plan()
            assert store.reserve(store.plan(), [held], pressed_json(frozenset(), 60.0))
        else:
            refresh()

    two_cards.claims.reservations.refresh = late  # type: ignore[method-assign]
    listen(store)
    two_cards.claims.claim()
    assert store.get(small).state is State.QUEUED
    assert f"kept for job {big}" in refused(two_cards, small)


@pytest.mark.parametrize("end", ["hold", "cancel", "drain", "silence"])
def test_a_reservation_ends_with_a_hold_a_cancel_a_drain_and_the_loss_of_the_box(
    two_cards: Box, store: Store, end: str
) -> None:
    running = [submit(store) for _ in range(2)]
    look(two_cards, store)
    big = submit(store, gpus=2)
    look(two_cards, store)
    assert kept(store) == {big: CARDS}
    if end == "hold":
        store.hold(big, text="by ada")
    elif end == "cancel":
        store.cancel(big, text="cancelled by ada")
    elif end == "drain":
        store.drain("box-a", "drain", text="by ada")
    else:
        store.client.zadd(f"{store.prefix}boxes", {"box-a": 1})
    if end in ("drain", "silence"):
        two_cards.claims.reservations._propose()
    assert not kept(store)
    assert all(store.get(job).state is State.CLAIMED for job in running)


def test_a_reservation_that_nobody_renews_runs_out(store: Store, two_cards: Box) -> None:
    big = submit(store, 90, gpus=2)
    now = store.now_ms()
    gone = CardReservation(job_id=big, box="box-a", cards=CARDS, from_ms=None, expires_ms=now - 1)
    assert store.reserve(store.plan(), [gone], "{}")
    assert not kept(store)


def test_of_two_plans_that_saw_the_same_only_the_first_counts(store: Store, two_cards: Box) -> None:
    big, other = submit(store, 90, gpus=2), submit(store, 90, gpus=2)
    seen, later = store.plan(), store.now_ms() + 60_000
    first, second = (
        CardReservation(job_id=job, box="box-a", cards=CARDS, from_ms=None, expires_ms=later) for job in (big, other)
    )
    assert store.reserve(seen, [first], "{}")
    assert not store.reserve(seen, [second], "{}")
    assert kept(store) == {big: CARDS}
    assert store.reserve(store.plan(), [first, second], "{}")
    assert kept(store) == {big: CARDS}, "a card is kept for one job"


def test_cards_are_not_kept_on_a_box_that_refuses_the_job_for_good(
    chosen: Settings, store: Store, two_cards: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(store, gpus=2)
    monkeypatch.setattr(two_cards.claims.admission, "problems", lambda *_, **__: (Drained(),))
    look(two_cards, store)
    assert not kept(store)
    look(two_cards, store)
    assert not kept(store), "it announced that"


@pytest.mark.parametrize(
    "damage",
    ["", "[]", "7", "{", '{"box": "../x", "cards": [], "from": "1", "expires": "9007199254740000"}',
     '{"box": "box-a", "cards": ["x y"], "from": "1", "expires": "9007199254740000"}',
     '{"box": "box-a", "cards": 7, "from": "1", "expires": "9007199254740000"}'],
)  # fmt: skip
def test_a_damaged_reservation_keeps_nothing_and_stops_nothing(two_cards: Box, store: Store, damage: str) -> None:
    small = submit(store)
    store.client.hset(f"{store.prefix}reserved", "0123456789ab", damage)
    store.client.hset(f"{store.prefix}order", "pressed", damage)
    store.client.set(f"{store.prefix}planned", 1, ex=60)
    listen(store)
    two_cards.claims.claim()
    assert store.get(small).state is State.CLAIMED
    assert not kept(store)


def test_a_box_announces_when_its_cards_come_free(two_cards: Box, store: Store, driver: JobDriver) -> None:
    job = submit(store)
    look(two_cards, store)
    driver.report(job, store.get(job).epoch, step=1, eta_seconds=120.4)
    two_cards.announce()
    (told,) = store.boxes()
    assert json.loads(told["busy"]) == [120, 0]


def test_the_shortest_of_what_came_together_is_claimed_first(two_cards: Box, store: Store) -> None:
    long, short, shorter = (submit(store) for _ in range(3))
    for job, steps in ((long, 9000), (short, 500), (shorter, 400)):
        change_record(store, job, steps=str(steps), step_seconds="1.0")
    # Something else is pressed: nothing here is long beside it.
    store.client.set(f"{store.prefix}planned", 1, ex=60)
    listen(store)
    two_cards.claims.claim()
    assert [store.get(job).state for job in (long, short, shorter)] == [State.QUEUED, State.CLAIMED, State.CLAIMED]


@pytest.fixture(autouse=True)
def unpatched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    monkeypatch.undo()

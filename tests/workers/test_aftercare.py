"""Chores of runs, done apart: what is due, what rests, what is another's, and what the queue hears of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.aftermath import FIRST_REST_SECONDS, LONGEST_REST_SECONDS, rest_seconds
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.transition import ended
from pi0q.queue.settings import Settings
from pi0q.queue.store import NotOwner, ServerOlder, Store
from pi0q.workers.aftercare import KINDS, Aftercare, Desk, Did, Kind, Later, Never
from pi0q.workers.run.chores import DONE, FAILED, PENDING, Chore, Chores
from tests.conftest import Hands
from tests.workers.conftest import join_tries

#: What the next try of a chore comes to, and which were tried.
NEXT: list[Callable[[Desk], Did]] = []
TRIED: list[str] = []


def work(desk: Desk) -> Did:
    TRIED.append(desk.job_id)
    return NEXT.pop(0)(desk) if NEXT else Did(detail="done", result={"url": "u"})


def fails(error: Exception) -> Callable[[Desk], Did]:
    def fail(desk: Desk) -> Did:
        raise error

    return fail


class Tended(Aftercare):
    """One whose clock is set by hand and whose rounds are waited for."""

    now = 1000.0

    def tend(self) -> None:
        self.round()
        join_tries()


@pytest.fixture
def care(chosen: Settings, store: Store) -> Iterator[Tended]:
    NEXT.clear()
    TRIED.clear()
    kinds = {
        "push": Kind(work=f"{__name__}:work", field="push"),
        "wandb": Kind(work=f"{__name__}:work", field="wandb_sync", own=True),
    }
    made = Tended(chosen, store, box="box-a", kinds=kinds, clock=lambda: made.now)
    yield made
    made.stop()


def succeeded(hands: Hands, job: str, box: str = "box-a") -> int:
    epoch = hands.run(job, box)
    record = hands.store.get(job)
    assert hands.store.move(job, ended(record, epoch, Reason.FINISHED, "reached step 10"), box=box)
    return epoch


def left(care: Aftercare, job: str, *, kind: str = "push", epoch: int = 1, **more: Any) -> Chores:
    place = care.settings.runs / job
    place.mkdir(parents=True, exist_ok=True)
    chores = Chores(place)
    chores.add(Chore(kind=kind, epoch=epoch, box="box-a", result={"repo": "you/it"}, **more))
    return chores


def only(chores: Chores) -> Chore:
    (chore,) = chores.read()
    return chore


def test_every_kind_is_there_and_has_its_field_in_the_record() -> None:
    assert all(callable(kind.load()) for kind in KINDS.values())
    assert {kind.field for kind in KINDS.values()} <= set(Record.__dataclass_fields__)


def test_a_chore_of_a_run_that_ended_is_done_and_told(care: Tended, hands: Hands, store: Store) -> None:
    job = hands.submit()
    chores = left(care, job, epoch=succeeded(hands, job))
    care.tend()
    assert store.get(job).push == {"state": "done", "detail": "done", "tries": 0, "repo": "you/it", "url": "u"}
    care.tend()
    assert (TRIED, only(chores).state) == ([job], DONE)


def test_it_waits_for_the_end_to_be_told(care: Tended, hands: Hands, store: Store) -> None:
    job = hands.submit()
    left(care, job, epoch=hands.run(job))
    care.tend()
    assert TRIED == [] and store.get(job).push == {}


def test_one_of_a_run_that_another_box_ended_is_dropped(care: Tended, hands: Hands, store: Store) -> None:
    job = hands.submit()
    hands.run(job)
    hands.let_lease_run_out(job)
    assert store.sweep() == [job]
    chores = left(care, job, epoch=1)
    assert succeeded(hands, job, "box-b") == 2
    care.tend()
    assert TRIED == [] and chores.read() == [] and store.get(job).push == {}


def test_what_failed_rests_longer_each_time_and_is_told(care: Tended, hands: Hands, store: Store) -> None:
    job = hands.submit()
    left(care, job, epoch=succeeded(hands, job))
    for tries in (1, 2, 3):
        NEXT.append(fails(Later("the Hub is away")))
        care.tend()
        told = store.get(job).push
        assert (told["state"], told["detail"], told["tries"]) == ("pending", "the Hub is away", tries)
        care.now += rest_seconds(tries) - 1
        care.tend()
        assert len(TRIED) == tries, "it rests"
        care.now += 2
    care.tend()
    assert store.get(job).push["state"] == "done"


def test_rests() -> None:
    assert [rest_seconds(n) for n in (1, 2, 3)] == [FIRST_REST_SECONDS * n for n in (1, 2, 4)]
    assert rest_seconds(1, asked=300) == 300
    assert rest_seconds(1, asked=9e9) == rest_seconds(10**6) == rest_seconds(1, slowly=True) == LONGEST_REST_SECONDS


def test_a_clock_that_was_set_back_keeps_it_from_nothing(care: Tended, hands: Hands) -> None:
    job = hands.submit()
    left(care, job, epoch=succeeded(hands, job), next_at=care.now + 10 * LONGEST_REST_SECONDS)
    care.tend()
    assert [job] == TRIED


def test_its_users_wish_tries_it_at_once_also_what_was_given_up(care: Tended, hands: Hands, store: Store) -> None:
    job = hands.submit()
    chores = left(care, job, epoch=succeeded(hands, job))
    NEXT.append(fails(Never("the checkpoint is gone")))
    care.tend()
    care.now += 10 * LONGEST_REST_SECONDS
    care.tend()
    assert (len(TRIED), only(chores).state, store.get(job).push["state"]) == (1, FAILED, "failed")
    store.retry(job, text="tried again")
    care.tend()
    assert (len(TRIED), store.get(job).push["state"]) == (2, "done")
    assert store.get(job).history[-1].text == "tried again"
    # Heeded once.
    chores.change(only(chores), state=PENDING, next_at=care.now + 5)
    care.tend()
    assert len(TRIED) == 2


def test_a_fault_of_ours_ends_no_aftercare(care: Tended, hands: Hands, store: Store) -> None:
    bad, good = hands.submit(), hands.submit()
    for job in (bad, good):
        left(care, job, epoch=succeeded(hands, job))
    first = min(bad, good)
    NEXT.append(fails(ZeroDivisionError("secret")))
    care.tend()
    care.tend()
    assert store.get(first).push["state"] == "pending"
    assert store.get(first).push["detail"] == "it broke off: ZeroDivisionError (see the worker's log)"
    assert store.get(max(bad, good)).push["state"] == "done"


def test_two_of_a_kind_come_one_after_the_other(care: Tended, hands: Hands) -> None:
    jobs = [hands.submit(), hands.submit()]
    for job in jobs:
        left(care, job, epoch=succeeded(hands, job))
    inside, go = threading.Event(), threading.Event()

    def wait(desk: Desk) -> Did:
        inside.set()
        go.wait(20)
        return Did(detail="done")

    NEXT.append(wait)
    care.round()
    assert inside.wait(20)
    care.round()
    assert len(TRIED) == 1
    go.set()
    care.tend()
    care.tend()
    assert sorted(TRIED) == sorted(jobs)


def test_one_that_ends_while_it_is_looked_at_is_not_begun_anew(
    care: Tended, hands: Hands, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = hands.submit()
    left(care, job, epoch=succeeded(hands, job))
    go, get = threading.Event(), store.get

    def wait(desk: Desk) -> Did:
        go.wait(20)
        return Did(detail="done")

    def slow(job_id: str) -> Record:
        go.set()
        join_tries()
        return get(job_id)

    NEXT.append(wait)
    care.round()
    monkeypatch.setattr(store, "get", slow)
    care.tend()
    assert [job] == TRIED


def test_a_box_speaks_for_its_own_part_also_while_the_job_is_elsewhere(
    care: Tended, hands: Hands, store: Store
) -> None:
    job = hands.submit()
    hands.run(job)
    hands.let_lease_run_out(job)
    assert store.sweep() == [job]
    hands.run(job, "box-b")
    left(care, job, kind="wandb", epoch=1)
    store.after(job, 2, box="box-b", field="wandb_sync", told={"state": "pending"}, own=True)
    care.tend()
    told = store.get(job).wandb_sync
    assert (told["box-a"]["state"], told["box-b"]) == ("done", {"state": "pending"})


def test_only_the_box_of_its_end_writes_what_is_of_the_whole_job(hands: Hands, store: Store) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    with pytest.raises(ServerOlder):
        store.after(job, epoch, box="box-a", field="push", told={})
    record = store.get(job)
    assert store.move(job, ended(record, epoch, Reason.FINISHED, "done"), box="box-a")
    assert store.after(job, epoch, box="box-a", field="push", told={"state": "done"}, wandb_url="x") == 0
    for other, box in ((epoch, "box-b"), (epoch - 1, "box-a")):
        with pytest.raises(NotOwner):
            store.after(job, other, box=box, field="push", told={"state": "failed"})
    with pytest.raises(ServerOlder):
        store.after(job, epoch + 1, box="box-a", field="push", told={})
    known = store.get(job)
    assert (known.push, known.wandb_url) == ({"state": "done"}, "x")


def test_an_own_word_does_not_change_what_is_known_besides(hands: Hands, store: Store) -> None:
    """A link that a run has is not another's to change."""
    job = hands.submit(wandb_url="first")
    hands.run(job)
    store.after(job, 1, box="box-b", field="wandb_sync", told={"state": "done"}, own=True, wandb_url="second")
    assert store.get(job).wandb_url == "first"


def test_what_lies_on_the_disk_is_read_whatever_is_in_it(tmp_path: Path) -> None:
    chores = Chores(tmp_path)
    assert chores.read() == []
    for text in ("", "{", "[]", '{"chores": [1]}', '{"chores": [{"kind": "push"}]}'):
        chores.file.write_text(text)
        assert chores.read() == [], text
    chores.file.write_text('{"chores": [{"kind": "push", "epoch": 1, "box": "b", "of_a_newer_pi0q": 1}]}')
    assert only(chores).kind == "push"


def test_a_newer_chore_of_its_kind_takes_its_place(tmp_path: Path) -> None:
    chores = Chores(tmp_path)
    first, second = (Chore(kind="push", epoch=epoch, box="b") for epoch in (1, 2))
    chores.add(first)
    chores.add(Chore(kind="wandb", epoch=1, box="b"))
    chores.add(second)
    assert chores.change(first, state=DONE) is None
    chores.drop(first)
    assert [(one.kind, one.epoch, one.state) for one in chores.open()] == [("push", 2, PENDING), ("wandb", 1, PENDING)]

"""Wishes for a save, and pins: one script each, heard by whoever owns the job."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pi0q.jobs.errors import NotFound
from pi0q.jobs.record import Saved
from pi0q.jobs.state import State
from pi0q.queue.store import Store, heard
from pi0q.queue.wishes import Wishes

from ..conftest import Hands

SAVED = Saved(step=120, path="/data/000120", manifest="ab", bytes=7)


def hear(store: Store, job: str, epoch: int, **fields: object) -> Wishes:
    return store.report(job, epoch, lease_seconds=600.0, fields=fields)


def test_a_wish_is_heard_until_it_is_answered(hands: Hands, store: Store) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    assert hear(store, job, epoch, step=119) == Wishes()
    with store.subscribe(f"wish:{job}") as ear:
        state, wish = store.save(job, text="ada asks for a checkpoint")
        assert state is State.RUNNING and list(heard(ear, 5.0)) == ["save"]
    record = store.get(job)
    assert (record.save_wish, record.save_served, record.save_at) == (wish, 0, 119)
    assert record.history[-1].text == "ada asks for a checkpoint"
    assert [hear(store, job, epoch).save for _ in range(2)] == [wish, wish]
    assert hear(store, job, epoch, checkpoint=SAVED, save_served=wish, save_step=120) == Wishes()


def test_who_asks_while_one_is_open_gets_the_same(hands: Hands, store: Store) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    _, wish = store.save(job, text="ada asks")
    assert store.save(job, text="bob asks") == (State.RUNNING, wish)
    assert [event.text for event in store.get(job).history if "asks" in event.text] == ["ada asks"]
    hear(store, job, epoch, save_served=wish)
    assert store.save(job, text="bob asks again")[1] > wish


def test_an_answer_that_is_told_again_with_all_fields_answers_nothing_new(hands: Hands, store: Store) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    _, first = store.save(job, text="")
    hear(store, job, epoch, save_served=first)
    _, second = store.save(job, text="")
    assert hear(store, job, epoch, save_served=first).save == second


@pytest.mark.parametrize("state", ["queued", "claimed", "ended"])
def test_a_job_without_a_trainer_has_nothing_to_save(hands: Hands, store: Store, state: str) -> None:
    job = hands.submit()
    if state == "claimed":
        hands.claim(job)
    elif state == "ended":
        store.cancel(job, text="")
    known, wish = store.save(job, text="")
    assert wish == 0 and known is store.get(job).state
    assert store.get(job).save_wish == 0
    with pytest.raises(NotFound):
        store.save("nobody", text="")


def test_a_wish_outlives_its_owner(hands: Hands, store: Store) -> None:
    job = hands.submit()
    hands.run(job)
    _, wish = store.save(job, text="")
    hands.let_lease_run_out(job)
    store.client.delete(store.prefix + "swept")
    store.sweep()
    assert hear(store, job, hands.run(job, "box-b")).save == wish


def test_a_server_with_older_data_is_asked_for_the_same_again(hands: Hands, store: Store) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    before: dict[Any, Any] = dict(store.raw(job))
    _, wish = store.save(job, text="")
    store.client.delete(store.prefix + f"job:{job}")
    store.client.hset(store.prefix + f"job:{job}", mapping=before)
    assert store.save(job, text="", at_least=wish) == (State.RUNNING, wish)
    hear(store, job, epoch, save_served=wish)
    assert store.save(job, text="", at_least=wish) == (State.RUNNING, wish)
    assert hear(store, job, epoch).save == 0, "what was answered is not wished again"


def test_an_old_wish_that_was_answered_comes_back_and_is_none(hands: Hands, store: Store) -> None:
    """The server has the wish of before, the runner's ledger its answer."""
    job = hands.submit()
    epoch = hands.run(job)
    _, wish = store.save(job, text="")
    assert hear(store, job, epoch, save_served=wish + 5).save == 0


def test_the_ledger_puts_the_answer_right_and_leaves_a_newer_wish(hands: Hands, store: Store) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    _, first = store.save(job, text="")
    ledger = {**store.raw(job), "save_served": str(first)}
    raw: dict[Any, Any] = {**store.raw(job), "epoch": str(epoch - 1), "save_wish": str(first + 9), "save_served": ""}
    store.client.hset(store.prefix + f"job:{job}", mapping=raw)
    known = {"box": "box-a", "boot": "1", "lease_seconds": 600.0}
    assert store.restore(job, epoch, **known, fields=ledger, text="", runs=True)  # type: ignore[arg-type]
    record = store.get(job)
    assert (record.save_served, record.save_wish) == (first, first + 9)


# -- pins -------------------------------------------------------------------------------------------


def test_a_pin_is_heard_and_ended(hands: Hands, store: Store) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    assert store.keep(job, 200, on=True) == (200,)
    assert store.keep(job, 100, on=True) == (100, 200) == store.keep(job, 100, on=True)
    assert hear(store, job, epoch).kept == (100, 200) == store.get(job).kept_steps
    assert store.keep(job, 100, on=False) == (200,)
    assert store.keep(job, 200, on=False) == () == hear(store, job, epoch).kept
    assert json.loads(json.dumps(store.get(job).to_json()["kept_steps"])) == []
    with pytest.raises(NotFound):
        store.keep("nobody", 1, on=True)


def test_the_checkpoint_that_answers_is_pinned_once(hands: Hands, store: Store) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    _, wish = store.save(job, text="", pin=True)
    assert hear(store, job, epoch) == Wishes(save=wish, pin=True)
    assert hear(store, job, epoch, save_served=wish, save_step=120).kept == (120,)
    store.keep(job, 120, on=False)
    # All fields are told again now and then.
    assert hear(store, job, epoch, save_served=wish, save_step=120).kept == ()


def test_a_wish_that_could_not_be_fulfilled_pins_nothing(hands: Hands, store: Store) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    _, wish = store.save(job, text="", pin=True)
    assert hear(store, job, epoch, save_served=wish, save_step=None, save_detail="can't").kept == ()
    assert store.get(job).save_detail == "can't"

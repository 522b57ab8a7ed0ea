"""Wishes for a save, and pins: one script each, heard by whoever owns the job."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pi0q.jobs.errors import NotFound
from pi0q.jobs.record import Saved
from pi0q.jobs.state import State
from pi0q.queue.store import Store, heard
from pi0q.queue.store_types import Claimant, UserRequests
from tests.conftest import JobDriver

SAVED = Saved(step=120, path="/data/000120", manifest="ab" * 32, bytes=7)


def hear(store: Store, job: str, epoch: int, **fields: object) -> UserRequests:
    return store.report(job, epoch, lease_seconds=600.0, fields=fields)


def test_a_wish_is_heard_until_it_is_answered(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    assert hear(store, job, epoch, step=119) == UserRequests()
    with store.subscribe(f"wish:{job}") as ear:
        state, wish = store.request_checkpoint(job, text="ada asks for a checkpoint")
        assert state is State.RUNNING and list(heard(ear, 5.0)) == ["save"]
    record = store.get(job)
    assert (record.save_wish, record.save_served, record.save_at) == (wish, 0, 119)
    assert record.history[-1].text == "ada asks for a checkpoint"
    assert [hear(store, job, epoch).save for _ in range(2)] == [wish, wish]
    assert hear(store, job, epoch, checkpoint=SAVED, save_served=wish, save_step=120) == UserRequests()


def test_who_asks_while_one_is_open_gets_the_same(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    _, wish = store.request_checkpoint(job, text="ada asks")
    assert store.request_checkpoint(job, text="bob asks") == (State.RUNNING, wish)
    assert [event.text for event in store.get(job).history if "asks" in event.text] == ["ada asks"]
    hear(store, job, epoch, save_served=wish)
    assert store.request_checkpoint(job, text="bob asks again")[1] > wish


def test_an_answer_that_is_told_again_with_all_fields_answers_nothing_new(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    _, first = store.request_checkpoint(job, text="")
    hear(store, job, epoch, save_served=first)
    _, second = store.request_checkpoint(job, text="")
    assert hear(store, job, epoch, save_served=first).save == second


@pytest.mark.parametrize("state", ["queued", "claimed", "ended"])
def test_a_job_without_a_trainer_has_nothing_to_save(driver: JobDriver, store: Store, state: str) -> None:
    job = driver.submit()
    if state == "claimed":
        driver.claim(job)
    elif state == "ended":
        store.cancel(job, text="")
    known, wish = store.request_checkpoint(job, text="")
    assert wish == 0 and known is store.get(job).state
    assert store.get(job).save_wish == 0
    with pytest.raises(NotFound):
        store.request_checkpoint("nobody", text="")


def test_a_wish_outlives_its_owner(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    driver.run(job)
    _, wish = store.request_checkpoint(job, text="")
    driver.let_lease_run_out(job)
    store.client.delete(store.prefix + "swept")
    store.sweep()
    assert hear(store, job, driver.run(job, "box-b")).save == wish


def test_a_server_with_older_data_is_asked_for_the_same_again(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    before: dict[Any, Any] = dict(store.raw(job))
    _, wish = store.request_checkpoint(job, text="")
    store.client.delete(store.prefix + f"job:{job}")
    store.client.hset(store.prefix + f"job:{job}", mapping=before)
    assert store.request_checkpoint(job, text="", at_least=wish) == (State.RUNNING, wish)
    hear(store, job, epoch, save_served=wish)
    assert store.request_checkpoint(job, text="", at_least=wish) == (State.RUNNING, wish)
    assert hear(store, job, epoch).save == 0, "what was answered is not wished again"


def test_an_old_wish_that_was_answered_comes_back_and_is_none(driver: JobDriver, store: Store) -> None:
    """The server has the wish of before, the runner's ledger its answer."""
    job = driver.submit()
    epoch = driver.run(job)
    _, wish = store.request_checkpoint(job, text="")
    assert hear(store, job, epoch, save_served=wish + 5).save == 0


def test_the_ledger_puts_the_answer_right_and_leaves_a_newer_wish(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    _, first = store.request_checkpoint(job, text="")
    ledger = {**store.raw(job), "save_served": str(first)}
    raw: dict[Any, Any] = {**store.raw(job), "epoch": str(epoch - 1), "save_wish": str(first + 9), "save_served": ""}
    store.client.hset(store.prefix + f"job:{job}", mapping=raw)
    claimant = Claimant(box="box-a", boot="1", lease_seconds=600.0)
    assert store.restore(job, epoch, claimant, fields=ledger, text="", runs=True)
    record = store.get(job)
    assert (record.save_served, record.save_wish) == (first, first + 9)


# -- pins -------------------------------------------------------------------------------------------


def test_a_pin_is_heard_and_ended(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    assert store.pin(job, 200, on=True) == (200,)
    assert store.pin(job, 100, on=True) == (100, 200) == store.pin(job, 100, on=True)
    assert hear(store, job, epoch).pinned_steps == (100, 200) == store.get(job).pinned_steps
    assert store.pin(job, 100, on=False) == (200,)
    assert store.pin(job, 200, on=False) == () == hear(store, job, epoch).pinned_steps
    assert json.loads(json.dumps(store.get(job).to_json()["kept_steps"])) == []
    with pytest.raises(NotFound):
        store.pin("nobody", 1, on=True)


def test_the_checkpoint_that_answers_is_pinned_once(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    _, wish = store.request_checkpoint(job, text="", pin=True)
    assert hear(store, job, epoch) == UserRequests(save=wish, pin=True)
    assert hear(store, job, epoch, save_served=wish, save_step=120).pinned_steps == (120,)
    store.pin(job, 120, on=False)
    # All fields are told again now and then.
    assert hear(store, job, epoch, save_served=wish, save_step=120).pinned_steps == ()


def test_a_wish_that_could_not_be_fulfilled_pins_nothing(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    _, wish = store.request_checkpoint(job, text="", pin=True)
    assert hear(store, job, epoch, save_served=wish, save_step=None, save_detail="can't").pinned_steps == ()
    assert store.get(job).save_detail == "can't"

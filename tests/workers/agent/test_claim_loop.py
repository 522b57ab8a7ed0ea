"""The claims of a box on a real queue: what it takes, and what it says of the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pi0q.jobs.schema import flags
from pi0q.jobs.state import State
from pi0q.jobs.transition import cancelled
from pi0q.queue.refusals import Problem
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.agent.box import Box
from pi0q.workers.trainer.interpreter import NoTrainer, TrainerPython
from tests.conftest import JobDriver
from tests.workers.conftest import a_box, change_record, own_queue, refused, submit


def test_claims_up_to_its_slots_and_promises_what_it_claims(box: Box, store: Store) -> None:
    jobs = [submit(store, gib=20) for _ in range(3)]
    box.claims.claim()
    assert [store.get(job).state for job in jobs] == [State.CLAIMED, State.CLAIMED, State.QUEUED]
    assert own_queue(box) == [jobs[1], jobs[0]]
    cards = [f"gpu:FAKE-box-a-{number}" for number in (0, 1)]
    assert [store.promises(cards)[card][1] for card in cards] == [{jobs[0]: 20 * 1024}, {jobs[1]: 20 * 1024}]
    assert refused(box, jobs[2]) == f"GPUs: card 0 is taken by job {jobs[0]}, card 1 is taken by job {jobs[1]}"


def test_eight_small_jobs_get_one_card_each(chosen: Settings, store: Store, box: Box) -> None:
    large = a_box(chosen, store, slots=8)
    jobs = [submit(store, gib=1) for _ in range(8)]
    large.claims.claim()
    assert {card for job in jobs for card in store.get(job).gpus} == {f"FAKE-box-a-{number}" for number in range(8)}


def test_jobs_that_share_come_onto_the_only_card_and_no_other_does(chosen: Settings, store: Store, box: Box) -> None:
    small = a_box(chosen, store, slots=1)
    first, alone, second = (
        submit(store, 30, more="share: true"),
        submit(store, 1),
        submit(store, 30, more="share: true"),
    )
    small.claims.claim()
    assert [store.get(job).state for job in (first, alone, second)] == [State.CLAIMED, State.QUEUED, State.CLAIMED]
    assert f"card 0 is taken by job {min(first, second)}" in refused(small, alone)
    third = submit(store, 30, more="share: true")
    small.claims.claim()
    assert store.get(third).state is State.QUEUED
    assert "the best has 20.0 GiB of 80.0 GiB free" in refused(small, third)


def test_jobs_that_an_older_version_put_on_one_card_keep_it_until_the_last_ends(
    chosen: Settings, store: Store, box: Box, driver: JobDriver
) -> None:
    small = a_box(chosen, store, slots=1)
    old = [submit(store, 10) for _ in range(2)]
    epochs = [driver.claim(job, promises=[("gpu:FAKE-box-a-0", changes, 10 * 1024)]) for changes, job in enumerate(old)]
    new = submit(store, 10)
    small.claims.claim()
    assert store.get(new).state is State.QUEUED
    for job, epoch in zip(old, epochs, strict=True):
        assert store.move(job, cancelled(epoch, text="cancelled"))
        small.claims.claim()
    assert store.get(new).state is State.CLAIMED


def test_history_tells_the_measurements(box: Box, store: Store) -> None:
    job = submit(store)
    box.claims.claim()
    text = store.get(job).history[-1].text
    assert text.startswith("measured simulated with 80.0 of 80.0 GiB free (simulated); disk ")


def test_a_promise_made_meanwhile_by_another_is_seen(
    chosen: Settings, store: Store, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between measuring and claiming someone else is promised 60 GiB of the same card."""
    box = a_box(chosen, store, slots=1)
    job, promises = submit(store, gib=30), store.promises

    def slow(resources: list[str]) -> Any:
        seen = promises(resources)
        if not store.client.exists(f"{store.prefix}promises:{resources[0]}"):
            store.client.hset(f"{store.prefix}promises:{resources[0]}", mapping={"other": 60 * 1024, "#": 1})
        return seen

    monkeypatch.setattr(store, "promises", slow)
    box.claims.claim()
    assert store.get(job).state is State.QUEUED
    assert refused(box, job) == "GPUs: card 0 is taken by job other"


@pytest.mark.parametrize("version", ["0.7.0", "0.3.3"])
def test_a_lerobot_whose_flags_nobody_knows_claims_nothing(box: Box, store: Store, version: str) -> None:
    job = submit(store)
    box.context.trainer = TrainerPython(python="/bin/false", lerobot=version)

    box.claims.claim()

    assert store.get(job).state is State.QUEUED
    assert refused(box, job) == f"trainer: {flags.unsupported(version)}"


def test_a_checkpoint_of_another_lerobot_is_left_to_a_box_that_reads_it(box: Box, store: Store) -> None:
    job = submit(store)
    saved = {"step": 5, "path": "/runs/x/000005", "manifest": "ab" * 32, "bytes": 1}
    change_record(store, job, checkpoint=json.dumps(saved), lerobot="0.4.4")
    box.claims.claim()
    assert store.get(job).state is State.QUEUED
    assert refused(box, job) == "LeRobot 0.6.1 here can't read the configuration in its checkpoint, which 0.4.4 made"
    change_record(store, job, lerobot="0.6.0")
    box.claims.claim()
    assert store.get(job).state is State.CLAIMED


def test_a_spec_written_past_submit_never_reaches_a_command_line(box: Box, store: Store, driver: JobDriver) -> None:
    job = driver.submit(spec={"name": "x", "train": {"output_dir": "/etc"}}, needs={"gpus": 0, "disk_mib": 1})
    box.claims.claim()
    assert store.get(job).state is State.QUEUED
    assert refused(box, job).startswith("its spec is not valid: ")


def test_without_a_trainer_it_claims_nothing(box: Box, store: Store) -> None:
    box.context.trainer = NoTrainer(why="no LeRobot found")
    job = submit(store)
    box.claims.claim()
    assert box.claims.refusals == {job: [Problem(text="trainer: no LeRobot found")]}


def test_a_job_behind_many_damaged_records_of_higher_priority_is_claimed(box: Box, store: Store) -> None:
    for damage in ("{", "[]", "null", '{"train": 1}') * 15:
        change_record(store, submit(store, gib=1, priority="urgent"), spec=damage)
    behind = submit(store)

    box.claims.claim()

    assert store.get(behind).state is State.CLAIMED

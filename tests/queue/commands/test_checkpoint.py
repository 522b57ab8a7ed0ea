"""`pi0q checkpoint` as its user sees it, on a real queue; with real boxes it is told in tests/end_to_end."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from typing import Any

import pytest

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.state import State
from pi0q.queue.commands import checkpoint as verb
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver, Start, WaitFor

ASKED = "saves at the end of its next step and goes on."


def saved(step: int) -> Saved:
    return Saved(step=step, path=f"/data/{step:06}", manifest="ab" * 32, bytes=22_000_000_000)


def answered(store: Store, job: str, **more: Any) -> Mapping[str, Any]:
    """What its runner reports once the wish is served at step 120."""
    wish = store.get(job).save_wish
    return {"save_served": wish, "save_step": 120, "checkpoint": saved(120), "save_seconds": 28.6, **more}


@pytest.fixture
def job(driver: JobDriver) -> tuple[str, int]:
    """A job that trains, and its epoch."""
    job = driver.submit()
    epoch = driver.run(job)
    driver.report(job, epoch, step=119, save_able="yes")
    return job, epoch


def test_it_waits_until_the_checkpoint_is_verified(
    start: Start, store: Store, driver: JobDriver, job: tuple[str, int]
) -> None:
    waiting = start("checkpoint", job[0], "--pin")
    waiting.until(ASKED)
    driver.report(*job, phase="compiling")
    waiting.until("compiling …")
    driver.report(*job, **answered(store, job[0]))
    waiting.until("Step 120 is saved and verified, 22000 MB, pinned; the training stood still for 28s")
    waiting.until("box-a: /data/000120")
    assert waiting.end() == 0


def test_two_who_ask_share_one_save(start: Start, store: Store, driver: JobDriver, job: tuple[str, int]) -> None:
    first = start("checkpoint", job[0])
    first.until(ASKED)
    second = start("checkpoint", job[0])
    assert "It was requested before; this is the same save." in second.until(ASKED)
    driver.report(*job, **answered(store, job[0]))
    assert (first.end(), second.end()) == (0, 0)


def test_no_wait_comes_back_at_once(call: Command, store: Store, job: tuple[str, int]) -> None:
    said = call("checkpoint", job[0], "--no-wait", "--json")
    told = json.loads(said.stdout)
    assert (said.returncode, told["saved"], told["state"]) == (0, False, "running")
    assert store.get(job[0]).save_wish > 0


def test_ctrl_c_only_stops_waiting(start: Start, store: Store, job: tuple[str, int]) -> None:
    waiting = start("checkpoint", job[0])
    waiting.until(ASKED)
    assert waiting.end(signal.SIGINT) == 130
    assert store.get(job[0]).save_wish > 0


def test_what_could_not_be_saved_is_told(start: Start, store: Store, driver: JobDriver, job: tuple[str, int]) -> None:
    waiting = start("checkpoint", job[0])
    waiting.until(ASKED)
    driver.report(*job, **answered(store, job[0], save_detail="no space left", save_step=None))
    waiting.until("no space left")
    assert waiting.end() == 1


@pytest.mark.parametrize(("reason", "code"), [(Reason.FINISHED, 0), (Reason.NON_FINITE_LOSS, 1)])
def test_a_job_that_ends_meanwhile(
    start: Start, store: Store, driver: JobDriver, job: tuple[str, int], reason: Reason, code: int
) -> None:
    """One that succeeds saves its last step."""
    waiting = start("checkpoint", job[0])
    waiting.until(ASKED)
    if code == 0:
        driver.report(*job, checkpoint=saved(50_000))
    store.move(job[0], transition.ended(store.get(job[0]), job[1], reason, "it ended"))
    waiting.until("meanwhile")
    assert waiting.end() == code


def test_one_that_is_handed_back_has_saved(start: Start, store: Store, driver: JobDriver, job: tuple[str, int]) -> None:
    waiting = start("checkpoint", job[0])
    waiting.until(ASKED)
    driver.report(*job, checkpoint=saved(130))
    store.move(job[0], transition.ended(store.get(job[0]), job[1], Reason.STOPPED_BY_BOX, "drained"))
    waiting.until("was handed back meanwhile (drained). Step 130 is saved")
    assert waiting.end() == 0


def test_after_an_interruption_the_next_run_answers(
    start: Start, store: Store, driver: JobDriver, job: tuple[str, int]
) -> None:
    waiting = start("checkpoint", job[0])
    waiting.until(ASKED)
    store.move(job[0], transition.ended(store.get(job[0]), job[1], Reason.RUNNER_LOST, "its runner died"))
    waiting.until("is queued (its runner died); it saves when it trains again")
    epoch = driver.run(job[0], "box-b")
    driver.report(job[0], epoch, **answered(store, job[0]))
    waiting.until("Step 120 is saved")
    assert waiting.end() == 0


def test_a_server_with_older_data_is_asked_again(
    start: Start, store: Store, driver: JobDriver, job: tuple[str, int], wait_for: WaitFor
) -> None:
    before: dict[Any, Any] = dict(store.raw(job[0]))
    waiting = start("checkpoint", job[0])
    waiting.until(ASKED)
    wish = store.get(job[0]).save_wish
    key = f"{store.prefix}job:{job[0]}"
    pipe = store.client.pipeline(transaction=True)
    pipe.delete(key)
    pipe.hset(key, mapping=before)
    pipe.publish(f"{store.prefix}changes", job[0])
    pipe.execute()
    wait_for(lambda: store.get(job[0]).save_wish == wish)
    driver.report(*job, **answered(store, job[0]))
    assert waiting.end() == 0


def test_a_box_with_an_older_pi0q_is_told(call: Command, driver: JobDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    job = driver.submit()
    driver.run(job)
    monkeypatch.setattr(verb, "OLD_SECONDS", 0.0)
    said = call("checkpoint", job)
    assert said.returncode == 1 and "box-a runs an older pi0q, which can't save on demand" in said.stderr


def test_words_for_each_state_without_a_trainer(call: Command, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    assert "is queued and does not train" in call("checkpoint", job).stderr
    epoch = driver.claim(job)
    assert "was just claimed by box-a" in call("checkpoint", job).stderr
    store.move(job, transition.preparing(epoch, attempt=1, run_dir="/d"))
    assert "is being prepared on box-a (preparing)" in call("checkpoint", job).stderr
    driver.report(job, epoch, checkpoint=saved(7))
    store.cancel(job, text="x")
    store.move(job, transition.cancelled(epoch, text="x"))
    over = call("checkpoint", job)
    assert over.returncode == 1
    assert over.stderr == (
        "grab_box was cancelled: there is nothing to save any more. "
        "Its newest verified checkpoint is step 7 on box-a.\n"
    )


def test_a_pin_without_a_trainer_is_that_of_the_newest_and_can_be_ended(
    call: Command, store: Store, driver: JobDriver, job: tuple[str, int]
) -> None:
    driver.report(*job, checkpoint=saved(100))
    store.move(job[0], transition.ended(store.get(job[0]), job[1], Reason.STOPPED_BY_BOX, "drained"))
    assert store.get(job[0]).state is State.QUEUED
    said = call("checkpoint", job[0], "--pin")
    assert (said.returncode, store.get(job[0]).pinned_steps) == (0, (100,))
    assert "Pinned the latest verified checkpoint (step 100)" in said.stdout
    wrong = call("checkpoint", job[0], "--unpin", "7")
    assert wrong.returncode == 2 and "is not pinned; pinned are: 100." in wrong.stderr
    assert call("checkpoint", job[0], "--unpin", "100", "--pin").returncode == 2
    assert json.loads(call("checkpoint", job[0], "--unpin", "100", "--json").stdout)["kept_steps"] == []

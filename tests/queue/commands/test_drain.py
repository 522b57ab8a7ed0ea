"""`pi0q drain`: what a person reads who is about to switch a box off, and what the box and its jobs are told."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver, Start


def box_a(store: Store, **fields: Any) -> None:
    said = {"status": "ready", "slots": 2, "running": 0, "gpus": "[]", **fields}
    assert store.announce_box("box-a", "id-a", said)


def mode(store: Store) -> str:
    (known,) = store.boxes()
    return known.get("drain", "")


@pytest.fixture(autouse=True)
def box(store: Store) -> None:
    box_a(store)


def test_an_idle_box_can_be_switched_off_at_once(call: Command, store: Store) -> None:
    said = call("drain", "box-a")
    assert (said.returncode, said.stdout) == (
        0,
        "box-a takes no new jobs from now on.\n"
        "Nothing runs there: it can be switched off.\n"
        "To let it take jobs again: pi0q drain box-a --undo\n",
    )
    assert mode(store) == "drain"


def test_the_jobs_there_go_on_and_the_way_to_stop_them_is_told(call: Command, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    driver.report(job, epoch, step=1200, eta_seconds=7200)
    said = call("drain", "box-a").stdout
    assert "1 job there goes on to the end:" in said
    assert f"  {job}  grab_box  running  1200/50000 2%  2h left  nothing saved yet\n" in said
    assert "pi0q drain box-a --now" in said
    assert driver.report(job, epoch) == ""


def test_now_asks_each_job_to_stop_and_says_where_its_checkpoint_stays(
    call: Command, store: Store, driver: JobDriver
) -> None:
    owned = {job: driver.run(job) for job in (driver.submit(), driver.submit())}
    said = call("drain", "box-a", "--now").stdout
    assert "2 jobs there save, stop and go back into the queue:" in said
    assert "Their checkpoints are on box-a only. Other boxes wait 10m for it, then restart them from step 0." in said
    assert [driver.report(*job) for job in owned.items()] == ["stop", "stop"]
    assert (
        store.get(next(iter(owned)))
        .history[-1]
        .text.endswith("drains box-a: the job saves and goes back into the queue")
    )
    # Said again without --now it is still meant.
    assert "save, stop" in call("drain", "box-a").stdout and mode(store) == "now"


def test_it_is_undone(call: Command, store: Store, driver: JobDriver) -> None:
    assert call("drain", "box-a", "--undo").stdout == "box-a was not drained; nothing was changed.\n"
    driver.run(driver.submit())
    call("drain", "box-a", "--now")
    said = call("drain", "box-a", "--undo").stdout
    assert said == "box-a takes jobs again, also 1 job that it was told to save and is still saving.\n"
    assert mode(store) == ""
    call("drain", "box-a")
    assert json.loads(call("drain", "box-a", "--undo", "--json").stdout)["drain"] == ""


def test_an_unknown_box_is_told_with_those_there_are(call: Command, store: Store) -> None:
    said = call("drain", "box-b")
    assert (said.returncode, said.stdout) == (3, "")
    assert said.stderr == "pi0q: There is no box box-b; nothing was changed. Known are: box-a.\n"


def test_contradictions_are_refused(call: Command, store: Store) -> None:
    for option in ("--now", "--wait"):
        said = call("drain", "box-a", "--undo", option)
        assert said.returncode == 2 and "Nothing was changed" in said.stderr
    assert mode(store) == ""


def test_a_box_that_is_away_learns_of_it_when_it_is_back(call: Command, store: Store) -> None:
    store.client.zincrby(f"{store.prefix}boxes", -3_700_000, "box-a")
    assert "Last heartbeat 1h 1m ago; the drain takes effect when it reconnects." in call("drain", "box-a").stdout


def test_as_json(call: Command, driver: JobDriver) -> None:
    job = driver.submit()
    driver.run(job)
    told = json.loads(call("drain", "box-a", "--now", "--json").stdout)
    assert told["seen_seconds"] < 60
    assert told | {"seen_seconds": 0} == {
        "box": "box-a",
        "drain": "now",
        "seen_seconds": 0,
        "jobs": [{"id": job, "name": "grab_box", "state": "running", "step": None, "wish": "stop"}],
    }


def test_wait_comes_back_once_nothing_runs_there(start: Start, store: Store, driver: JobDriver) -> None:
    stopped, done = driver.submit("one"), driver.submit("two")
    epochs = driver.run(stopped), driver.run(done)
    waiting = start("drain", "box-a", "--now", "--wait")
    waiting.until("--undo")
    store.move(done, transition.ended(store.get(done), epochs[1], Reason.FINISHED, "reached step 5"))
    waiting.until(f"two {done} is succeeded.")
    driver.report(stopped, epochs[0], step=7)
    store.move(stopped, transition.ended(store.get(stopped), epochs[0], Reason.STOPPED_BY_BOX, "saved"))
    waiting.until(f"one {stopped} is queued at step 7.")
    waiting.until("Nothing runs on box-a any more: it can be switched off.")
    assert waiting.end() == 0


def test_ctrl_c_only_stops_waiting_and_a_script_does_not_go_on(start: Start, store: Store, driver: JobDriver) -> None:
    driver.run(driver.submit())
    waiting = start("drain", "box-a", "--wait")
    waiting.until("--undo")
    assert waiting.end(signal.SIGINT) == 130
    assert "Stopped waiting; box-a stays drained." in waiting.text
    assert mode(store) == "drain"


def test_who_waits_is_told_when_another_ends_the_drain(start: Start, store: Store, driver: JobDriver) -> None:
    driver.run(driver.submit())
    waiting = start("drain", "box-a", "--wait")
    waiting.until("--undo")
    store.drain("box-a", "", text="")
    waiting.until("Someone ended the drain of box-a; stopped waiting.")
    assert waiting.end() == 1


def test_the_list_of_boxes_shows_it(call: Command, store: Store) -> None:
    call("drain", "box-a")
    (shown,) = json.loads(call("boxes", "--json").stdout)
    assert shown["status"] == "draining", "it has not yet heard of it"
    box_a(store, status="drained", refusals='{"x": "the box is drained"}')
    line = call("boxes").stdout.splitlines()[1]
    assert "drained" in line.split() and "drained by " in line and "do not fit" not in line
    call("drain", "box-a", "--undo")
    box_a(store)
    assert "drained" not in call("boxes").stdout

"""One job all the way: from the YAML to a verified checkpoint, seen from every window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from pi0q.workers.checkpoints import local_store

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster) -> Box:
    return shared_cluster.box(slots=2)


@pytest.fixture(scope="module")
def job(shared_cluster: Cluster, box: Box) -> Record:
    """A job that has been done; every test looks at another side of it."""
    return shared_cluster.ends(shared_cluster.submit(steps=40, save_freq=10))


def test_its_history_tells_each_state_once(job: Record) -> None:
    assert [str(event.state) for event in job.history] == ["queued", "claimed", "preparing", "running", "succeeded"]
    assert [event.epoch for event in job.history] == [0, 1, 1, 1, 1]
    assert (job.attempt, str(job.reason), job.detail) == (1, "finished", "reached step 40")


def test_its_claim_says_what_was_measured(job: Record) -> None:
    assert "measured no GPU needed; disk " in job.history[1].text


def test_its_last_checkpoint_verifies_and_last_points_at_it(job: Record) -> None:
    assert job.checkpoint and job.checkpoint.step == 40
    assert local_store.newest(Path(job.checkpoint.path).parent) == job.checkpoint
    assert (Path(job.checkpoint.path).parent / "last").readlink() == Path("000040")


def test_two_checkpoints_are_kept(job: Record, box: Box) -> None:
    checkpoints = box.run_dir(job.id) / "output" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["000030", "000040", "last"]


def test_its_events_are_on_the_box(job: Record, box: Box) -> None:
    events = box.events(job.id)
    assert [event["event"] for event in events if event["event"] not in ("step", "saving", "saved")] == [
        "start",
        "wandb",
        "ready",
        "end",
    ]
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, 41))
    assert [event["step"] for event in events if event["event"] == "saved"] == [10, 20, 30, 40]


def test_its_numbers_are_the_last_steps(job: Record, box: Box) -> None:
    last = box.events(job.id, "step")[-1]
    assert (job.step, job.steps, job.loss, job.lr) == (40, 40, last["loss"], last["lr"])
    assert job.step_seconds and job.step_seconds >= 0.03
    assert job.eta_seconds == 0


def test_its_wandb_run_is_named_after_it(job: Record) -> None:
    assert job.wandb_run_id == f"pi0q-{job.id}"
    assert job.wandb_dir and Path(job.wandb_dir).is_dir() and f"pi0q-{job.id}" in job.wandb_dir


def test_show_tells_the_same(shared_cluster: Cluster, job: Record) -> None:
    shown = json.loads(shared_cluster.pi0q("show", job.id[:8], "--json").stdout)
    assert (shown["state"], shown["step"], shown["attempt"]) == ("succeeded", 40, 1)
    assert job.checkpoint and shown["checkpoint"] == vars(job.checkpoint)
    assert [event["state"] for event in shown["history"]] == [str(event.state) for event in job.history]


def test_ls_shows_it_in_one_line(shared_cluster: Cluster, job: Record) -> None:
    (line,) = [line for line in shared_cluster.pi0q("ls").stdout.splitlines() if job.id in line]
    assert line.split()[:5] == [job.id, "grab_box", "succeeded", "40/40", "100%"]
    assert "box-a" in line


def test_its_log_is_the_same_on_the_box_and_in_the_queue(shared_cluster: Cluster, job: Record, box: Box) -> None:
    shown = shared_cluster.pi0q("logs", job.id)
    assert shown.stdout.rstrip() == box.trainer_log(job.id).rstrip()
    assert "Start offline training on a fixed dataset" in shown.stdout
    assert "pi0q: finished: reached step 40" in shown.stdout
    assert f"{box.run_dir(job.id)}/trainer.log" in shown.stderr


def test_its_bar_is_one_line_in_the_log(job: Record, box: Box) -> None:
    assert box.trainer_log(job.id).count("Training: ") < 10


def test_its_trainer_got_what_it_needs_and_no_more(job: Record, box: Box) -> None:
    (life,) = box.trainers_came_one_by_one(job.id)
    assert life["epoch"] == 1
    # A job without a GPU sees none.
    assert life["gpus"] == ""
    assert f"--output_dir={box.run_dir(job.id)}/output" in life["argv"]


def test_nothing_of_it_is_left_behind(shared_cluster: Cluster, job: Record, box: Box) -> None:
    assert box.processes(job.id) == []
    assert shared_cluster.promised() == 0
    assert shared_cluster.store.owned("box-a") == []
    assert shared_cluster.store.client.zscore(shared_cluster.prefix + "leases", job.id) is None


def test_a_message_that_comes_twice_starts_nothing(shared_cluster: Cluster, job: Record, box: Box) -> None:
    shared_cluster.store.redeliver(job.id, "box-a")
    after = shared_cluster.ends(shared_cluster.submit(steps=2))
    assert after.state is State.SUCCEEDED
    assert shared_cluster.store.client.llen(shared_cluster.prefix + "box.box-a") == 0
    assert shared_cluster.store.get(job.id) == job
    assert len(box.lives(job.id)) == 1


def test_a_rehearsal_stops_after_its_first_save_and_resumes_once(shared_cluster: Cluster, box: Box) -> None:
    # It is told to stop when its save is seen.
    shared_cluster.slow_down(11)
    done = shared_cluster.ends(shared_cluster.submit("rehearsed", steps=5000, rehearsal=True))
    shared_cluster.speed_up()
    assert (str(done.state), done.step, done.epoch, done.attempt) == ("succeeded", 20, 1, 1)
    first, second = box.trainers_came_one_by_one(done.id)
    assert "--resume=true" not in first["argv"] and "--resume=true" in second["argv"]
    readies = [event["step"] for event in box.events(done.id, "ready")]
    assert readies[0] == 0 and 10 <= readies[1] < 20
    assert "rehearsal: saved and stopped as planned; now the resume" in box.trainer_log(done.id)

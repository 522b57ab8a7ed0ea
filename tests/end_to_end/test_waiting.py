"""Which box takes which job: what does not fit waits with a reason, what stands behind it and fits goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.state import State
from tests.rig.house import PATIENCE, wait

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Box, House


@pytest.fixture(scope="module")
def plain(street: House) -> Box:
    """A box without a GPU."""
    return street.box("plain")


@pytest.fixture(scope="module")
def box(street: House, plain: Box) -> Box:
    """A box with a card of 40 GiB."""
    return street.box("box-a", gpus=[40])


def test_a_job_too_big_for_the_box_waits_and_those_behind_it_go_on(street: House, box: Box) -> None:
    big = street.submit(gib=64, priority="urgent")
    small = street.submit(gib=24, priority="low", steps=4)
    assert street.ends(small).state is State.SUCCEEDED
    assert street.store.get(big).state is State.QUEUED
    words = "VRAM: needs 64.0 GiB on 1 GPU, 0 have it; the best has 40.0 GiB of 40.0 GiB free"
    wait(lambda: street.refused(big, "box-a") == words, words)
    street.store.cancel(big, text="enough waited")


def test_a_job_without_a_gpu_runs_on_a_box_without_one(street: House, plain: Box, box: Box) -> None:
    on_gpu = street.submit(gib=30, steps=4)
    assert street.ends(on_gpu).box == "box-a"
    street.slow_down(1)
    jobs = [street.submit(steps=30) for _ in range(2)]
    for job in jobs:
        street.until(job, lambda record: record.box)
    street.speed_up()
    assert {street.ends(job).box for job in jobs} == {"plain", "box-a"}


def test_a_box_without_a_gpu_says_so(street: House, plain: Box) -> None:
    job = street.submit(gib=200)
    assert street.refused(job, "plain") == "GPUs: needs 1, the box has none"
    street.store.cancel(job, text="enough waited")


def test_boxes_shows_what_each_has_and_what_it_refuses(street: House, plain: Box, box: Box) -> None:
    job = street.submit(gib=500)
    words = street.refused(job, "box-a")
    street.refused(job, "plain")
    shown = {box["name"]: box for box in json.loads(street.pi0q("boxes", "--json").stdout)}
    assert shown["box-a"]["refusals"][job] == words
    (card,) = shown["box-a"]["gpus"]
    assert (card["total_mib"], card["simulated"]) == (40 * 1024, True)
    assert shown["plain"]["gpus"] == []
    assert {box["lerobot"] for box in shown.values()} == {"0.6.1"}
    street.store.cancel(job, text="enough waited")


def test_an_urgent_job_goes_before_older_ones(house: House) -> None:
    jobs = {name: house.submit(name, priority=name, steps=2) for name in ("low", "normal", "urgent", "high")}
    house.box()
    claims = {name: house.ends(job).history[1].at_ms for name, job in jobs.items()}
    assert sorted(claims, key=claims.__getitem__) == ["urgent", "high", "normal", "low"]


def test_without_a_trainer_the_box_says_why_and_the_job_stays(house: House) -> None:
    house.box(PI0Q_TRAINER_PYTHON="/bin/false")
    job = house.submit()
    assert house.refused(job).startswith("trainer: PI0Q_TRAINER_PYTHON=/bin/false has no LeRobot: point it at ")
    (known,) = house.store.boxes()
    assert known["note"].startswith("PI0Q_TRAINER_PYTHON=/bin/false has no LeRobot")
    assert house.store.get(job).state is State.QUEUED


def test_a_dataset_that_the_box_does_not_allow_is_told_and_the_job_stays(street: House, box: Box) -> None:
    job = street.submit(flags={"dataset": {"repo_id": "local/else", "root": "/etc"}})
    assert "dataset: /etc is outside of what this box allows" in street.refused(job)
    assert street.store.get(job).state is State.QUEUED
    street.store.cancel(job, text="enough waited")


def test_a_second_worker_in_one_home_is_refused(street: House, box: Box) -> None:
    before = len(box.started)
    box.start()
    assert box.worker.wait(PATIENCE) == 2
    assert f"A worker already runs with PI0Q_HOME={box.home}; nothing was started." in box.log
    box.started.pop()
    assert len(box.started) == before and box.worker.poll() is None


def test_a_second_box_of_one_name_is_refused(street: House, box: Box) -> None:
    other = street.box("box-c", gpus=[40])
    other.kill()
    other.argv[1] = "box-a"
    other.start()
    assert other.worker.wait(PATIENCE) == 2
    assert "Another machine is the box box-a; this worker takes nothing." in other.log
    assert street.ends(street.submit(gib=30, steps=2)).box == "box-a"
    wait(lambda: not other.processes(), "the end of its processes")

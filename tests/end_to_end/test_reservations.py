"""What is promised to one job is promised to no other, and is given back with its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.record import Record
from pi0q.jobs.state import OWNED, State
from pi0q.workers import probe

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Box, House

GIB = 1024


@pytest.fixture(scope="module")
def box(street: House) -> Box:
    return street.box(slots=4, gpus=[80])


def at_once(records: list[Record]) -> int:
    """The most jobs that were owned at the same time."""
    changes = []
    for record in records:
        held = False
        for event in record.history:
            if (event.state in OWNED) != held:
                held = not held
                changes.append((event.at_ms, 1 if held else -1))
    now = most = 0
    # What ends in the same millisecond has made room first.
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


def test_of_three_jobs_of_30_gib_two_share_a_card_of_80(street: House, box: Box) -> None:
    street.slow_down(1)
    jobs = [street.submit(gib=30, steps=60) for _ in range(3)]
    street.comes_to(jobs[0], State.RUNNING)
    street.comes_to(jobs[1], State.RUNNING)
    assert street.promised() == 2 * (30 * GIB + 10)
    assert street.refused(jobs[2]) == (
        "VRAM: needs 30.0 GiB on 1 GPU, 0 have it; the best has 20.0 GiB of 80.0 GiB free "
        "(60.0 GiB more are promised to running jobs)"
    )
    street.speed_up()
    records = [street.ends(job) for job in jobs]
    assert {str(record.state) for record in records} == {"succeeded"}
    assert at_once(records) == 2
    assert street.promised() == 0


def test_a_failed_job_gives_back_what_it_had(street: House, box: Box) -> None:
    record = street.ends(street.submit("oom@2", gib=70))
    assert str(record.reason) == "cuda_out_of_memory"
    assert street.promised() == 0 and record.gpus == ()


def test_the_disk_is_not_promised_twice_even_to_two_boxes(house: House) -> None:
    first, second = house.box("box-a"), house.box("box-b")
    share = f"{probe.disk(first.home).free_mib * 6 // 10}MiB"
    house.slow_down(1)
    jobs = [house.submit(steps=60, disk=share) for _ in range(2)]
    house.until(jobs[0], lambda record: record.state in OWNED)
    waits = next(job for job in jobs if house.store.get(job).state not in OWNED)
    idle = "box-b" if house.store.get(jobs[0]).box == "box-a" else "box-a"
    assert "promised to running jobs" in house.refused(waits, idle)
    assert house.refused(waits, idle).startswith("disk: needs ")
    house.speed_up()
    records = [house.ends(job) for job in jobs]
    assert {str(record.state) for record in records} == {"succeeded"}
    assert at_once(records) == 1
    assert second.lives(jobs[0]) == [] or first.lives(jobs[0]) == []


def test_each_job_gets_the_smallest_cards_that_will_do(house: House) -> None:
    house.box(slots=3, gpus=[24, 80, 48])
    one = house.submit(gib=40, steps=10_000)
    assert house.comes_to(one, State.RUNNING).gpus == ("FAKE-box-a-2",)
    small = house.submit(gib=20, steps=10_000)
    assert house.comes_to(small, State.RUNNING).gpus == ("FAKE-box-a-0",)
    two = house.submit(gib=4, cards=2, steps=10_000)
    assert house.comes_to(two, State.RUNNING).gpus == ("FAKE-box-a-0", "FAKE-box-a-2")

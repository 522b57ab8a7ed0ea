"""What is promised to one job is promised to no other, and is given back with its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.record import Record
from pi0q.jobs.state import OWNED, State
from pi0q.workers.host import probe

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster

GIB = 1024


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster) -> Box:
    return shared_cluster.box(slots=4, gpus=[80])


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


def test_of_three_jobs_of_30_gib_that_share_two_come_onto_a_card_of_80(shared_cluster: Cluster, box: Box) -> None:
    shared_cluster.slow_down(1)
    jobs = [shared_cluster.submit(gib=30, steps=60, share=True) for _ in range(3)]
    shared_cluster.comes_to(jobs[0], State.RUNNING)
    shared_cluster.comes_to(jobs[1], State.RUNNING)
    assert shared_cluster.promised() == 2 * (30 * GIB + 10)
    assert shared_cluster.refused(jobs[2]) == (
        "VRAM: needs 30.0 GiB on 1 GPU, 0 have it; the best has 20.0 GiB of 80.0 GiB free "
        "(60.0 GiB more are promised to running jobs)"
    )
    shared_cluster.speed_up()
    records = [shared_cluster.ends(job) for job in jobs]
    assert {str(record.state) for record in records} == {"succeeded"}
    assert at_once(records) == 2
    assert shared_cluster.promised() == 0


def test_a_failed_job_gives_back_what_it_had(shared_cluster: Cluster, box: Box) -> None:
    record = shared_cluster.ends(shared_cluster.submit("oom@2", gib=70))
    assert str(record.reason) == "cuda_out_of_memory"
    assert shared_cluster.promised() == 0 and record.gpus == ()


def test_the_disk_is_not_promised_twice_even_to_two_boxes(cluster: Cluster) -> None:
    first, second = cluster.box("box-a"), cluster.box("box-b")
    share = f"{probe.disk(first.home).free_mib * 6 // 10}MiB"
    cluster.slow_down(1)
    jobs = [cluster.submit(steps=60, disk=share) for _ in range(2)]
    cluster.until(jobs[0], lambda record: record.state in OWNED)
    waits = next(job for job in jobs if cluster.store.get(job).state not in OWNED)
    idle = "box-b" if cluster.store.get(jobs[0]).box == "box-a" else "box-a"
    assert "promised to running jobs" in cluster.refused(waits, idle)
    assert cluster.refused(waits, idle).startswith("disk: needs ")
    cluster.speed_up()
    records = [cluster.ends(job) for job in jobs]
    assert {str(record.state) for record in records} == {"succeeded"}
    assert at_once(records) == 1
    assert second.lives(jobs[0]) == [] or first.lives(jobs[0]) == []


def test_each_job_gets_the_smallest_cards_that_will_do(cluster: Cluster) -> None:
    cluster.box(slots=3, gpus=[24, 80, 48, 96])
    one = cluster.submit(gib=40, steps=10_000)
    assert cluster.comes_to(one, State.RUNNING).gpus == ("FAKE-box-a-2",)
    small = cluster.submit(gib=20, steps=10_000)
    assert cluster.comes_to(small, State.RUNNING).gpus == ("FAKE-box-a-0",)
    two = cluster.submit(gib=4, cards=2, steps=10_000)
    assert cluster.comes_to(two, State.RUNNING).gpus == ("FAKE-box-a-1", "FAKE-box-a-3")

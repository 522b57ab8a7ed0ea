"""Which waiting jobs' inputs are fetched: in the queue's order, what fits the disk."""

from __future__ import annotations

import pytest

from pi0q.workers.staging.plan import JobNeed, Lack, Room, lacks

GIB = 1024


def need(job: str, run_gib: int, **inputs: int) -> JobNeed:
    return JobNeed(job_id=job, inputs={name: gib * GIB for name, gib in inputs.items()}, run_mib=run_gib * GIB)


@pytest.mark.parametrize(
    ("needs", "room", "left_out"),
    [
        pytest.param([need("a", 20, base=14, data=3)], Room(data_mib=40 * GIB), {}, id="room for all"),
        pytest.param([need("a", 20, base=14, data=3)], Room(data_mib=36 * GIB), {"a": (37, 36)}, id="too small"),
        pytest.param(
            [need("a", 20, base=14), need("b", 20, base=14), need("c", 20, base=14)],
            Room(data_mib=34 * GIB),
            {},
            id="one base serves all, and runs come one after the other",
        ),
        pytest.param(
            [need("a", 20, base=14), need("b", 10, other=8), need("c", 1, small=1)],
            Room(data_mib=36 * GIB),
            {"b": (42, 36)},
            id="a later one may fit where one before it does not",
        ),
        pytest.param(
            [need("a", 5, base=14), need("b", 30, data=1)],
            Room(data_mib=40 * GIB),
            {"b": (45, 40)},
            id="the room of the largest run stays free for the jobs before it",
        ),
        pytest.param([need("a", 20)], Room(data_mib=20 * GIB), {}, id="everything is here already"),
        pytest.param(
            [need("a", 20, base=14), need("b", 20, data=10)],
            Room(data_mib=20 * GIB, hub_mib=20 * GIB),
            {"b": (24, 20)},
            id="the cache on a disk of its own",
        ),
        pytest.param(
            [need("a", 30, base=14)],
            Room(data_mib=20 * GIB, hub_mib=90 * GIB),
            {"a": (30, 20)},
            id="its runs too large",
        ),
        pytest.param([], Room(data_mib=0), {}, id="no job"),
    ],
)
def test_what_does_not_fit(needs: list[JobNeed], room: Room, left_out: dict[str, tuple[int, int]]) -> None:
    expected = {job: Lack(needed_mib=wanted * GIB, free_mib=free * GIB) for job, (wanted, free) in left_out.items()}
    assert lacks(needs, room) == expected

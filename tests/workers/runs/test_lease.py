"""How long a run may act for its job, in the runner and, through 16 bytes, in its trainer."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from pi0q.workers.runs.lease import Lease, boottime


class Clock:
    """A clock in our hands."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(tmp_path: Path, clock: Clock) -> Lease:
    return Lease(tmp_path / "lease", seconds=600.0, fence=480.0, since=clock.now, clock=clock)


def told(lease: Lease) -> tuple[float, float]:
    fence, end = struct.unpack("<QQ", lease.path.read_bytes())
    return fence / 1e9, end / 1e9


def test_it_is_ours_up_to_its_end_and_fenced_before(lease: Lease, clock: Clock) -> None:
    for now, fenced, ours in [(0, False, True), (479.9, False, True), (480, True, True), (599.9, True, True)]:
        clock.now = 1000.0 + now
        assert (lease.fenced(), lease.is_valid()) == (fenced, ours)
    clock.now = 1600.0
    assert lease.fenced() and not lease.is_valid()


def test_a_renewal_counts_from_before_it_was_asked_for(lease: Lease, clock: Clock) -> None:
    clock.now = 1100.0
    lease.renewed(1090.0)
    assert (lease.fence_at, lease.end) == (1570.0, 1690.0)
    assert told(lease) == (1570.0, 1690.0)


def test_the_last_call_leaves_time_to_die_in(tmp_path: Path, lease: Lease) -> None:
    assert lease.fence_at < lease.last_call < lease.end
    short = Lease(tmp_path / "short", seconds=3.0, fence=2.4, since=0.0)
    assert short.fence_at < short.last_call < short.end


def test_a_job_that_is_anothers_is_never_ours_again(lease: Lease, clock: Clock) -> None:
    lease.revoke()
    assert not lease.is_valid() and lease.fenced() and told(lease) == (0.0, 0.0)
    lease.renewed(clock.now)
    assert not lease.is_valid() and told(lease) == (0.0, 0.0)


def test_its_clock_is_that_of_the_kernel_and_goes_on_in_sleep() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= boottime() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert time.monotonic() - 0.1 <= boottime()

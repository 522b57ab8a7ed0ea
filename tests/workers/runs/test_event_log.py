"""Lines on a full disk: whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.workers.runs.event_log import EventLog
from pi0q.workers.runs.trainer_log import Log
from tests.rig import disks
from tests.rig.disks import SmallDisk


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisk]:
    made = SmallDisk(tmp_path / "disk", mib=2)
    yield made
    made.close()


@pytest.mark.skipif(bool(disks.no_mounts()), reason=disks.no_mounts() or "it can mount one")
def test_a_full_disk_tears_no_line_and_stops_nothing(small: SmallDisk) -> None:
    path = small.place / "events.jsonl"
    journal = EventLog(path)
    journal.add(b"first")
    small.leave(0)
    for _ in range(20):
        journal.add(b"x" * 1000)
    small.empty()
    journal.add(b"last")
    journal.close()
    first, *torn, last = path.read_bytes().split(b"\n")[:-1]
    assert (first, last) == (b"first", b"last") and set(torn) == {b"x" * 1000} and len(torn) < 20


@pytest.mark.skipif(bool(disks.no_mounts()), reason=disks.no_mounts() or "it can mount one")
def test_a_log_on_a_full_disk_can_still_be_closed(small: SmallDisk) -> None:
    """A runner closes it before it tells how the run ended; an error there would lose that."""
    log = Log(small.place / "trainer.log", {})
    small.leave(0)
    for _ in range(200):
        log.say("x" * 100)
    log.close()


def test_event_log_stops_at_its_longest_size(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", longest=100)
    for _ in range(50):
        log.add(b"0123456789")
    log.close()
    assert (tmp_path / "events.jsonl").stat().st_size <= 100

"""What the box knows for itself of a run: whole or not at all, and good enough to end the run by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import from_hash, to_hash
from pi0q.jobs.state import OWNED, State
from pi0q.queue.store import Store
from pi0q.workers.runs import ledger
from pi0q.workers.runs.ledger import Ending, Ledger
from tests.conftest import JobDriver

KNOWN = Ledger(
    job_id="a1a1a1a1a1a1", epoch=3, box="box-a", boot="b-1", fields={"id": "a1a1a1a1a1a1", "name": "抓", "step": "7"}
)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    KNOWN.write(path)
    assert ledger.read(path) == KNOWN
    newer = KNOWN.with_fields({"step": "8", "checkpoint": "{}"})
    newer.write(path)
    assert ledger.read(path) == newer
    assert newer.fields == {**KNOWN.fields, "step": "8", "checkpoint": "{}"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["ledger.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"job_id": "a"}', '{"fields": 3, "epoch": 1}', '{"fields": {}, "ending": {"to": 1}}'],
)
def test_a_damaged_one_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.json"
    assert ledger.read(path) is None
    path.write_text(text)
    assert ledger.read(path) is None


def test_one_with_an_ending_that_no_job_has_is_none(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    KNOWN.write(path)
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"ending": {"to": "vanished", "reason": "", "text": "", "fields": {}}}))
    assert ledger.read(path) is None


@pytest.mark.parametrize("reason", [Reason.FINISHED, Reason.STOPPED_BY_BOX, Reason.SPEC_REFUSED, Reason.HUNG])
def test_an_ending_from_the_disk_does_what_the_runner_would_have_done(
    tmp_path: Path, store: Store, driver: JobDriver, reason: Reason
) -> None:
    told, replayed = (driver.submit() for _ in range(2))
    for job in (told, replayed):
        epoch = driver.run(job)
        last = transition.ended(store.get(job), epoch, reason, "so it ended")
        if job == replayed:
            known = Ledger(job_id=job, epoch=epoch, box="box-a", boot="1", fields={}, ending=Ending.of(last))
            known.write(tmp_path / "ledger.json")
            read = ledger.read(tmp_path / "ledger.json")
            assert read is not None and read.ending is not None
            last = read.ending.transition(read.epoch)
        assert store.move(job, last) is last.to
    first, second = store.get(told), store.get(replayed)
    same = ("state", "reason", "detail", "attempt", "runs_without_checkpoint", "phase")
    assert [getattr(first, name) for name in same] == [getattr(second, name) for name in same]


def test_an_ending_starts_only_where_a_box_owns_the_job() -> None:
    for to in (State.SUCCEEDED, State.FAILED, State.QUEUED, State.CANCELLED):
        move = Ending(to=to.value, reason="", text="", fields={}).transition(4)
        assert move.source and move.source <= OWNED and move.epoch == 4


def test_its_fields_are_a_record(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    driver.run(job)
    raw = store.raw(job)
    known = KNOWN.with_fields({**raw, **to_hash({"step": 12})})
    assert from_hash(known.fields).step == 12

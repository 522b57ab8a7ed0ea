"""What is worth a message, and its text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pi0q.jobs import notices
from pi0q.jobs.errors import SpecError
from pi0q.jobs.notice_kinds import KINDS, USUAL
from pi0q.jobs.notices import Notice
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Event, Record, Saved
from pi0q.jobs.spec import parse
from pi0q.jobs.state import State

STATES = [
    State.QUEUED, State.CLAIMED, State.PREPARING, State.RUNNING, State.QUEUED, State.CLAIMED, State.RUNNING,
    State.WAITING, State.QUEUED, State.CLAIMED, State.RUNNING, State.FAILED,
]  # fmt: skip
HISTORY = tuple(
    Event(at_ms=at * 1000, state=state, epoch=1, box="box-a" if at > 1 else None, reason=None, text="")
    for at, state in enumerate(STATES, start=1)
)  # fmt: skip
JOB = Record(
    id="a1b2c3d4e5f6", name="grab_box", state=State.FAILED, priority="normal", submitter="ada@laptop", spec={},
    needs={}, created_ms=1000, updated_ms=12_000, ended_ms=12_000, reason=Reason.CUDA_OUT_OF_MEMORY,
    detail="CUDA out of\nmemory", steps=100, history=HISTORY,
)  # fmt: skip


def kinds(job: Record, after_ms: int = 0, saved_before: int | None = None) -> list[str]:
    return [notice.kind for notice in notices.of_job(job, after_ms=after_ms, saved_before=saved_before)]


def test_notices_of_a_job_follow_its_history() -> None:
    assert kinds(JOB) == ["started", "interrupted", "started", "held", "started", "failed"]
    assert kinds(JOB, after_ms=7000) == ["held", "started", "failed"]
    assert kinds(JOB, after_ms=12_000) == []


def test_failure_is_told_with_cause_and_cure() -> None:
    *_, failed = notices.of_job(JOB, after_ms=0, saved_before=None)
    assert failed.title == "grab_box failed on box-a"
    first, fix, *_, last = failed.body.splitlines()
    assert first == "CUDA out of memory" and fix.startswith("Fix: ") and last == "pi0q show a1b2c3d4e5f6"


def test_save_is_told_once_and_not_of_an_ended_job() -> None:
    saved = Saved(step=50, path="/r/000050", manifest="ab" * 32, bytes=1)
    job = replace(JOB, state=State.RUNNING, checkpoint=saved, history=())
    (notice,) = notices.of_job(job, after_ms=0, saved_before=25)
    assert (notice.kind, notice.title) == ("saved", "grab_box saved step 50 of 100")
    assert kinds(job, saved_before=50) == kinds(replace(job, state=State.FAILED), saved_before=25) == []


def test_choice_of_a_job_counts_before_that_of_the_settings() -> None:
    started = Notice(kind="started", at_ms=1, title="x")
    lost = Notice(kind="box_lost", at_ms=1, title="x")
    assert not notices.wanted(started, USUAL, None) and notices.wanted(started, USUAL, ["started"])
    assert notices.wanted(lost, USUAL, []) and not notices.wanted(lost, ["failed"], ["started"])


def test_several_notices_are_one_message_with_the_failure_in_full() -> None:
    many = [Notice(kind="finished", at_ms=at, title=f"job {at} finished") for at in range(20)]
    bad = Notice(kind="failed", at_ms=3, title="job 3 failed", body="CUDA out of memory")
    one = notices.message([many[0]])
    assert (one.title, one.body) == ("job 0 finished", "job 0 finished")
    told = notices.message([*many, bad])
    assert told.title == "pi0q: 21 events" and "… and 11 more: pi0q ls" in told.body
    assert told.body.endswith("job 3 failed:\nCUDA out of memory")


def test_job_file_chooses_kinds_and_keeps_them_in_its_record() -> None:
    text = "train: {dataset: {repo_id: a/b}, policy: {type: act}}\nnotify: {on: [failed, saved]}"
    spec = parse(text, filename="job.yaml")
    assert spec.notify_on == ("failed", "saved") and type(spec).from_json(spec.to_json()) == spec
    assert notices.chosen(replace(JOB, spec=spec.to_json())) == ("failed", "saved")
    assert notices.chosen(JOB) is None
    with pytest.raises(SpecError, match=r"notify.on must be"):
        parse(text.replace("failed", "exploded"), filename="job.yaml")
    assert set(USUAL) <= set(KINDS)

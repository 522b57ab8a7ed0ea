"""The causes for a stop: which one wins, and what each asks for."""

from __future__ import annotations

import errno

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.workers.runs.stop import Stop, StopCause


def test_a_lost_job_outweighs_a_cancel_and_a_cancel_all_others() -> None:
    others = set(StopCause) - {StopCause.LOST, StopCause.CANCEL}
    assert StopCause.LOST.weight > StopCause.CANCEL.weight > max(cause.weight for cause in others)


def test_only_a_lost_job_kills_at_once_and_only_ends_of_the_box_save_first() -> None:
    assert {cause for cause in StopCause if cause.kill_now} == {StopCause.LOST}
    saves = {StopCause.FENCED, StopCause.HANDBACK, StopCause.DISK_LOW, StopCause.REHEARSED, StopCause.TIME_LIMIT}
    assert {cause for cause in StopCause if cause.save_first} == saves


@pytest.mark.parametrize(
    ("request_", "cause"),
    [("cancel", StopCause.CANCEL), ("stop", StopCause.HANDBACK), ("", None), ("of a newer version", None)],
)
def test_a_request_on_the_record_is_a_cause_or_none(request_: str, cause: StopCause | None) -> None:
    assert StopCause.requested(request_) is cause


def test_a_full_disk_of_the_runner_is_no_fault_of_the_runner() -> None:
    assert Stop.by(OSError(errno.ENOSPC, "No space left")).reason is Reason.DISK_FULL
    assert Stop.by(ValueError("x")).reason is Reason.RUNNER_LOST

"""What is on a box's disk and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.jobs.checkpoint import MANIFEST
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.state import State
from pi0q.workers.idle import remains
from pi0q.workers.idle.decision import OpenTask
from pi0q.workers.idle.remains import Steps
from pi0q.workers.runs.postrun_tasks import DONE, FAILED, PostrunTask, PostrunTasks
from pi0q.workers.runs.run_directory import RunDirectory

JOB = "0123456789ab"


def record(**fields: object) -> Record:
    made = Record(
        id=JOB, name="grab", state=State.QUEUED, priority="normal", submitter="me", spec={}, needs={},
        created_ms=0, updated_ms=0, box="box-a",
    )  # fmt: skip
    return replace(made, **fields)  # type: ignore[arg-type]


def saved(step: int) -> Saved:
    return Saved(step=step, path=f"/x/{JOB}/{step:06}", manifest="0" * 64, bytes=1)


@pytest.mark.parametrize(
    ("job", "elsewhere"),
    [
        (None, False),
        (record(checkpoint=saved(20)), False),
        (record(checkpoint=saved(20), copied=saved(10)), False),
        (record(checkpoint=saved(20), copied=saved(20)), True),
        (record(state=State.SUCCEEDED, push={"state": "pending"}), False),
        (record(state=State.SUCCEEDED, push={"state": "done"}), True),
        (record(state=State.FAILED, push={"state": "done"}), False),
        # A claim by another box leaves the record's checkpoint as it is.
        (record(box="box-b", checkpoint=saved(20)), False),
        (record(box="box-b", checkpoint=saved(30)), True),
        (record(box="box-a", checkpoint=saved(30)), False),
    ],
)
def test_whether_a_checkpoint_is_elsewhere(job: Record | None, elsewhere: bool) -> None:
    assert remains.is_elsewhere(job, 20, "box-a") is elsewhere


def test_checkpoints_and_tasks_are_found_on_the_disk(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / JOB)
    for step, sealed in ((10, True), (20, True), (30, False)):
        (directory := run.checkpoints / f"{step:06}").mkdir(parents=True)
        if sealed:
            (directory / MANIFEST).write_text("{}")
    (tmp_path / "not-a-job" / "output" / "checkpoints" / "000010").mkdir(parents=True)
    newest = remains.newest_steps(tmp_path)
    assert newest == {JOB: Steps(any=30, sealed=20)}

    def alone(*jobs: Record) -> bool:
        return remains.only_copies(newest, lambda ids: jobs, "box-a") == [JOB]

    assert alone() and alone(record(state=State.CANCELLED, copied=saved(10)))
    assert not alone(record(state=State.CANCELLED, copied=saved(20)))
    # Its runner died before it could seal step 30, and the job goes on here.
    assert alone(record(copied=saved(20))) and not alone(record(copied=saved(30)))
    assert not alone(record(copied=saved(20), box="box-b"))
    tasks = PostrunTasks(run.path)
    tasks.add(PostrunTask(kind="push", epoch=1, box="box-a"))
    tasks.add(PostrunTask(kind="copy", epoch=1, box="box-a", state=DONE))
    tasks.add(PostrunTask(kind="wandb", epoch=1, box="box-a", state=FAILED))
    assert remains.open_tasks(tmp_path) == [
        OpenTask(kind="push", job=JOB, tried=False),
        OpenTask(kind="wandb", job=JOB, tried=True),
    ]

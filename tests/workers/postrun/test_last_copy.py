"""The last checkpoint of a job that ended is copied by the box's post-run scheduler."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pi0q.jobs import postrun
from pi0q.jobs.record import from_hash
from pi0q.jobs.spec import parse
from pi0q.queue.settings import Settings
from pi0q.workers.postrun import last_copy
from pi0q.workers.postrun.scheduler import GiveUp, RetryLater, TaskContext
from pi0q.workers.runs.run_directory import RunDirectory
from tests.workers.checkpoints.saved import checkpoint, content


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / "share").mkdir()
    return tmp_path / "share"


def context(tmp_path: Path, share: Path) -> TaskContext:
    job = "train: {dataset: {repo_id: l/d}, policy: {type: act, device: cpu}}"
    spec = parse(f"name: n\ncheckpoints: {{copy_to: {share}}}\n{job}", filename="job.yaml")
    saved = checkpoint(tmp_path / "a1a1a1a1a1a1/output/checkpoints", 20)
    task = last_copy.task_for(spec, saved, epoch=3, box="box-a")
    assert task and last_copy.task_for(spec, None, epoch=3, box="box-a") is None
    record = from_hash({"id": "a1a1a1a1a1a1", "name": "n", "state": "succeeded", "created_ms": "5"})
    return TaskContext(
        task=task,
        settings=Settings(home=tmp_path),
        directory=RunDirectory(tmp_path / "a1a1a1a1a1a1"),
        record=record,
        say=lambda text: None,
        stopping=threading.Event(),
    )


def test_it_is_copied_and_the_record_told(tmp_path: Path, share: Path) -> None:
    done = last_copy.work(context(tmp_path, share))
    assert done.fields["copied"]["path"] == f"{share}/a1a1a1a1a1a1/000020" and done.fields["copy_detail"] == ""
    assert content(share / "a1a1a1a1a1a1/000020") == content(tmp_path / "a1a1a1a1a1a1/output/checkpoints/000020")


def test_what_may_pass_is_tried_later_and_what_will_not_is_given_up(tmp_path: Path, share: Path) -> None:
    given = context(tmp_path, share)
    share.rename(tmp_path / "away")
    with pytest.raises(RetryLater, match="is not there on this box"):
        last_copy.work(given)
    (tmp_path / "away").rename(share)
    model = tmp_path / "a1a1a1a1a1a1/output/checkpoints/000020/pretrained_model/model.safetensors"
    model.write_bytes(b"")
    with pytest.raises(GiveUp, match="the checkpoint here is damaged"):
        last_copy.work(given)


def test_a_worker_that_stops_breaks_it_off(tmp_path: Path, share: Path) -> None:
    given = context(tmp_path, share)
    given.stopping.set()
    with pytest.raises(RetryLater, match="the worker stopped"):
        last_copy.work(given)


def test_a_copy_that_is_pending_is_told_of_an_ended_job() -> None:
    told = {"id": "a1a1a1a1a1a1", "name": "n", "state": "failed", "created_ms": "5", "copy": '{"state": "pending"}'}
    assert list(postrun.left(from_hash(told))) == ["copy pending: it begins soon"]
    assert list(postrun.left(from_hash({**told, "state": "running"}))) == []

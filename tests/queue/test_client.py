"""The queue from Python."""

from __future__ import annotations

import runpy
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pi0q.jobs.errors import NotFound, QueueUnreachable, SpecError
from pi0q.jobs.outcome import Reason
from pi0q.jobs.state import State
from pi0q.jobs.transition import ended
from pi0q.queue import client
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from tests.conftest import PATIENCE, JobDriver, WaitFor

JOB = {
    "name": "tiny",
    "resources": {"gpus": 0, "disk": "1MiB"},
    "train": {
        "dataset": {"repo_id": "local/d", "root": "datasets/d"},
        "policy": {"type": "act", "push_to_hub": False},
        "steps": 6,
    },
}
SAVED = {"step": 6, "path": "/data/runs/x/000006", "manifest": "a" * 64, "bytes": 1000}


@pytest.fixture
def queue(chosen: Settings) -> client.Queue:
    return client.Queue(chosen)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "POLL_SECONDS", 0.05)


def train(driver: JobDriver, store: Store, job: str, reason: Reason = Reason.FINISHED) -> None:
    """Do what a box does with a job, to its end."""
    epoch = driver.run(job)
    driver.report(job, epoch, log="step 6 loss 0.25\n", step=6, loss=0.25, checkpoint=SAVED)
    store.put_curve(job, epoch, box="box-a", stay=0, points=["[1,1,0.0001,0.5]", "[6,0.25,0.0001,0.5]"])
    assert store.move(job, ended(store.get(job), epoch, reason, "it ended"))


def test_job_is_submitted_waited_for_and_looked_at(queue: client.Queue, driver: JobDriver, store: Store) -> None:
    job = queue.submit(JOB, overrides={"train.seed": 7, "name": "seven"})
    assert store.get(job.id).spec["train"]["seed"] == 7 and queue.job("seven") == job
    with pytest.raises(TimeoutError, match=r"seven .* is queued"):
        job.wait(timeout=0)
    boxes = threading.Thread(target=train, args=(driver, store, job.id))
    boxes.start()
    end = job.wait(timeout=PATIENCE)
    boxes.join()
    assert (end.state, end.step, end.loss) == (State.SUCCEEDED, 6, 0.25)
    assert job.logs() == "step 6 loss 0.25\n" == "".join(job.follow())
    assert [one.step for one in job.checkpoints()] == [6] and [one.step for one in job.curve()] == [1, 6]
    assert [view.id for view in queue.jobs()] == [job.id] and queue.boxes() == ()
    assert job.view().state is State.SUCCEEDED


def test_faults_of_a_job_come_all_at_once_and_queue_nothing(queue: client.Queue, store: Store) -> None:
    with pytest.raises(SpecError) as raised:
        queue.submit({**JOB, "priority": "soon", "train": {**JOB["train"], "steps": "many"}})  # type: ignore[dict-item]
    assert len(raised.value.faults) == 2 and not store.page().jobs


def test_failed_job_raises_with_its_cure(queue: client.Queue, driver: JobDriver, store: Store) -> None:
    job = queue.submit(JOB)
    train(driver, store, job.id, Reason.SPEC_REFUSED)
    with pytest.raises(client.JobFailed, match=f"pi0q retry {job.id}") as raised:
        job.wait()
    assert raised.value.job.reason is Reason.SPEC_REFUSED and job.wait(check=False).state is State.FAILED


def test_cancel_ends_a_queued_job(queue: client.Queue) -> None:
    job = queue.submit(JOB)
    assert job.cancel() is State.CANCELLED and job.wait(check=False).state is State.CANCELLED


def test_unknown_job_and_server_that_is_away_raise_the_commands_errors(queue: client.Queue, chosen: Settings) -> None:
    with pytest.raises(NotFound):
        queue.job("nothing")
    with pytest.raises(NotFound):
        client.Job(queue, "0123456789ab").view()
    from dataclasses import replace

    away = client.Queue(replace(chosen, redis_url="redis://127.0.0.1:1/0"))
    with pytest.raises(QueueUnreachable):
        away.jobs()


def test_example_runs(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch, driver: JobDriver, store: Store, tmp_path: Path,
    wait_for: WaitFor, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "job.yaml"
    file.write_text(str(JOB))
    example = runpy.run_path(str(Path(__file__).parents[2] / "docs/examples/learning_rates.py"))
    program = threading.Thread(target=example["main"], args=(str(file),))
    program.start()
    for job in wait_for(lambda: len(jobs := store.page().jobs) == 3 and jobs):
        train(driver, store, job.id)
    program.join(PATIENCE)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[2] for line in lines] == [" succeeded, loss 0.25, last checkpoint at step 6"] * 3


def test_import_is_as_light_as_that_of_a_list() -> None:
    code = "import sys, pi0q.queue.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"redis", "celery", "rich", "yaml", "asyncio", "click", "pi0q.jobs.spec"} & set(done.stdout.split())

"""The runner's decisions, on a real queue; its whole life is told in tests/end_to_end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from pi0q.jobs import transition
from pi0q.jobs.failures.diagnosis import judge
from pi0q.jobs.failures.evidence import Evidence
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.spec import parse
from pi0q.jobs.state import State
from pi0q.queue import stored_curves
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimant, Claimed, Reservation
from pi0q.queue.submission import new_fields, put
from pi0q.queue.timing import timing
from pi0q.workers.host import identity, process_tree
from pi0q.workers.runner import prepare as preparation
from pi0q.workers.runner import training
from pi0q.workers.runner.finish import End, finish
from pi0q.workers.runner.reporter import Reporter
from pi0q.workers.runner.run_session import RunSession
from pi0q.workers.runner.runner import run
from pi0q.workers.runner.start_report import StartReport
from pi0q.workers.runner.stop_requests import StopRequests
from pi0q.workers.runner.train import raise_for
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.run_request import RunRequest
from pi0q.workers.runs.stop import Stop, StopCause
from pi0q.workers.trainer.trainer_process import TrainerProcess

FAKE = Path(__file__).parents[2] / "fake_lerobot"
JOB = """
resources: {gpus: 0, disk: 1MiB}
checkpoints: {every: null, keep: 2}
train:
  dataset: {repo_id: local/d, root: datasets/d}
  policy: {type: act, device: cpu, push_to_hub: false}
  steps: 6
  save_freq: 2
"""


#: Runs a request and prints what was imported after its trainer began, and which scripts were read.
WATCHED = """
import json, os, sys
from pi0q.queue import settings as all_settings, store as stores
from pi0q.queue.connection import connect
from pi0q.workers.runner import training
from pi0q.workers.runner.runner import run
from pi0q.workers.runner.runner_main import SCRIPTS
from pi0q.workers.runner.stop_requests import StopRequests
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.run_request import RunRequest
settings = all_settings.load()
store = stores.Store(connect(settings), settings.prefix)
store.load(*SCRIPTS)
context, late = RunContext.load(RunRequest(**json.loads(sys.argv[1])), settings, store), []
start = training.TrainerProcess
def watched(*args, **how):
    process = start(*args, **how)
    def audit(event, given):
        if event == "import" and given[0].startswith(("pi0q", "redis")) and given[0] not in sys.modules:
            late.append(given[0])
        if event == "open" and str(given[0]).endswith((".lua", ".py")):
            late.append(given[0])
    sys.addaudithook(audit)
    return process
training.TrainerProcess = watched
run(context, store, StopRequests())
print(store.get(context.job_id).state, late)
"""


@pytest.fixture
def settings(chosen: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (chosen.home / "datasets/d/meta").mkdir(parents=True)
    (chosen.home / "datasets/d/meta/info.json").write_text("{}")
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    # A lease that no stall outlasts: a runner that prepares would end this very process.
    monkeypatch.setattr(Settings, "timing", replace(timing(600.0, 0.8), retry=0.1))
    return replace(chosen, box="box-a")


def claimed(store: Store, text: str = JOB) -> RunRequest:
    job = str(put(store, new_fields(parse(text, filename="job.yaml")))["id"])
    return claimed_again(store, job)


def claimed_again(store: Store, job: str, *, box: str = "box-a") -> RunRequest:
    answer = store.claim(job, Claimant(box=box, boot="1", lease_seconds=600), Reservation(), text="claimed")
    assert isinstance(answer, Claimed)
    return RunRequest(job_id=job, epoch=answer.epoch, python=sys.executable, lerobot="0.6.1")


def history(store: Store, job: str) -> list[str]:
    return [str(event.state) for event in store.get(job).history]


@pytest.fixture(autouse=True)
def reporters_end(settings: Settings, store: Store) -> Iterator[None]:
    """No reporter outlives its test: a run ends with its process, and here the process goes on."""
    yield
    for thread in threading.enumerate():
        if isinstance(thread, Reporter):
            thread.stop()
            thread.join()


@pytest.fixture
def context(settings: Settings, store: Store) -> RunContext:
    """A run that is claimed and not begun."""
    return RunContext.load(claimed(store), settings, store)


@pytest.fixture
def session(context: RunContext, store: Store) -> Iterator[RunSession]:
    """A run that is taken in hand; its reporter ends with the test."""
    with RunSession(context, store, StopRequests()) as made:
        yield made
    made.reporter.join()
    made.log.close()


def run_through(context: RunContext, store: Store) -> None:
    run(context, store, StopRequests())


def test_a_request_is_one_line_and_comes_back_the_same() -> None:
    order = RunRequest(job_id="a", epoch=3, python="/x y/python", lerobot="0.6.1")
    assert order.to_line().count("\n") == 1
    assert RunRequest(**json.loads(order.to_line())) == order


def test_a_run_goes_from_claimed_to_succeeded(context: RunContext, store: Store) -> None:
    run_through(context, store)
    record = store.get(context.job_id)
    assert history(store, record.id) == ["queued", "claimed", "preparing", "running", "succeeded"]
    assert (record.step, record.checkpoint and record.checkpoint.step) == (6, 6)
    curve = stored_curves.read(store, record.id)
    assert [point.step for point in curve] == [1, 2, 3, 4, 5, 6]
    assert record.loss is not None and curve[-1].loss == pytest.approx(record.loss, rel=1e-5)


def test_the_same_request_given_twice_runs_once(context: RunContext, settings: Settings, store: Store) -> None:
    second = RunContext.load(context.request, settings, store)
    run_through(context, store)
    before = store.get(context.job_id)
    run_through(second, store)
    assert store.get(context.job_id) == before


def test_a_request_of_an_earlier_claim_is_not_run(context: RunContext, store: Store) -> None:
    job = context.job_id
    store.client.zadd(store.prefix + "leases", {job: 1})
    assert store.sweep() == [job]
    claimed_again(store, job)
    with pytest.raises(OwnershipLost):
        RunSession(context, store, StopRequests())
    assert store.get(job).state is State.CLAIMED and not context.directory.path.exists()


def test_running_is_told_when_the_queue_is_back(
    context: RunContext, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link drops at the very moment the trainer starts: the job must not stay `preparing` for two days."""
    move, refused = store.move, list[Any]()

    def drops(job: str, transition: Any, **how: Any) -> State | None:
        if transition.to is State.RUNNING and not refused:
            refused.append(transition)
            raise redis.ConnectionError("reset by peer")
        return move(job, transition, **how)

    monkeypatch.setattr(store, "move", drops)
    run_through(context, store)
    assert refused
    assert history(store, context.job_id) == ["queued", "claimed", "preparing", "running", "succeeded"]


def test_the_end_is_told_when_the_queue_is_back(
    context: RunContext, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, refused = store.move, list[Any]()

    def drops(job: str, transition: Any, **how: Any) -> State | None:
        if transition.to is State.SUCCEEDED and len(refused) < 3:
            refused.append(transition)
            raise redis.TimeoutError("no answer")
        return move(job, transition, **how)

    monkeypatch.setattr(store, "move", drops)
    run_through(context, store)
    assert len(refused) == 3 and store.get(context.job_id).state is State.SUCCEEDED


def test_while_nobody_hears_its_end_it_waits_between_two_tries(
    session: RunSession, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, waited = store.report, list[float]()

    def away(*_: Any, **__: Any) -> str:
        raise redis.ConnectionError("Connection refused")

    def wait(seconds: float | None = None) -> bool:
        assert seconds is not None
        waited.append(seconds)
        if len(waited) == 3:
            monkeypatch.setattr(store, "report", report)
        return False

    job, epoch = session.context.job_id, session.context.epoch
    assert store.move(job, transition.running(epoch, text="its trainer lives", started_ms=None))
    monkeypatch.setattr(store, "report", away)
    monkeypatch.setattr(session.stops.terminated, "wait", wait)
    finish(session, Stop(Reason.FINISHED, "reached step 6"))
    assert waited == [settings.timing.retry] * 3
    assert store.get(job).state is State.SUCCEEDED


def test_a_server_that_forgot_that_it_ran_hears_of_its_end(
    context: RunContext, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS.md row 6: the last second before a kill is lost, and with it how far the job was."""
    start = TrainerProcess

    def forgetful(*args: Any, **how: Any) -> Any:
        process = start(*args, **how)
        monkeypatch.setattr(StartReport, "send", lambda _: None)
        store.client.hset(f"{store.prefix}job:{context.job_id}", "state", "claimed")
        return process

    monkeypatch.setattr(training, "TrainerProcess", forgetful)
    run_through(context, store)
    record = store.get(context.job_id)
    assert (record.state, record.step, record.detail) == (State.SUCCEEDED, 6, "reached step 6")


def test_told_to_stop_while_it_prepares_it_hands_back_and_starts_no_trainer(
    context: RunContext, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching, fetched = threading.Event(), threading.Event()

    def fetch(*_: Any) -> dict[str, str]:
        fetching.set()
        assert fetched.wait(30)
        return {}

    class Exited(BaseException):
        """FAKE os._exit: this process goes on."""

    def leave(code: int) -> None:
        assert code == 0
        raise Exited

    stops = StopRequests()
    monkeypatch.setattr(preparation, "_fetch", fetch)
    monkeypatch.setattr(os, "_exit", leave)
    life = threading.Thread(target=run, args=(context, store, stops))
    life.start()
    assert fetching.wait(30)
    with pytest.raises(Exited):
        stops.on_sigterm()
    record = store.get(context.job_id)
    assert (record.state, record.attempt, record.reason) == (State.QUEUED, 0, Reason.STOPPED_BY_BOX)
    fetched.set()
    life.join(30)
    assert not life.is_alive() and stops.trainer is None
    assert store.get(context.job_id) == record


def test_weights_of_torchvision_that_can_not_be_fetched_hand_the_job_back_and_start_no_trainer(
    settings: Settings, store: Store
) -> None:
    nowhere = replace(settings, torch_weights="http://127.0.0.1:9/models")
    context = RunContext.load(claimed(store), nowhere, store)
    run_through(context, store)
    record = store.get(context.job_id)
    assert (record.reason, record.attempt) == (Reason.NETWORK, 0) and record.state is not State.FAILED
    assert "resnet18-f37072fd.pth" in record.detail
    assert "train.policy.pretrained_backbone_weights: null" in record.detail
    assert "running" not in history(store, context.job_id)


def test_a_box_whose_process_can_not_be_killed_takes_no_new_jobs(
    session: RunSession, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS.md row 34: it hangs in its driver (state D). The job goes on elsewhere."""
    assert store.announce_box("box-a", "id", {"status": "ready"})
    monkeypatch.setattr(process_tree, "kill_all", lambda *_, **__: [4711])
    finish(session, Stop(Reason.HUNG, "no step for 900 s"))
    assert store.get(session.context.job_id).state is State.QUEUED
    (box,) = store.boxes()
    assert box["drain"] == "drain" and "process 4711" in box["drain_text"]
    assert "process 4711 can't be killed" in session.context.directory.log.read_text()


def test_a_resume_whose_checkpoint_is_elsewhere_says_so(
    context: RunContext, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS.md row 5: the box with the checkpoint is gone for good."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    job, epoch = context.job_id, context.epoch
    assert store.move(job, transition.preparing(epoch, attempt=1, run_dir="/a"), box="box-a")
    assert store.move(job, transition.running(epoch, text="its trainer lives", started_ms=1), box="box-a")
    saved = Saved(step=100, path="/a/output/checkpoints/000100", manifest="ab" * 32, bytes=1)
    store.report(job, epoch, box="box-a", lease_seconds=600, fields={"checkpoint": saved})
    store.client.zadd(store.prefix + "leases", {job: 1})
    store.sweep()
    request = replace(claimed_again(store, job, box="box-b"), box="box-b")
    other = RunContext.load(request, settings, store)
    run_through(other, store)
    told = [event.text for event in store.get(job).history if event.box == "box-b" and event.state is State.RUNNING]
    warning = "from step 0: its checkpoint of step 100 is on box-a and no copy of it is here"
    assert len(told) == 1 and told[0].endswith(warning)
    assert f"WARNING: {warning}" in other.directory.log.read_text()


def test_a_live_run_needs_nothing_more_of_the_package(
    settings: Settings, store: Store, env: dict[str, str], tmp_path: Path
) -> None:
    """FAULTS.md row 47: pi0q is upgraded in place below a run that goes on for a day."""
    order = claimed(store)
    code = tmp_path / "watched.py"
    code.write_text(WATCHED)
    paths = os.pathsep.join(filter(None, [str(FAKE), env.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, str(code), order.to_line()],
        env=env | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "succeeded []"


def test_a_job_taken_from_it_meanwhile_is_left_alone_at_the_end(session: RunSession, store: Store) -> None:
    job = session.context.job_id
    # It would renew the lease that is to run out here.
    session.reporter.stop()
    session.reporter.join()
    store.client.zadd(store.prefix + "leases", {job: 1})
    store.sweep()
    claimed_again(store, job)
    finish(session, Stop(Reason.FINISHED, "reached step 6"))
    assert store.get(job).state is State.CLAIMED


def test_a_run_without_a_good_checkpoint_starts_again_from_nothing(context: RunContext, store: Store) -> None:
    (context.directory.output / "wandb").mkdir(parents=True)
    run_through(context, store)
    assert store.get(context.job_id).state is State.SUCCEEDED
    assert (context.directory.path / "output.old" / "wandb").is_dir()


@pytest.mark.parametrize(
    ("cause", "code", "reason", "detail"),
    [
        (StopCause.CANCEL, -9, Reason.CANCELLED_BY_USER, "cancelled by its user"),
        (StopCause.FENCED, 75, Reason.STOPPED_BY_BOX, f"{StopCause.FENCED.text}; saved and stopped"),
        (
            StopCause.FENCED,
            -9,
            Reason.STOPPED_BY_BOX,
            f"{StopCause.FENCED.text}; stopped without a save",
        ),
        (
            StopCause.HANDBACK,
            None,
            Reason.STOPPED_BY_BOX,
            "asked to hand the job back; stopped before its trainer started",
        ),
        (StopCause.HUNG, -9, Reason.HUNG, "no step for too long"),
    ],
)
def test_a_stop_cause_ends_the_run(
    session: RunSession, cause: StopCause, code: int | None, reason: Reason, detail: str
) -> None:
    heard = "hung" if cause is StopCause.HUNG else ""
    found = None if code is None else judge(Evidence(exit_code=code, heard=heard))
    with pytest.raises(Stop) as stopped:
        raise_for(session, cause, found)
    assert (stopped.value.reason, stopped.value.detail) == (reason, detail)


def test_a_wish_to_cancel_wins_over_a_retry_and_not_over_a_success(session: RunSession, store: Store) -> None:
    store.cancel(session.context.job_id, text="cancelled")
    record = store.get(session.context.job_id)
    assert End(reason=Reason.TRAINER_FAILED, detail="x").last_move(record, 1).to is State.CANCELLED
    assert End(reason=Reason.FINISHED, detail="x").last_move(record, 1).to is State.SUCCEEDED
    assert End(reason=Reason.CUDA_OUT_OF_MEMORY, detail="x").last_move(record, 1).to is State.CANCELLED


def test_its_predecessor_is_ended_before_it_begins(context: RunContext, store: Store) -> None:
    """A runner of an earlier epoch that a paused machine kept alive."""
    before, directory = subprocess.Popen(["sleep", "60"]), context.directory
    directory.make()
    directory.write_pidfile(context.job_id, 0)
    recorded = json.loads(directory.pidfile.read_text())
    recorded |= {"pid": before.pid, "start_time": identity.start_time(before.pid)}
    directory.pidfile.write_text(json.dumps(recorded))
    session = RunSession(context, store, StopRequests())
    assert before.wait(30) == -signal.SIGKILL
    assert directory.live_runner(context.epoch) == os.getpid()
    with session:
        pass
    session.log.close()


def test_a_stop_that_was_requested_before_the_session_is_left_by_at_once() -> None:
    stops, left = StopRequests(), list[StopCause]()
    stops.on_sigterm()
    stops.leave_by(left.append)
    assert left == [StopCause.HANDBACK] and stops.terminated.is_set()
    stops.request(StopCause.FENCED)
    assert left == [StopCause.HANDBACK], "no heavier cause"
    stops.request(StopCause.CANCEL)
    assert left == [StopCause.HANDBACK, StopCause.CANCEL]

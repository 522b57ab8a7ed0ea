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

from pi0q.jobs.diagnosis import judge
from pi0q.jobs.evidence import Evidence
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.spec import parse
from pi0q.jobs.state import State
from pi0q.jobs.transition import preparing, running
from pi0q.queue.settings import Settings
from pi0q.queue.store import Claimed, Store
from pi0q.queue.timing import timing
from pi0q.queue.verbs.submit import put
from pi0q.workers import identity
from pi0q.workers.run import process
from pi0q.workers.run.farewell import End
from pi0q.workers.run.order import Order
from pi0q.workers.run.runner import Runner
from pi0q.workers.run.stop import Lost, Stop

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


#: Carries an order out and prints what was imported after its trainer began, and which scripts were read.
WATCHED = """
import json, os, sys
from pathlib import Path
from pi0q.queue import settings as all_settings, store as stores
from pi0q.queue.connection import connect
from pi0q.workers.run.order import Order
from pi0q.workers.run.runner import SCRIPTS, Runner
settings = all_settings.load()
store = stores.Store(connect(settings), settings.prefix)
store.load(*SCRIPTS)
order = Order(**json.loads(sys.argv[1]))
runner, late = Runner(order, settings, store), []
spawn, read = runner.spawn, Path.read_text
def watched(*args):
    training = spawn(*args)
    before = set(sys.modules)
    def audit(event, given):
        if event == "import" and given[0].startswith(("pi0q", "redis")) and given[0] not in sys.modules:
            late.append(given[0])
        if event == "open" and str(given[0]).endswith((".lua", ".py")):
            late.append(given[0])
    sys.addaudithook(audit)
    return training
runner.spawn = watched
runner.run()
print(store.get(order.job_id).state, late)
"""


@pytest.fixture
def settings(chosen: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (chosen.home / "datasets/d/meta").mkdir(parents=True)
    (chosen.home / "datasets/d/meta/info.json").write_text("{}")
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    # A lease that no stall outlasts: a runner that prepares would end this very process.
    monkeypatch.setattr(Settings, "timing", replace(timing(600.0, 0.8), retry=0.1))
    return replace(chosen, box="box-a")


def claimed(store: Store, text: str = JOB) -> Order:
    job = str(put(store, parse(text, filename="job.yaml"))["id"])
    return claimed_again(store, job)


def claimed_again(store: Store, job: str, *, box: str = "box-a") -> Order:
    answer = store.claim(job, box=box, boot="1", lease_seconds=600, promises=[], gpus=[], text="claimed")
    assert isinstance(answer, Claimed)
    return Order(job_id=job, epoch=answer.epoch, python=sys.executable, lerobot="0.6.1")


def history(store: Store, job: str) -> list[str]:
    return [str(event.state) for event in store.get(job).history]


@pytest.fixture
def runner(settings: Settings, store: Store) -> Iterator[Runner]:
    """A runner with its order, begun or not; its threads end with the test."""
    made = Runner(claimed(store), settings, store)
    yield made
    if hasattr(made, "reporter"):
        made.reporter.stop()
        made.reporter.join()
        made.log.close()


def test_an_order_is_one_line_and_comes_back_the_same() -> None:
    order = Order(job_id="a", epoch=3, python="/x y/python", lerobot="0.6.1")
    assert order.to_line().count("\n") == 1
    assert Order(**json.loads(order.to_line())) == order


def test_a_run_goes_from_claimed_to_succeeded(runner: Runner, store: Store) -> None:
    runner.run()
    record = store.get(runner.order.job_id)
    assert history(store, record.id) == ["queued", "claimed", "preparing", "running", "succeeded"]
    assert (record.step, record.checkpoint and record.checkpoint.step) == (6, 6)


def test_the_same_order_given_twice_runs_once(runner: Runner, settings: Settings, store: Store) -> None:
    second = Runner(runner.order, settings, store)
    runner.run()
    before = store.get(runner.order.job_id)
    second.run()
    assert store.get(runner.order.job_id) == before


def test_an_order_of_an_earlier_epoch_is_not_obeyed(runner: Runner, settings: Settings, store: Store) -> None:
    job = runner.order.job_id
    store.client.zadd(store.prefix + "leases", {job: 1})
    assert store.sweep() == [job]
    claimed_again(store, job)
    with pytest.raises(Lost):
        runner.start()
    assert store.get(job).state is State.CLAIMED and not runner.directory.path.exists()


def test_running_is_told_when_the_queue_is_back(runner: Runner, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link drops at the very moment the trainer starts: the job must not stay `preparing` for two days."""
    move, refused = store.move, list[Any]()

    def drops(job: str, transition: Any, *, box: str) -> State | None:
        if transition.to is State.RUNNING and not refused:
            refused.append(transition)
            raise redis.ConnectionError("reset by peer")
        return move(job, transition, box=box)

    monkeypatch.setattr(store, "move", drops)
    runner.run()
    assert refused
    assert history(store, runner.order.job_id) == ["queued", "claimed", "preparing", "running", "succeeded"]


def test_the_end_is_told_when_the_queue_is_back(runner: Runner, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    move, refused = store.move, list[Any]()

    def drops(job: str, transition: Any, *, box: str) -> State | None:
        if transition.to is State.SUCCEEDED and len(refused) < 3:
            refused.append(transition)
            raise redis.TimeoutError("no answer")
        return move(job, transition, box=box)

    monkeypatch.setattr(store, "move", drops)
    runner.run()
    assert len(refused) == 3 and store.get(runner.order.job_id).state is State.SUCCEEDED


def test_while_nobody_hears_its_end_it_waits_between_two_tries(
    runner: Runner, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
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

    runner.heard = "lost"  # by its reporter too, which would end this very process
    runner.start()
    assert store.move(runner.order.job_id, running(runner.order.epoch, text="its trainer lives", started_ms=None))
    monkeypatch.setattr(store, "report", away)
    monkeypatch.setattr(runner._sigterm, "wait", wait)
    runner.finish(Stop(Reason.FINISHED, "reached step 6"))
    assert waited == [settings.timing.retry] * 3
    assert store.get(runner.order.job_id).state is State.SUCCEEDED


def test_a_server_that_forgot_that_it_ran_hears_of_its_end(
    runner: Runner, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS.md row 6: the last second before a kill is lost, and with it how far the job was."""
    spawn = runner.spawn

    def forgetful(*args: Any) -> Any:
        training = spawn(*args)
        monkeypatch.setattr(runner, "say_unsaid", lambda: None)
        store.client.hset(f"{store.prefix}job:{runner.order.job_id}", "state", "claimed")
        return training

    monkeypatch.setattr(runner, "spawn", forgetful)
    runner.run()
    record = store.get(runner.order.job_id)
    assert (record.state, record.step, record.detail) == (State.SUCCEEDED, 6, "reached step 6")


def test_told_to_stop_while_it_prepares_it_hands_back_and_starts_no_trainer(
    runner: Runner, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching, fetched = threading.Event(), threading.Event()

    def fetch() -> None:
        fetching.set()
        assert fetched.wait(30)

    class Exited(BaseException):
        """FAKE os._exit: this process goes on."""

    def leave(code: int) -> None:
        assert code == 0
        raise Exited

    monkeypatch.setattr(runner, "fetch", fetch)
    monkeypatch.setattr(os, "_exit", leave)
    life = threading.Thread(target=runner.run)
    life.start()
    assert fetching.wait(30)
    with pytest.raises(Exited):
        runner.on_sigterm()
    record = store.get(runner.order.job_id)
    assert (record.state, record.attempt, record.reason) == (State.QUEUED, 0, Reason.STOPPED_BY_BOX)
    fetched.set()
    life.join(30)
    assert not life.is_alive() and runner.training is None
    assert store.get(runner.order.job_id) == record


def test_a_box_whose_process_can_not_be_killed_takes_no_new_jobs(
    runner: Runner, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS.md row 34: it hangs in its driver (state D). The job goes on elsewhere."""
    assert store.announce_box("box-a", "id", {"status": "ready"})
    runner.heard = "lost"
    runner.start()
    monkeypatch.setattr(process, "kill_all", lambda *_, **__: [4711])
    runner.finish(Stop(Reason.HUNG, "no step for 900 s"))
    assert store.get(runner.order.job_id).state is State.QUEUED
    (box,) = store.boxes()
    assert box["drain"] == "drain" and "process 4711" in box["drain_text"]
    assert "process 4711 can't be killed" in runner.directory.log.read_text()


def test_a_resume_whose_checkpoint_is_elsewhere_says_so(
    runner: Runner, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS.md row 5: the box with the checkpoint is gone for good."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    job = runner.order.job_id
    epoch = runner.order.epoch
    assert store.move(job, preparing(epoch, attempt=1, run_dir="/a"), box="box-a")
    assert store.move(job, running(epoch, text="its trainer lives", started_ms=1), box="box-a")
    saved = Saved(step=100, path="/a/output/checkpoints/000100", manifest="x", bytes=1)
    store.report(job, epoch, box="box-a", lease_seconds=600, fields={"checkpoint": saved})
    store.client.zadd(store.prefix + "leases", {job: 1})
    store.sweep()
    other = Runner(replace(claimed_again(store, job, box="box-b"), box="box-b"), settings, store)
    other.run()
    told = [event.text for event in store.get(job).history if event.box == "box-b" and event.state is State.RUNNING]
    warning = "from step 0: its checkpoint of step 100 is on box-a and no copy of it is here"
    assert len(told) == 1 and told[0].endswith(warning)
    assert f"WARNING: {warning}" in other.directory.log.read_text()
    other.reporter.join()
    other.log.close()


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


def test_a_job_taken_from_it_meanwhile_is_left_alone_at_the_end(runner: Runner, store: Store) -> None:
    runner.heard = "lost"  # by its reporter too, which would end this very process
    runner.start()
    job = runner.order.job_id
    # It would renew the lease that is to run out here.
    runner.reporter.stop()
    runner.reporter.join()
    store.client.zadd(store.prefix + "leases", {job: 1})
    store.sweep()
    claimed_again(store, job)
    runner.finish(Stop(Reason.FINISHED, "reached step 6"))
    assert store.get(job).state is State.CLAIMED


def test_a_run_without_a_good_checkpoint_starts_again_from_nothing(
    runner: Runner, settings: Settings, store: Store
) -> None:
    (runner.directory.output / "wandb").mkdir(parents=True)
    runner.run()
    assert store.get(runner.order.job_id).state is State.SUCCEEDED
    assert (runner.directory.path / "output.old" / "wandb").is_dir()


@pytest.mark.parametrize(
    ("heard", "code", "reason", "detail"),
    [
        ("cancel", -9, Reason.CANCELLED_BY_USER, "cancelled by its user"),
        ("fenced", 75, Reason.STOPPED_BY_BOX, "the queue could not be reached for too long; saved and stopped"),
        ("fenced", -9, Reason.STOPPED_BY_BOX, "the queue could not be reached for too long; stopped without a save"),
        ("stop", None, Reason.STOPPED_BY_BOX, "told to hand it back; stopped before its trainer began"),
        ("hung", -9, Reason.HUNG, "no step for too long"),
    ],
)
def test_what_was_heard_ends_the_run(runner: Runner, heard: str, code: int | None, reason: Reason, detail: str) -> None:
    runner.heard = "lost"  # by its reporter too, which would end this very process
    runner.start()
    runner.heard = heard
    found = None if code is None else judge(Evidence(exit_code=code, heard=heard))
    with pytest.raises(Stop) as stopped:
        runner.answer(found)
    assert (stopped.value.reason, stopped.value.detail) == (reason, detail)


def test_a_wish_to_cancel_wins_over_a_retry_and_not_over_a_success(runner: Runner, store: Store) -> None:
    runner.heard = "cancel"
    runner.start()
    store.cancel(runner.order.job_id, text="cancelled")
    record = store.get(runner.order.job_id)
    assert End(reason=Reason.TRAINER_FAILED, detail="x").last_move(record, 1).to is State.CANCELLED
    assert End(reason=Reason.FINISHED, detail="x").last_move(record, 1).to is State.SUCCEEDED
    assert End(reason=Reason.CUDA_OUT_OF_MEMORY, detail="x").last_move(record, 1).to is State.CANCELLED


def test_its_predecessor_is_ended_before_it_begins(runner: Runner, settings: Settings) -> None:
    """A runner of an earlier epoch that a paused machine kept alive."""
    before = subprocess.Popen(["sleep", "60"])
    runner.directory.make()
    runner.directory.sign(runner.order.job_id, 0)
    tag = json.loads(runner.directory.tag_file.read_text())
    tag |= {"pid": before.pid, "start_time": identity.start_time(before.pid)}
    runner.directory.tag_file.write_text(json.dumps(tag))
    runner.heard = "lost"
    runner.start()
    assert before.wait(30) == -signal.SIGKILL
    assert runner.directory.live_runner(runner.order.epoch) == os.getpid()

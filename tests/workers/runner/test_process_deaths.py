"""Real runners with real trainers on the fake LeRobot: frozen, cut off, told to stop, left by their server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pi0q.jobs.checkpoint import MANIFEST
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.spec import parse
from pi0q.jobs.state import State
from pi0q.ops.local import server as servers
from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimant, Claimed, Reservation
from pi0q.queue.submission import new_fields, put
from pi0q.workers.runs import ledger as ledgers
from pi0q.workers.runs.lease import boottime
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.run_request import RunRequest
from tests.rig.link import Link

PATIENCE = 60.0
FAKE = Path(__file__).parents[2] / "fake_lerobot"
JOB = """
preflight: {{rehearse: never}}
resources: {{gpus: 0, disk: 1MiB}}
checkpoints: {{every: null, keep: 2}}
train:
  dataset: {{repo_id: local/d, root: datasets/d}}
  policy: {{type: act, device: cpu, push_to_hub: false}}
  steps: {steps}
  save_freq: {save_freq}
"""
#: FAKE trainer's mischief: a daemon that has left parent, session, group and environment.
LEAVES_A_DAEMON = """
import os, subprocess, sys
if "PI0Q_JOB" in os.environ and any(part.endswith("pi0q_trainer") for part in sys.orig_argv):
    code = "import subprocess; print(subprocess.Popen(['sleep', '600'], env={}, start_new_session=True, stdout=-3).pid)"
    pid = subprocess.run([sys.executable, "-S", "-c", code], stdout=-1, check=True).stdout.decode().strip()
    open(os.environ["DAEMON"], "w").write(pid)
"""


class Life:
    """One job on box-a, its runner and the line between that and the server."""

    def __init__(self, store: Store, server: servers.Server, env: dict[str, str]) -> None:
        self.store, self.link = store, Link(server.url)
        self.home = Path(env["PI0Q_HOME"])
        (self.home / "datasets/d/meta").mkdir(parents=True)
        (self.home / "datasets/d/meta/info.json").write_text("{}")
        paths = [str(FAKE), os.environ.get("PYTHONPATH", "")]
        self.env = env | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PI0Q_REDIS_URL": self.link.url,
            "FAKE_STEP_SECONDS": "0.03",
        }
        self.runners: list[subprocess.Popen[str]] = []
        self.job = ""
        self.lend(600.0)

    def lend(self, lease: float, fence: float = 0.8) -> None:
        """Where the end of a lease is waited for it is short, and yet longer than a busy machine stalls."""
        self.lease = lease
        self.env |= {"PI0Q_LEASE_SECONDS": str(lease), "PI0Q_FENCE": str(fence)}

    def submit(self, *, steps: int = 99_999, save_freq: int = 99_999) -> None:
        spec = parse(JOB.format(steps=steps, save_freq=save_freq), filename="job.yaml")
        self.job = str(put(self.store, new_fields(spec))["id"])

    def claim(self, box: str = "box-a") -> int:
        claimant = Claimant(box=box, boot="1", lease_seconds=self.lease)
        claimed = self.store.claim(self.job, claimant, Reservation(), text="claimed")
        assert isinstance(claimed, Claimed), claimed
        return claimed.epoch

    def start(self, **env: str) -> psutil.Process:
        """A runner with its order."""
        order = RunRequest(
            job_id=self.job, epoch=self.claim(), python=sys.executable, lerobot="0.6.1", box="box-a", boot="1"
        )
        runner = subprocess.Popen(
            [sys.executable, "-m", "pi0q.workers.runner.runner_main"],
            env=self.env | env,
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.runners.append(runner)
        assert runner.stdin is not None
        runner.stdin.write(order.to_line())
        runner.stdin.close()
        return psutil.Process(runner.pid)

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.home / "runs" / self.job)

    @property
    def log(self) -> str:
        return self.directory.log.read_text() if self.directory.log.exists() else ""

    def events(self, kind: str) -> list[dict[str, Any]]:
        whole = self.directory.events.read_text().rpartition("\n")[0] if self.directory.events.exists() else ""
        return [event for event in map(json.loads, whole.splitlines()) if event["event"] == kind]

    def until(self, true: Callable[[], Any], what: str = "") -> Any:
        """Looks at what no channel tells of until it is so."""
        deadline = time.monotonic() + PATIENCE
        while not (found := true()):
            own = self.directory.path / "runner.log"
            said = self.log[-3000:] + (own.read_text() if own.exists() else "")
            assert time.monotonic() < deadline, f"{what} did not come\n{said}"
            time.sleep(0.02)
        return found

    def steps(self, step: int) -> psutil.Process:
        """Waits for that step; the trainer."""
        self.until(lambda: any(event["step"] >= step for event in self.events("step")), f"step {step}")
        return psutil.Process(self.events("start")[-1]["pid"])

    def trained(self, trainer: psutil.Process) -> None:
        self.until(lambda: gone(trainer), "the trainer's end")

    def ended(self) -> int:
        return self.runners[-1].wait(PATIENCE)

    def saved(self) -> list[str]:
        return sorted(path.name for path in self.directory.checkpoints.glob("[0-9]*"))

    def record(self) -> Record:
        return self.store.get(self.job)

    def last_reason(self) -> Reason | None:
        return self.record().history[-1].reason

    def lease_end(self) -> float:
        """By the clock of the machine, in its seconds."""
        return int.from_bytes(self.directory.lease.read_bytes()[8:], "little") / 1e9


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def life(store: Store, server: servers.Server, env: dict[str, str]) -> Iterator[Life]:
    made = Life(store, server, env)
    yield made
    for runner in made.runners:
        if runner.poll() is None:
            runner.kill()
            runner.wait()
    made.link.close()


def test_a_trainer_whose_runner_stands_still_saves_and_stops_within_the_lease(life: Life) -> None:
    """FAULTS.md row 13: nobody is there to stop it; it knows by itself."""
    life.lend(20.0, fence=0.5)
    life.submit()
    runner = life.start()
    trainer = life.steps(3)
    runner.suspend()
    end = life.lease_end()
    life.trained(trainer)
    assert boottime() < end
    (step,) = life.saved()
    assert (life.directory.checkpoints / "last").resolve().name == step
    life.store.client.delete(life.store.prefix + "swept")
    life.until(lambda: boottime() > end + 0.2)
    life.until(lambda: life.store.sweep(every_seconds=0.001) or life.record().state is State.QUEUED, "the sweep")
    epoch = life.claim("box-b")
    ledger = json.loads(life.directory.ledger.read_bytes())
    runner.resume()
    assert life.ended() == 0
    assert not list(life.directory.checkpoints.rglob(MANIFEST)), "it is not this runner's to vouch for any more"
    # It may note its own end before the server says whose the job is; it notes no other claim.
    noted = json.loads(life.directory.ledger.read_bytes())
    assert [noted[name] for name in ("job_id", "epoch", "box")] == [ledger[name] for name in ("job_id", "epoch", "box")]
    assert (life.record().state, life.record().epoch, life.record().box) == (State.CLAIMED, epoch, "box-b")


def test_the_whole_box_stands_still_and_nothing_lands_under_the_old_epoch(life: Life) -> None:
    """FAULTS.md row 13: runner and trainer wake together, after another box took the job."""
    life.lend(12.0)
    life.submit(save_freq=7)
    # Neither in the midst of a save nor of a seal, where what has begun comes to its end.
    runner = life.start(FAKE_FAULT="stop@12")
    trainer = life.steps(11)
    life.until(lambda: trainer.status() == psutil.STATUS_STOPPED and "checkpoint 7 verified" in life.log)
    runner.suspend()
    end = life.lease_end()
    before = {path: path.stat().st_mtime_ns for path in life.directory.output.rglob("*")}
    life.until(lambda: boottime() > end + 0.2)
    life.until(lambda: life.store.sweep(every_seconds=0.001) or life.record().state is State.QUEUED, "the sweep")
    life.claim("box-b")
    for process in (trainer, runner):
        process.resume()
    assert life.ended() == 0 and gone(trainer)
    after = {path: path.stat().st_mtime_ns for path in life.directory.output.rglob("*")}
    assert after == before
    assert last_step(life) == 11
    assert life.record().box == "box-b" and life.record().state is State.CLAIMED


def test_cut_off_for_longer_than_its_lease_it_saves_and_stops_and_hands_back_later(life: Life) -> None:
    """FAULTS.md row 11, on a link that swallows everything."""
    life.lend(30.0, fence=0.3)
    life.submit()
    life.start()
    trainer = life.steps(3)
    life.link.swallow()
    life.trained(trainer)
    assert boottime() < life.lease_end()
    words = "the queue could not be reached for too long; saved and stopped"
    life.until(lambda: words in life.log, words)
    life.link.heal()
    assert life.ended() == 0
    assert (life.record().state, life.last_reason()) == (State.QUEUED, Reason.STOPPED_BY_BOX)
    (step,) = life.saved()
    saved = life.record().checkpoint
    assert saved is not None and saved.step == int(step) == last_step(life), "not one step is lost"


def last_step(life: Life) -> int:
    return int(life.events("step")[-1]["step"])


def test_a_save_that_would_outlast_the_lease_is_ended_with_it(life: Life) -> None:
    life.lend(30.0, fence=0.3)
    life.submit()
    life.start(FAKE_SAVE_SECONDS="600")
    trainer = life.steps(3)
    life.link.refuse()
    life.trained(trainer)
    life.until(lambda: "stopped without a save" in life.log)
    assert "it did not stop in time: the trainer is killed" in life.log, "before the lease was over"
    assert not (life.directory.checkpoints / "last").is_symlink()
    life.link.accept()
    assert life.ended() == 0
    assert life.record().state is State.QUEUED


def test_cut_off_for_less_it_trains_on_and_catches_up(life: Life) -> None:
    """FAULTS.md row 10."""
    life.submit(steps=150, save_freq=50)
    life.start()
    life.steps(3)
    life.link.cut()
    life.link.refuse()
    life.until(lambda: "checkpoint 50 verified" in life.log)
    life.link.accept()
    assert life.ended() == 0
    record = life.record()
    assert (record.state, record.step, record.attempt, len(life.events("start"))) == (State.SUCCEEDED, 150, 1, 1)
    assert life.store.tail(life.job)[0].endswith("finished: reached step 150\n")


@pytest.mark.parametrize("how", ["gone", "queued"])
def test_a_server_with_older_data_is_told_and_the_trainer_lives_on(life: Life, how: str) -> None:
    """FAULTS.md row 7: the record is gone, or as it was before the claim."""
    life.submit(steps=150, save_freq=50)
    job = f"{life.store.prefix}job:{life.job}"
    client = life.store.client
    client.copy(job, job + ":kept")
    life.start()
    life.until(lambda: "checkpoint 50 verified" in life.log)
    pipe = client.pipeline(transaction=True)
    pipe.delete(job, f"{life.store.prefix}leases", f"{life.store.prefix}owned:box-a")
    if how == "queued":
        pipe.copy(job + ":kept", job)
    pipe.execute()
    assert life.ended() == 0
    record = life.record()
    assert (record.state, record.step, record.epoch, len(life.events("start"))) == (State.SUCCEEDED, 150, 1, 1)
    assert record.checkpoint is not None and record.checkpoint.step == 150
    assert "came back with older data" in life.log


def test_sigterm_saves_and_hands_back(life: Life) -> None:
    """A platform that ends a container politely, or systemd."""
    life.submit()
    runner = life.start()
    trainer = life.steps(3)
    runner.terminate()
    assert life.ended() == 0 and gone(trainer)
    record = life.record()
    assert (record.state, record.attempt, life.last_reason()) == (State.QUEUED, 0, Reason.STOPPED_BY_BOX)
    assert record.history[-1].text == "asked to hand the job back; saved and stopped"
    assert record.checkpoint is not None and life.saved() == [f"{record.checkpoint.step:06}"]
    assert record.checkpoint.step == last_step(life), "not one step is lost"


def test_a_drain_now_saves_and_hands_back(life: Life) -> None:
    life.submit()
    life.start()
    life.steps(3)
    life.store.request_handback(life.job, text="box-a is drained")
    assert life.ended() == 0
    record = life.record()
    assert (record.state, record.wish, life.last_reason()) == (State.QUEUED, "", Reason.STOPPED_BY_BOX)
    assert record.checkpoint is not None and record.checkpoint.step == last_step(life), "not one step is lost"


def test_a_cancel_is_not_kept_waiting_by_the_save_of_a_stop(life: Life) -> None:
    life.submit()
    life.start(FAKE_SAVE_SECONDS="600")
    life.steps(3)
    life.store.request_handback(life.job, text="box-a is drained")
    life.until(lambda: life.events("saving"))
    life.store.cancel(life.job, text="cancelled")
    assert life.ended() == 0
    assert life.record().state is State.CANCELLED


def test_an_end_that_nobody_hears_is_in_the_ledger(life: Life) -> None:
    """The server is away when the training ends; the runner is ended politely: the box carries the ending out."""
    life.submit(steps=40, save_freq=20)
    runner = life.start()
    life.steps(3)
    life.link.refuse()
    life.until(lambda: "finished: reached step 40" in life.log)
    found: ledgers.Ledger = life.until(lambda: (f := ledgers.read(life.directory.ledger)) and f.ending and f)
    runner.terminate()
    assert life.ended() == 0
    assert life.record().state is State.RUNNING
    assert found.ending is not None
    last = found.ending.transition(found.epoch)
    assert life.store.move(life.job, last, box=found.box) is State.SUCCEEDED
    assert life.record().detail == "reached step 40"
    assert '"step": 40' in found.fields["checkpoint"]


def test_a_daemon_that_left_everything_dies_with_the_run(life: Life, tmp_path: Path) -> None:
    """FAULTS.md row 35."""
    (tmp_path / "mischief").mkdir()
    (tmp_path / "mischief" / "sitecustomize.py").write_text(LEAVES_A_DAEMON)
    paths = os.pathsep.join([str(tmp_path / "mischief"), life.env["PYTHONPATH"]])
    life.submit()
    life.start(PYTHONPATH=paths, DAEMON=str(tmp_path / "daemon"))
    life.steps(3)
    daemon = psutil.Process(int((tmp_path / "daemon").read_text()))
    life.store.cancel(life.job, text="cancelled")
    assert life.ended() == 0
    assert life.record().state is State.CANCELLED
    assert gone(daemon)


def test_a_hung_trainer_is_dumped_and_ended_and_tried_once_more(life: Life, tmp_path: Path) -> None:
    """FAULTS.md row 34."""
    life.submit(steps=40, save_freq=10)
    once = {"FAKE_FAULT": "hang@25", "FAKE_FAULT_ONCE": str(tmp_path / "once"), "PI0Q_HANG_SECONDS": "10"}
    life.start(**once)
    assert life.ended() == 0
    record = life.record()
    assert (record.state, record.attempt, life.last_reason()) == (State.QUEUED, 1, Reason.HUNG)
    assert "the hung trainer is stopped" in life.log and "in before_step" in life.log
    life.start(**once)
    assert life.ended() == 0
    record = life.record()
    assert (record.state, record.attempt) == (State.SUCCEEDED, 2)
    assert [event["step"] for event in life.events("ready")] == [0, 20]


def test_a_save_on_demand_is_heard_when_the_line_is_back_and_once(life: Life) -> None:
    life.submit()
    life.start()
    life.steps(3)
    life.link.refuse()
    _, wish = life.store.request_checkpoint(life.job, text="ada asks", pin=True)
    assert life.store.request_checkpoint(life.job, text="bob asks") == (State.RUNNING, wish)
    life.link.accept()
    record = life.until(lambda: (found := life.record()).save_served == wish and found)
    assert (record.save_detail, record.pinned_steps) == ("", (record.save_step,))
    assert record.checkpoint is not None and record.checkpoint.step == record.save_step
    assert record.save_seconds is not None
    # It went on, and did not save again.
    life.steps(record.save_step + 5)
    (saved,) = life.events("saved")
    assert (saved["step"], saved["wanted"]) == (record.save_step, True)
    # Its runner dies with a wish that it never heard; the next one answers it at the first chance.
    life.link.refuse()
    _, late = life.store.request_checkpoint(life.job, text="ada asks again")
    life.runners[-1].kill()
    life.runners[-1].wait()
    life.store.client.zadd(life.store.prefix + "leases", {life.job: 1})
    life.store.client.delete(life.store.prefix + "swept")
    life.store.sweep()
    life.link.accept()
    life.start()
    life.until(lambda: life.record().save_served == late)
    first, second = life.events("saved")
    ready = life.events("ready")[-1]["step"]
    assert ready == first["step"] < second["step"] == life.record().save_step
    assert life.saved() == [f"{event['step']:06}" for event in (first, second)]


def test_a_runner_that_can_t_write_its_log_says_so(life: Life) -> None:
    life.submit()
    life.directory.path.mkdir(parents=True)
    life.directory.log.symlink_to("/none/there")
    life.start()
    record = life.until(lambda: (found := life.store.get(life.job)).reason and found, "its end")
    assert (record.state, record.reason) == (State.QUEUED, Reason.RUNNER_LOST)
    assert "the runner failed with FileNotFoundError" in str(record.history[-1].text)

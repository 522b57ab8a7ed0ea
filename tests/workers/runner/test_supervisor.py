"""One life of the trainer: the real hook on the fake LeRobot, seen through to its end."""

from __future__ import annotations

import gc
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from pi0q.workers.checkpoints import local_store
from pi0q.workers.checkpoints.retention import Retention
from pi0q.workers.checkpoints.sealer import Sealer
from pi0q.workers.host import process_tree
from pi0q.workers.runner import supervisor as module
from pi0q.workers.runner.stop_requests import StopRequests
from pi0q.workers.runner.supervisor import Supervisor
from pi0q.workers.runner.training import StopAfterSave
from pi0q.workers.runs import lease as leases
from pi0q.workers.runs.disk_usage import CheckpointReport, DiskUsage
from pi0q.workers.runs.eta import SaveSchedule
from pi0q.workers.runs.lease import Lease, boottime
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.stop import StopCause
from pi0q.workers.runs.trainer_log import Log, mirror_into
from pi0q.workers.trainer import launch
from pi0q.workers.trainer.event_reader import EventReader
from pi0q.workers.trainer.trainer_process import TrainerProcess
from pi0q.workers.trainer.watchdog import Watchdog
from tests.rig.cluster import wait

FAKE = Path(__file__).parents[2] / "fake_lerobot"


class Life:
    """What a runner has of one trainer."""

    def __init__(self, place: Path) -> None:
        self.job = secrets.token_hex(6)
        self.directory = RunDirectory(place / "run")
        self.directory.make()
        self.log = Log(self.directory.log, {})
        self.progress = Progress(SaveSchedule(steps=9))
        self.progress.update = self.update  # type: ignore[method-assign]
        self.seen: list[dict[str, Any]] = []
        self.lease = Lease(self.directory.lease, seconds=10**6, fence=10**6, since=boottime())
        self.hang_seconds, self.stops, self.stop_requests = 10.0**6, list[StopCause](), StopRequests()
        self.usage = DiskUsage(self.directory)

    def close(self) -> None:
        process_tree.kill_all(self.job, 10**9)
        self.log.close()
        self.log.ranks.close()

    def update(self, **fields: Any) -> None:
        self.progress.fields.update(fields)
        self.seen.append(fields)

    def when(self, true: Callable[[], object], act: Callable[[], object]) -> None:
        """Does it once that is so, from another thread as a reporter would."""

        def wait_and_act() -> None:
            wait(true, "what is waited for", seconds=600.0)
            act()

        threading.Thread(target=wait_and_act, daemon=True).start()

    def at_step(self, step: int, act: Callable[[], object]) -> None:
        self.when(lambda: (self.progress.fields.get("step") or -1) >= step, act)

    def fence(self) -> None:
        """The runner comes to its fence."""
        self.lease.fence_seconds = 0.0

    def start(
        self, *flags: str, keep: int = 2, stop_after_save: bool = False, ranks: int = 1, **env: str
    ) -> Supervisor:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PI0Q_", "FAKE_"))}
        marks = {process_tree.MARK: self.job, process_tree.MARK_EPOCH: "1", "PI0Q_EVENTS": str(self.directory.pipe)}
        usual = ["--dataset.repo_id=l/x", "--policy.type=act", "--policy.push_to_hub=false"]
        argv = [sys.executable, str(launch.HOOK), *usual, f"--output_dir={self.directory.output}", *flags]
        env = {**clean, "PYTHONPATH": str(FAKE), "PYTHONUNBUFFERED": "1", **marks, **env}
        command = launch.TrainerCommand(argv=argv, env=env, ranks=ranks)
        self.log.ranks.begin(ranks)
        self.watchdog = Watchdog(self.hang_seconds, compiles=False, now=time.monotonic())
        retention = Retention(self.directory.checkpoints, keep=keep, lease=self.lease)
        follow_seals: list[TrainerListener] = [retention, CheckpointReport(self.progress, self.usage)]
        follow_seals += [StopAfterSave(self.stop_requests)] if stop_after_save else []
        supervisor = Supervisor(
            TrainerProcess(command, directory=self.directory, job_id=self.job, epoch=1),
            EventReader(self.log, self.directory, steps=self.progress.steps),
            lease=self.lease,
            listeners=[self.progress, self.watchdog, Sealer(1, self.lease, self.progress, follow_seals)],
            request_stop=self.request_stop,
        )
        self.stop_requests.start(lambda: supervisor)
        return supervisor

    def request_stop(self, cause: StopCause) -> None:
        """As a runner does: the first cause counts."""
        if not self.stops:
            self.stops.append(cause)
            self.stop_requests.stop_trainer(cause)

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.directory.events.read_text().splitlines()]

    def steps_kept(self) -> list[str]:
        return sorted(path.name for path in self.directory.checkpoints.glob("[0-9]*"))


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path)
    with mirror_into(made.log):
        yield made
    made.close()


def test_a_whole_training_is_seen_through(life: Life) -> None:
    assert life.start("--steps=6", "--save_freq=2").run().code == 0
    assert life.events()[:2] == ["start", "ready"] and life.events()[-1] == "end"
    assert life.events().count("step") == 6
    assert life.progress.fields["step"] == 6
    assert "End of training" in life.log.take()


def test_every_save_is_sealed_and_the_last_ones_are_kept(life: Life) -> None:
    assert life.start("--steps=8", "--save_freq=2", keep=2).run().code == 0
    assert life.steps_kept() == ["000006", "000008"]
    saved = life.progress.fields["checkpoint"]
    assert local_store.newest(life.directory.checkpoints) == saved
    assert [f["checkpoint"].step for f in life.seen if "checkpoint" in f] == [2, 4, 6, 8]
    assert life.progress.fields["fruitless"] == 0


def test_the_exit_code_and_the_error_are_its_own(life: Life) -> None:
    assert life.start("--steps=6", FAKE_FAULT="oom@3").run().code == 1
    assert life.progress.error and life.progress.error.kind == "OutOfMemoryError"
    assert life.start("--steps=6", "--no.such=1").run().code == 2


def test_a_killed_trainer_is_a_negative_code(life: Life) -> None:
    training = life.start("--steps=1000", FAKE_STEP_SECONDS="0.01")
    life.at_step(3, lambda: os.kill(training.process.pid, signal.SIGKILL))
    assert training.run().code == -signal.SIGKILL


def test_told_to_stop_it_saves_first(life: Life) -> None:
    training = life.start("--steps=10000", "--save_freq=10000", FAKE_STEP_SECONDS="0.01")
    life.at_step(3, lambda: training.stop(StopCause.FENCED))
    assert training.run().code == 75
    (kept,) = life.steps_kept()
    assert life.progress.fields["checkpoint"].step == int(kept) == life.progress.fields["step"]


def test_cancelled_it_ends_without_a_save(life: Life) -> None:
    training = life.start("--steps=10000", "--save_freq=10000", FAKE_STEP_SECONDS="0.01")
    life.at_step(3, lambda: training.stop(StopCause.CANCEL))
    assert training.run().code != 0
    assert life.steps_kept() == [] and process_tree.marked(life.job, 1) == []


def test_one_that_does_not_stop_is_ended(life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.3)
    monkeypatch.setattr(process_tree, "POLITE_SECONDS", 0.3)
    hangs = tmp_path / "hangs"
    training = life.start("--steps=1000", FAKE_FAULT="hang@4", FAKE_FAULT_ONCE=str(hangs))
    # At the step before it could still save and stop as it is told.
    life.when(hangs.exists, lambda: training.stop(StopCause.FENCED))
    assert training.run().code != 75
    assert "it did not stop in time: the trainer is killed" in life.log.take()


def test_past_the_fence_it_saves_stops_and_is_verified(life: Life) -> None:
    training = life.start("--steps=10000", "--save_freq=10000", FAKE_STEP_SECONDS="0.01")
    life.at_step(3, life.fence)
    assert training.run().code == 75
    assert life.stops == [StopCause.FENCED] and life.lease.is_valid()
    (kept,) = life.steps_kept()
    assert life.progress.fields["checkpoint"].step == int(kept)


def test_a_save_that_takes_too_long_is_ended_before_the_lease(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MARGIN_SECONDS", 60.0)

    def last_call() -> None:
        life.lease.since = boottime() + leases.MARGIN_SECONDS - life.lease.seconds

    training = life.start("--steps=10000", FAKE_STEP_SECONDS="0.01", FAKE_SAVE_SECONDS="600")
    life.at_step(3, life.fence)
    life.when(lambda: life.progress.saving, last_call)
    assert training.run().code == -signal.SIGKILL
    assert life.lease.is_valid() and "it did not stop in time: the trainer is killed" in life.log.take()
    assert "checkpoint" not in life.progress.fields


def test_a_save_behind_the_lease_is_not_verified(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = local_store.seal

    def slow(*args: Any, **how: Any) -> Any:
        life.lease.revoke()
        return seal(*args, **how)

    monkeypatch.setattr(local_store, "seal", slow)
    training = life.start("--steps=1000", "--save_freq=10", FAKE_STEP_SECONDS="0.01")
    assert training.run().code in (77, -signal.SIGKILL)
    assert "the lease expired before checkpoint 10 was verified" in life.log.take()
    assert "checkpoint" not in life.progress.fields
    assert not list(life.directory.checkpoints.glob("*/pi0q.manifest.json"))


def test_when_it_is_lost_it_is_ended_at_once_and_not_a_word_is_written(life: Life) -> None:
    training = life.start("--steps=10000", "--save_freq=10000", FAKE_STEP_SECONDS="0.01")
    life.at_step(3, lambda: training.stop(StopCause.LOST))
    assert training.run().code == -signal.SIGKILL
    assert life.steps_kept() == []
    assert "pi0q:" not in life.log.take()


def test_a_hung_one_is_dumped_and_ended(life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS.md row 34."""
    monkeypatch.setattr(process_tree, "POLITE_SECONDS", 60.0)
    hangs = tmp_path / "hangs"
    training = life.start("--steps=1000", FAKE_FAULT="hang@4", FAKE_FAULT_ONCE=str(hangs))
    life.when(hangs.exists, lambda: setattr(life.watchdog, "seconds", 0.5))
    # It is dead to SIGTERM; what it was asked for before that, it does in its own time.
    life.when(lambda: "in before_step" in life.directory.log.read_text(), lambda: setattr(training, "_deadline", 0.0))
    assert training.run().code == -signal.SIGKILL
    log = life.log.take()
    assert life.stops == [StopCause.HUNG] and "the hung trainer is stopped" in log
    assert "most recent call first" in log and "in before_step" in log


def test_one_that_only_saves_for_long_does_not_hang(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    training = life.start("--steps=4", "--save_freq=2", FAKE_SAVE_SECONDS="1.2")
    event = life.watchdog.event

    def impatient(what: Mapping[str, Any], now: float) -> None:
        life.watchdog.seconds = 0.5 if what["event"] == "saving" else life.hang_seconds
        event(what, now)

    monkeypatch.setattr(life.watchdog, "event", impatient)
    assert training.run().code == 0
    assert life.stops == []


def test_one_that_can_not_be_killed_holds_nobody_up(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """State D: no signal reaches it. Here the signals are what fails."""
    kill_all = process_tree.kill_all
    training = life.start("--steps=100000", FAKE_STEP_SECONDS="0.01")
    monkeypatch.setattr(process_tree, "kill_all", lambda *_, **__: [training.process.pid])
    life.at_step(3, lambda: training.stop(StopCause.LOST))
    assert training.run().code == -signal.SIGKILL
    assert training.process.undead == [training.process.pid]
    assert psutil.Process(training.process.pid).status() != psutil.STATUS_ZOMBIE
    assert kill_all(life.job, 1) == []


def test_a_rehearsal_is_stopped_behind_its_first_sealed_save(life: Life) -> None:
    training = life.start("--steps=10000", "--save_freq=5", stop_after_save=True, FAKE_STEP_SECONDS="0.02")
    assert training.run().code == 75
    assert life.progress.fields["checkpoint"].step < 10000


def test_a_flood_is_read_as_fast_as_it_comes(life: Life) -> None:
    assert life.start("--steps=4", FAKE_FAULT="flood@2").run().code == 0
    assert life.directory.log.read_text().count("flood " * 40) == 20_000
    assert life.events().count("step") == 4


def test_a_save_that_is_not_whole_is_not_verified_and_the_training_goes_on(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(directory: Path, **_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local_store, "seal", full)
    assert life.start("--steps=4", "--save_freq=2").run().code == 0
    assert "Could not verify checkpoint 2: [Errno 28]" in life.log.take()
    assert "checkpoint" not in life.progress.fields


def test_a_stop_after_its_end_does_no_harm(life: Life) -> None:
    training = life.start("--steps=2")
    training.run()
    training.stop(StopCause.CANCEL)


def test_it_leaves_no_open_file_behind(life: Life) -> None:
    gc.collect()  # what earlier tests left
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in (4, 6):
        config = life.directory.checkpoints / "000004" / "pretrained_model" / "train_config.json"
        flags = ["--resume=true", f"--config_path={config}"]
        assert life.start(f"--steps={number}", "--save_freq=2", *(flags if number > 4 else [])).run().code == 0
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_kernels_that_are_compiled_on_the_way_are_shown_as_that(life: Life) -> None:
    training = life.start("--steps=6", FAKE_FAULT="autotune@4")
    assert training.run().code == 0
    phases = [fields["phase"] for fields in life.seen if "phase" in fields]
    assert "compiling" in phases and phases[-1] == ""
    assert life.watchdog.compiles, "and the hang watch knows that they may come again"


def test_a_lerobot_without_a_hook_is_read_off_its_console(life: Life) -> None:
    # Behind a line that it prints after a save it waits until that was seen: a save that nobody saw is passed over.
    flags = ["--steps=9", "--save_freq=3", "--log_freq=4"]
    training = life.start(*flags, keep=2, FAKE_LAYOUT="other", FAKE_FAULT="stop@5,stop@9")

    def sealed(step: int) -> bool:
        return step in [fields["checkpoint"].step for fields in life.seen if "checkpoint" in fields]

    def go_on() -> None:
        wait(lambda: psutil.Process(training.process.pid).status() == psutil.STATUS_STOPPED, "its standing still")
        os.kill(training.process.pid, signal.SIGCONT)

    life.when(lambda: sealed(3), go_on)
    life.when(lambda: sealed(6), go_on)
    assert training.run().code == 0
    assert "step" not in life.events()
    assert life.progress.fields["step"] == 9, "off the bar: its log says 4 and 8"
    assert life.progress.fields["loss"] > 0
    assert life.steps_kept() == ["000006", "000009"]
    assert life.progress.fields["checkpoint"] == local_store.newest(life.directory.checkpoints)
    assert "can't be hooked" in life.log.take()

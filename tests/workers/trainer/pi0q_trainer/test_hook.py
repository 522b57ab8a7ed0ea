"""The hook on the fake LeRobot: real processes, signals and FIFOs, milliseconds a step."""

from __future__ import annotations

import json
import os
import queue
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pi0q.jobs.estimates import save_cost
from pi0q.workers.trainer import launch
from pi0q.workers.trainer.pi0q_trainer import events, exits, pi0, wandb_init
from pi0q.workers.trainer.pi0q_trainer import lease as leases
from pi0q.workers.trainer.pi0q_trainer.hook import Hook
from pi0q.workers.trainer.pi0q_trainer.save_interval import SHARE, SaveCost
from tests.rig.cluster import wait

TRAINER = str(launch.HOOK)
FAKE = Path(__file__).parents[3] / "fake_lerobot"
BOTH = pytest.mark.parametrize("layout", ["0.6", "0.4"])
#: Where the real WandB is installed it is imported up to three times, half a minute in all on a busy machine.
PATIENCE = 180.0

Event = dict[str, Any]


class Run:
    """One trainer on the fake, its events read from a FIFO as the runner does."""

    def __init__(self, place: Path, flags: list[str], env: dict[str, str], program: str) -> None:
        self.fifo = place / f"events.{len(list(place.iterdir()))}"
        os.mkfifo(self.fifo)
        self.reader = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK)
        self.rest, self.events = b"", list[Event]()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PI0Q_", "FAKE_"))}
        self.process = subprocess.Popen(
            [sys.executable, program, *flags],
            env={**clean, "PYTHONPATH": str(FAKE), "PI0Q_EVENTS": str(self.fifo), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def until(self, kind: str, **fields: object) -> Event:
        """Read events up to one of this kind with these fields."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            line, newline, self.rest = self.rest.partition(b"\n")
            if newline:
                event: Event = json.loads(line)
                self.events.append(event)
                if event["event"] == kind and fields.items() <= event.items():
                    return event
                continue
            self.rest = line
            ended = self.process.poll() is not None
            if not select.select([self.reader], [], [], 0 if ended else 0.05)[0]:
                if ended:
                    break
                continue
            self.rest += os.read(self.reader, 65536)
        raise AssertionError(f"no {kind} {fields}, only {self.kinds()}; it printed {self.output()[-2000:]}")

    def stands_still(self) -> None:
        """Waits until it has come to a fault that stops it."""
        wait(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED, "its standing still")

    def go_on(self, *signals: int) -> None:
        """Lets it go on; these signals are the first that it meets."""
        for sig in (*signals, signal.SIGCONT):
            self.process.send_signal(sig)

    def output(self) -> str:
        self.process.kill()
        return self.process.communicate()[0].decode()

    def finish(self) -> int:
        """Wait for the end; all events are read then."""
        self.printed = self.process.communicate(timeout=PATIENCE)[0].decode()
        while select.select([self.reader], [], [], 0)[0]:
            self.rest += os.read(self.reader, 65536)
        self.events += [json.loads(line) for line in self.rest.splitlines()]
        self.rest = b""
        return self.process.returncode

    def kinds(self) -> list[str]:
        return [event["event"] for event in self.events]

    def one(self, kind: str) -> Event:
        (event,) = self.all(kind)
        return event

    def all(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]

    def losses(self) -> dict[int, float]:
        return {event["step"]: event["loss"] for event in self.all("step")}


class Starter:
    def __init__(self, place: Path) -> None:
        self.place, self.output, self.runs = place, place / "output", list[Run]()

    def __call__(self, *flags: str, **env: str) -> Run:
        mine = ["--dataset.repo_id=local/x", "--policy.type=pi0", "--policy.push_to_hub=false"]
        return self.raw(*mine, f"--output_dir={self.output}", *flags, **env)

    def raw(self, *flags: str, program: str = TRAINER, **env: str) -> Run:
        self.runs.append(Run(self.place, list(flags), env, program))
        return self.runs[-1]

    def resume(self, *flags: str, **env: str) -> Run:
        config = (self.output / "checkpoints/last/pretrained_model/train_config.json").resolve()
        return self.raw(f"--config_path={config}", "--resume=true", *flags, **env)

    def saved(self) -> list[str]:
        places = self.output.glob("checkpoints/[0-9]*")
        return sorted(place.name for place in places)

    def config(self, step: str) -> dict[str, Any]:
        place = self.output / "checkpoints" / step / "pretrained_model/train_config.json"
        return dict(json.loads(place.read_text()))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    for run in starter.runs:
        run.process.kill()
        run.process.communicate()
        os.close(run.reader)


# What is told


@BOTH
def test_events_of_a_whole_run(start: Starter, layout: str) -> None:
    run = start("--steps=4", "--save_freq=2", FAKE_LAYOUT=layout)
    assert run.finish() == 0
    save = ["saving", "saved"]
    assert run.kinds() == ["start", "ready", "step", "step", *save, "step", "step", *save, "end"]
    assert run.one("start") | {"t": 0, "torch": None} == {
        "event": "start",
        "t": 0,
        "hooked": True,
        "lerobot": "0.6.1",
        "torch": None,
        "python": sys.version.split()[0],
        "pid": run.process.pid,
    }
    assert (run.one("ready")["step"], run.one("ready")["steps"], run.one("ready")["params"]) == (0, 4, 4096)
    assert [(event["step"], event["steps"]) for event in run.all("step")] == [(i, 4) for i in (1, 2, 3, 4)]
    numbers = ("loss", "lr", "grad_norm", "update_s", "data_s")
    assert all(isinstance(run.all("step")[0][name], float) for name in numbers)
    saved = run.all("saved")[0]
    assert (saved["step"], saved["path"]) == (2, str(start.output / "checkpoints/000002"))
    assert run.one("end")["step"] == 4


@pytest.mark.parametrize(("mode", "url"), [("offline", None), ("online", "https://wandb.ai/fake/p/runs/abc")])
def test_wandb_run_is_told(start: Starter, mode: str, url: str | None) -> None:
    wandb = ["--wandb.enable=true", f"--wandb.mode={mode}", "--wandb.run_id=abc", "--wandb.project=p"]
    run = start("--steps=1", *wandb)
    assert run.finish() == 0
    told = run.one("wandb")
    assert (told["run_id"], told["url"], told["offline"]) == ("abc", url, mode == "offline")
    assert Path(told["dir"], "run-abc.wandb").exists()


def test_a_compile_is_told(start: Starter) -> None:
    run = start("--steps=1", "--policy.compile_model=true")
    assert run.finish() == 0
    assert run.kinds().index("compiling") < run.kinds().index("step")


def test_an_exception_is_told_and_printed(start: Starter) -> None:
    run = start("--steps=4", FAKE_FAULT="oom@2")
    assert run.finish() == 1
    assert run.one("error")["type"] == "OutOfMemoryError"
    assert run.one("error")["message"].startswith("CUDA out of memory. Tried to allocate")
    assert "Traceback (most recent call last)" in run.printed


def test_exit_codes_of_lerobot_stay(start: Starter) -> None:
    assert start("--steps=4", FAKE_FAULT="exit3@2").finish() == 3
    assert start("--no_such_flag=1").finish() == 2
    assert [run.one("error")["message"] for run in start.runs] == ["3", "2"]


# Saves on demand


@BOTH
def test_sigusr1_saves_and_goes_on(start: Starter, layout: str) -> None:
    run = start("--steps=100000", "--save_freq=70000", FAKE_LAYOUT=layout, FAKE_STEP_SECONDS="0.005")
    run.until("step", step=3)
    run.process.send_signal(signal.SIGUSR1)
    step = run.until("saved")["step"]
    run.until("step", step=step + 5)
    assert run.one("saved")["wanted"]
    assert start.saved() == [f"{step:06}"]
    assert start.config(f"{step:06}")["save_freq"] == 70000


@BOTH
def test_saves_by_the_clock(start: Starter, layout: str) -> None:
    env = {"FAKE_LAYOUT": layout, "FAKE_STEP_SECONDS": "0.01", "PI0Q_SAVE_EVERY_S": "0.1"}
    run = start("--steps=100000", "--save_freq=70000", **env)
    # From before the end of the first, which is where the time begins.
    began, _, following = run.until("saving"), run.until("saved"), run.until("saved")
    assert following["t"] - began["t"] >= 0.1


def test_a_wish_in_the_midst_of_a_save_is_answered_by_that_save(start: Starter) -> None:
    """No step was done since it began. The next one that nobody wished for says so."""
    run = start("--steps=100", "--save_freq=3", FAKE_FAULT="stopsave@3")
    run.stands_still()
    run.go_on(signal.SIGUSR1)
    assert run.until("saved")["wanted"]
    following = run.until("saved")
    assert (following["step"], following["wanted"]) == (6, False)


@BOTH
def test_saves_by_the_clock_take_two_percent_at_most(start: Starter, layout: str) -> None:
    """What a save cost before a resume counts at once: here 49 times that is longer than the run."""
    env = {"FAKE_LAYOUT": layout, "FAKE_STEP_SECONDS": "0.01", "PI0Q_SAVE_EVERY_S": "0.05"}
    run = start("--steps=40", "--save_freq=30", **env, PI0Q_SAVE_COST_S="600")
    assert run.finish() == 0
    assert [event["step"] for event in run.all("saved")] == [30, 40], "save_freq and the end count all the same"
    # Without it the first comes as wished, and its own cost stretches the next.
    run = start("--steps=60", f"--output_dir={start.place / 'x'}", **env, FAKE_SAVE_SECONDS="0.5")
    assert run.finish() == 0
    first, last = run.all("saved")
    assert (first["step"] < 40, last["step"]) == (True, 60)
    assert 0.5 <= first["seconds"] == first["cost_s"] < 60


def test_the_share_of_saves_by_the_clock() -> None:
    assert (SHARE, save_cost.SHARE) == (0.02, 0.02)
    cost = SaveCost()
    assert cost.interval(60) == 60 and cost.interval(float("inf")) == float("inf")
    for seconds in (28.6, 28.6, 300.0, 28.6, 28.6):
        cost.add(seconds)
    # One that met a busy disk counts, and is no rule.
    assert cost.mean() == pytest.approx(82.88)
    for seconds in (28.6,) * 5:
        cost.add(seconds)
    assert cost.interval(60) == pytest.approx(save_cost.interval(60, 28.6)) == pytest.approx(1401.4)
    assert 28.6 / (28.6 + cost.interval(60)) == pytest.approx(0.02)
    assert SaveCost(28.6).interval(1800) == 1800


# SIGTERM


@BOTH
def test_a_stopped_and_resumed_run_equals_the_unstopped_one(start: Starter, layout: str) -> None:
    env = {"FAKE_LAYOUT": layout, "FAKE_STEP_SECONDS": "0.005"}
    whole = start("--steps=40", f"--output_dir={start.place / 'whole'}", **env)
    stopped = start("--steps=40", FAKE_FAULT="stop@6", **env)
    stopped.stands_still()
    stopped.go_on(signal.SIGTERM)
    assert (stopped.finish(), whole.finish()) == (75, 0)
    step = stopped.one("saved")["step"]
    assert stopped.all("step")[-1]["step"] == step
    assert stopped.one("stopping")["why"] == "SIGTERM"
    resumed = start.resume(**env)
    assert resumed.finish() == 0
    assert resumed.one("ready")["step"] == step
    assert stopped.losses() | resumed.losses() == whole.losses()
    assert len(stopped.losses()) + len(resumed.losses()) == 40
    assert start.config("000040")["save_freq"] == 20_000


def test_sigterm_inside_a_save_lets_it_finish(start: Starter) -> None:
    run = start("--steps=100", "--save_freq=2", FAKE_FAULT="stopsave@2", FAKE_SAVE_SECONDS="0.2")
    run.stands_still()
    run.go_on(signal.SIGTERM)
    run.until("stopping", step=2)
    run.process.terminate()
    assert run.finish() == 75
    assert start.saved() == ["000002"]
    assert run.kinds()[-3:] == ["saving", "stopping", "saved"]


def test_sigterm_before_the_first_step_is_done_exits_at_once(start: Starter) -> None:
    run = start("--steps=4", FAKE_STEP_SECONDS="600")
    run.until("ready")
    run.process.terminate()
    assert run.finish() == 75
    assert start.saved() == []


def test_sigterm_in_the_final_push_exits_at_once_and_a_resume_pushes(start: Starter) -> None:
    hub = ["--policy.push_to_hub=true", "--policy.repo_id=me/model"]
    run = start("--steps=2", *hub, FAKE_PUSH_SECONDS="600")
    run.until("saved", step=2)
    run.process.terminate()
    assert run.finish() == 75
    again = start.resume()
    assert again.finish() == 0
    assert again.kinds() == ["start", "end"] and "Model pushed to " in again.printed


def test_sigterm_when_saves_are_off_still_stops(start: Starter) -> None:
    run = start("--steps=100000", "--save_checkpoint=false", FAKE_STEP_SECONDS="0.005")
    run.until("step", step=2)
    run.process.terminate()
    assert run.finish() == 75
    assert start.saved() == []


# The lease: a switch that works without the runner

NEVER = 10**6


def leased(start: Starter, *, fence: float = NEVER, end: float = NEVER) -> dict[str, str]:
    """A lease with these many seconds to its fence and its end, written once: as by a runner that stands still."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    path = start.place / "lease"
    path.touch()
    with path.open("r+b") as file:
        # In place, as its runner does: a trainer that looks at a file that was cut dies of SIGBUS.
        file.write(struct.pack("<QQ", now + int(fence * 1e9), now + int(end * 1e9)))
    return {"PI0Q_LEASE": str(path)}


@BOTH
def test_past_the_fence_it_saves_and_stops_though_nobody_tells_it(start: Starter, layout: str) -> None:
    env = leased(start) | {"FAKE_LAYOUT": layout, "FAKE_STEP_SECONDS": "0.01"}
    run = start("--steps=100000", "--save_freq=70000", **env)
    run.until("step", step=2)
    leased(start, fence=0)
    assert run.finish() == 75
    assert run.kinds()[-3:] == ["stopping", "saving", "saved"] or run.kinds()[-4:-2] == ["stopping", "step"]
    assert start.saved() == [f"{run.one('saved')['step']:06}"]


def test_past_the_fence_before_it_began_it_exits_as_one_that_was_stopped(start: Starter) -> None:
    run = start("--steps=4", FAKE_STEP_SECONDS="600", **leased(start, fence=0))
    assert run.finish() == 75
    assert start.saved() == []


def test_a_renewed_lease_moves_the_fence_on(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    now, sent = [0.0], list[int]()

    clock = SimpleNamespace(clock_gettime_ns=lambda _: int(now[0] * 1e9), CLOCK_BOOTTIME=0)
    monkeypatch.setattr(leases, "time", clock)
    monkeypatch.setattr(leases.Lease, "watch", lambda _: None)
    monkeypatch.setattr(signal, "pthread_kill", lambda _thread, signum: sent.append(signum))
    (start.place / "lease").write_bytes(struct.pack("<QQ", 10 * 10**9, 20 * 10**9))
    lease = leases.Lease(str(start.place / "lease"))
    now[0] = 9.0
    assert (lease.look(), sent) == (1.0, [])
    with (start.place / "lease").open("r+b") as file:
        file.write(struct.pack("<QQ", 100 * 10**9, 200 * 10**9))
    now[0] = 99.0
    assert (lease.look(), sent) == (1.0, [])
    now[0] = 100.0
    assert (lease.look(), lease.look(), sent) == (100.0, 100.0, [signal.SIGTERM])


def test_past_its_end_no_step_is_begun(start: Starter) -> None:
    """It stood still beyond its lease, and so did its runner (a paused machine)."""
    run = start("--steps=100000", "--save_freq=1", FAKE_FAULT="stop@3", **leased(start))
    run.stands_still()
    leased(start, fence=0, end=0)
    run.go_on()
    assert run.finish() == 77
    assert run.kinds() == ["start", "ready", *["step", "saving", "saved"] * 2]


def test_past_its_end_a_long_step_is_not_waited_for(start: Starter) -> None:
    run = start("--steps=4", FAKE_STEP_SECONDS="600", **leased(start))
    run.until("ready")
    leased(start, fence=0)
    # Before the first step is done a stop needs no save.
    assert run.finish() == 75
    hangs = start.place / "hangs"
    run = start("--steps=4", f"--output_dir={start.place / 'x'}", FAKE_FAULT="hang@2", FAKE_FAULT_ONCE=str(hangs),
                **leased(start))  # fmt: skip
    # Until then it could still save and stop as it is told.
    wait(hangs.exists, "its hanging")
    leased(start, fence=0)
    run.until("stopping")
    leased(start, end=0)
    assert run.finish() == 77


def test_a_save_that_is_not_over_at_its_end_is_never_pointed_to(start: Starter) -> None:
    run = start("--steps=100000", FAKE_SAVE_SECONDS="600", FAKE_STEP_SECONDS="0.01", **leased(start))
    run.until("step", step=1)
    leased(start, fence=0)
    run.until("saving")
    leased(start, end=0)
    assert run.finish() == 77
    assert run.kinds()[-1] == "saving"
    assert not (start.output / "checkpoints" / "last").is_symlink()


@pytest.mark.parametrize(("fence", "end", "code"), [(NEVER, 0.0, 77), (0.0, NEVER, 75)])
def test_no_push_is_begun_past_it(start: Starter, fence: float, end: float, code: int) -> None:
    hub = ["--policy.push_to_hub=true", "--policy.repo_id=me/model"]
    run = start("--steps=2", "--save_freq=2", *hub, FAKE_FAULT="stopsave@2", **leased(start))
    run.stands_still()
    leased(start, fence=fence, end=end)
    run.go_on()
    assert run.finish() == code
    assert "Model pushed to " not in run.printed


def test_a_push_under_way_ends_with_it(start: Starter) -> None:
    hub = ["--policy.push_to_hub=true", "--policy.repo_id=me/model"]
    run = start("--steps=2", *hub, FAKE_PUSH_SECONDS="600", **leased(start))
    run.until("saved", step=2)
    leased(start, end=0)
    assert run.finish() == 77


def test_unhooked_it_stops_as_well(start: Starter) -> None:
    run = start("--steps=2", FAKE_LAYOUT="other", FAKE_STEP_SECONDS="600", **leased(start))
    run.until("start")
    leased(start, fence=0)
    assert run.finish() == -signal.SIGTERM
    run = start("--steps=2", f"--output_dir={start.place / 'x'}", FAKE_STEP_SECONDS="600", FAKE_LAYOUT="other",
                **leased(start))  # fmt: skip
    run.until("start")
    leased(start, end=0)
    assert run.finish() == 77


def test_sigusr2_prints_where_each_thread_is(start: Starter) -> None:
    run = start("--steps=4", FAKE_FAULT="hang@2", **leased(start))
    run.until("step", step=1)
    assert run.process.stdout is not None
    over = threading.Event()

    def ask() -> None:
        # The step was told of a moment before the next one hangs, so once may be too early.
        while not over.wait(0.2):
            run.process.send_signal(signal.SIGUSR2)

    asking = threading.Thread(target=ask)
    asking.start()
    printed = ""
    while "in before_step" not in printed or "in watch" not in printed:
        line = run.process.stdout.readline().decode()
        assert line, printed
        printed += line
    over.set()
    asking.join()
    assert run.process.poll() is None


# Guards


@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_a_loss_that_is_not_finite_ends_the_run_unsaved(start: Starter, kind: str) -> None:
    run = start("--steps=10", "--save_freq=3", FAKE_FAULT=f"{kind}@3")
    assert run.finish() == 76
    assert (run.one("nonfinite")["step"], run.one("nonfinite")["loss"]) == (3, kind)
    assert run.all("step")[-1]["loss"] is None
    assert start.saved() == []


def test_a_rehearsal_leaves_the_base_weights_out_and_a_resume_keeps_its_own(start: Starter) -> None:
    run = start("--steps=2", "--policy.pretrained_path=lerobot/pi0_base", PI0Q_REHEARSAL="1")
    assert run.finish() == 0
    assert start.config("000002")["policy"]["pretrained_path"] is None
    assert start.resume("--steps=3", PI0Q_REHEARSAL="1").finish() == 0
    checkpoint = start.output / "checkpoints/000002/pretrained_model"
    assert start.config("000003")["policy"]["pretrained_path"] == str(checkpoint)


def test_weights_that_were_not_loaded_stop_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimpleNamespace()

    def make_policy(cfg: object) -> str:
        model.print("Could not load state dict from remote files: No such file")
        model.print("Returning model without loading pretrained weights")
        return "a policy of random weights"

    monkeypatch.setattr(pi0, "module", lambda _type: model)
    hook = Hook(events.Events(None))
    hook.original["make_policy"] = make_policy
    cfg = SimpleNamespace(type="pi0", pretrained_path="/data/base", device="cpu")
    with pytest.raises(RuntimeError, match=r"weights of /data/base .*remote files: No such file"):
        hook.make_policy(cfg)


def test_another_layout_runs_unhooked(start: Starter) -> None:
    run = start("--steps=2", "--save_freq=1", FAKE_LAYOUT="other")
    assert run.finish() == 0
    assert (run.one("start")["hooked"], run.kinds()) == (False, ["start", "end"])
    assert start.saved() == ["000001", "000002"]


def test_neighbours_of_the_hook_do_not_shadow_imports(start: Starter, tmp_path: Path) -> None:
    copy = shutil.copytree(TRAINER, tmp_path / "pi0q_trainer")
    for place in (tmp_path, copy):
        (place / "lerobot.py").write_text("raise SystemExit(9)")
    assert start.raw("--help=1", program=str(copy)).finish() == 2
    (told,) = start.runs[0].all("start")
    assert told["hooked"]


def test_unhooked_sigusr1_is_ignored_and_sigterm_ends(start: Starter) -> None:
    run = start("--steps=2", FAKE_LAYOUT="other", FAKE_STEP_SECONDS="600")
    run.until("start")
    run.process.send_signal(signal.SIGUSR1)
    run.process.terminate()
    assert run.finish() == -signal.SIGTERM


def test_dies_with_its_runner(start: Starter) -> None:
    runner = (
        "import os, subprocess, sys; os.environ['PI0Q_PARENT'] = str(os.getpid());subprocess.Popen(sys.argv[1:]).wait()"
    )
    flags = ["--dataset.repo_id=x", "--policy.type=pi0", "--policy.push_to_hub=false", "--steps=9"]
    fifo = start.place / "fifo"
    os.mkfifo(fifo)
    env = {**os.environ, "PYTHONPATH": str(FAKE), "PI0Q_EVENTS": str(fifo), "FAKE_STEP_SECONDS": "600"}
    command = [sys.executable, "-c", runner, sys.executable, TRAINER, *flags, f"--output_dir={start.output}"]
    # Read-write: it listens before the trainer is there.
    listens = os.fdopen(os.open(fifo, os.O_RDWR), "rb", buffering=0)
    with listens, subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
        told = json.loads(listens.readline())
        watch = os.pidfd_open(told["pid"])
        process.kill()
        died = select.select([watch], [], [], PATIENCE)[0]
        os.close(watch)
    assert died


def test_a_trainer_whose_runner_is_gone_does_not_start(start: Starter) -> None:
    run = start("--steps=1", PI0Q_PARENT=str(2**22 + 1))
    assert run.finish() == 75
    assert run.events == []


# The pipe


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_nobody_listens(fifo: Path) -> None:
    voice = events.Events(str(fifo))
    voice.send("start")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    voice.send("ready")
    assert json.loads(os.read(reader, 4096))["event"] == "ready"
    os.close(reader)
    voice.send("step")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    voice.send("end")
    assert json.loads(os.read(reader, 4096))["event"] == "end"
    os.close(reader)
    os.close(voice.fd)


def test_a_full_pipe_loses_steps_at_once_and_other_events_after_a_while(
    fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = list[float]()
    clock = SimpleNamespace(time=time.time, monotonic=lambda: sum(waited), sleep=waited.append)
    monkeypatch.setattr(events, "time", clock)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    voice = events.Events(str(fifo))
    for step in range(2000):
        voice.send("step", step=step, text="x" * 90)
    assert waited == []
    voice.send("saved", text="y" * 4000)
    assert sum(waited) == pytest.approx(events.PATIENCE_S, abs=0.05)
    lines = os.read(reader, 1 << 20).splitlines()
    kept = [json.loads(line)["step"] for line in lines]
    # The last line that fits may be a shorter, later one: a time has now more digits, now fewer.
    assert kept[:300] == list(range(300)) and kept == sorted(set(kept))
    assert len(kept) < 2000
    voice.send("end")
    assert json.loads(os.read(reader, 4096))["event"] == "end"
    os.close(reader)
    os.close(voice.fd)


def test_a_missing_folder_or_a_full_disk_is_no_failure() -> None:
    events.Events("/nonexistent/events").send("start")
    voice = events.Events("/dev/full")
    voice.send("start")
    assert voice.fd == -1


def test_a_line_fits_the_pipe_whatever_is_in_it() -> None:
    line = events.encode({"event": "error", "message": "内存不足\n\x1b\udc80" * 2000, "loss": float("nan")})
    assert len(line) <= 4095
    told = json.loads(line)
    assert told["message"].startswith("内存不足\n")
    assert told["loss"] is None


@pytest.mark.parametrize(
    ("why", "tries", "flags"),
    [
        ("it did not answer in time", 1, ["--wandb.enable=true", "--wandb.run_id=pi0q-a1", "--wandb.mode=offline"]),
        ("CommError: run pi0q-a1 was previously created and deleted; try a new run name", 1,
         ["--wandb.enable=true", "--wandb.mode=online", "--wandb.run_id=pi0q-a1.2"]),
        ("anything", 3, ["--wandb.enable=false"]),
    ],
)  # fmt: skip
def test_with_which_flags_a_trainer_begins_anew_for_wandbs_sake(why: str, tries: int, flags: list[str]) -> None:
    argv = ["pi0q_trainer", "--wandb.enable=true", "--steps=4", "--wandb.run_id=pi0q-a1", "--wandb.mode=online"]
    assert wandb_init.changed(argv, why, "pi0q-a1", tries) == ["pi0q_trainer", "--steps=4", *flags]
    assert wandb_init.following("pi0q-a1.2") == "pi0q-a1.3"


@pytest.mark.parametrize("how", ["hang", "deleted", "refused"])
def test_wandb_can_neither_stop_nor_delay_a_training(start: Starter, how: str) -> None:
    """One that hangs holds its lock for good: an offline run can't begin beside it in the same process."""
    wandb = ["--wandb.enable=true", "--wandb.mode=online", "--wandb.run_id=abc", "--wandb.project=p"]
    run = start("--steps=2", *wandb, FAKE_WANDB=how, PI0Q_WANDB_BEGIN_S="0.5" if how == "hang" else "30")
    assert run.finish() == 0
    told = run.one("wandb")
    assert (told["run_id"], told["offline"]) == (("abc.2", False) if how == "deleted" else ("abc", True))
    assert run.one("end")["step"] == 2


def test_an_end_without_a_network_leaves_its_wandb_run_to_be_synced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    run = SimpleNamespace(dir=str(tmp_path / "files"))
    waits: Any = SimpleNamespace(run=run, finish=lambda exit_code: select.select([], [], [], PATIENCE))
    for stub, left in ((waits, True), (SimpleNamespace(run=run, finish=lambda exit_code: None), False)):
        (tmp_path / exits.LEFT).unlink(missing_ok=True)
        monkeypatch.setitem(sys.modules, "wandb", stub)
        monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
        with pytest.raises(SystemExit):
            exits.leave(0, wandb_s=0.1 if left else PATIENCE)
        assert (tmp_path / exits.LEFT).exists() is left


def test_wandb_may_not_hold_up_an_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = queue.Queue[int](), threading.Event()

    def finish(exit_code: int) -> None:
        asked.put(exit_code)
        answer.wait()
        asked.put(exit_code)

    def leave(code: int) -> None:
        raise SystemExit(code)

    stub: Any = SimpleNamespace(run=object(), finish=finish)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    monkeypatch.setattr(exits, "WANDB_S", 0.05)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as exit_:
        exits.leave(75)
    assert (exit_.value.code, asked.get(timeout=PATIENCE)) == (75, 75)
    assert asked.empty(), "it still waits"
    answer.set()

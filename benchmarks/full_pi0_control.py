"""Full-size pi0 under control: saved on demand, held, damaged, out of disk, copied, moved to another box, repeated.

    PYTHON benchmarks/full_pi0_control.py --out DIR --home DISK --ram RAM --part one    then two, then three

Two GPUs of 80 GB, 120 GB of disk and 120 GB of RAM disk; `--tiny` rehearses it on a CPU, the model shrunk, where DISK
is a small file system of its own. Two boxes on one machine: `one` has its home on the disk, `two` on the RAM disk,
where the copies go as well. Each part takes less than ten minutes, for machines that are lent by the slice:

    one     a job on box one: saved on demand, held, damaged; beside it on box two the same short training, twice
    two     another job: its disk runs low twice; beside it that short training once more, killed and resumed
    three   all was killed: the second job goes on, and moves to box two, which has nothing but the copy

Stand-ins: see full_pi0.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import full_pi0
import psutil
from full_pi0 import pi0q, running, until, vram

from pi0q.jobs.record import Record
from pi0q.jobs.state import OWNED, State
from pi0q.ops.local import standins_main
from pi0q.queue import settings as all_settings
from pi0q.queue.connection import connect
from pi0q.queue.store import Store
from pi0q.workers.host import process_tree

#: One at a time leaves its box and comes back, so that no other job takes its place meanwhile.
TURN = threading.Lock()


@dataclass
class Life:
    """What one trainer told."""

    #: The step it went on from, 0 for a fresh one.
    begun_at: int
    steps: list[dict[str, Any]] = field(default_factory=list)
    saves: list[dict[str, Any]] = field(default_factory=list)

    @property
    def first(self) -> int:
        return int(self.steps[0]["step"])

    @property
    def last(self) -> int:
        return int(self.steps[-1]["step"])


class Job:
    """One job, what its trainer told, and what is asked of it."""

    def __init__(self, args: argparse.Namespace, job_id: str, home: Path) -> None:
        chosen = all_settings.load()
        self.args, self.id, self.run = args, job_id, home / "runs" / job_id
        self.store = Store(connect(chosen), chosen.prefix)

    @property
    def record(self) -> Record:
        return self.store.get(self.id)

    def until(self, met: Callable[[Record], object], what: str) -> Record:
        found: Record = until(self.store, self.id, met, f"{self.id[:6]} {what}")
        return found

    def at_step(self, step: int) -> Record:
        return self.until(lambda job: (job.step or 0) >= step, f"step {step}")

    def ask(self, *words: str) -> dict[str, Any]:
        """What one of pi0q's commands prints as JSON."""
        done = subprocess.run(pi0q(*words, "--json"), capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))

    def lives(self) -> list[Life]:
        """What each of its trainers did, the first one first."""
        found = list[Life]()
        for event in map(json.loads, (self.run / "events.jsonl").read_text().splitlines()):
            if event["event"] == "ready":
                found.append(Life(begun_at=event["step"]))
            elif event["event"] in ("step", "saved"):
                (found[-1].steps if event["event"] == "step" else found[-1].saves).append(event)
        return found

    def kill(self) -> None:
        for pid in process_tree.marked(self.id, epoch=self.record.epoch):
            process_tree.send(pid, signal.SIGKILL)

    def trains(self, life: int) -> float:
        """Seconds until its trainer number `life` (from 1) has done a step."""
        began = time.monotonic()
        self.until(lambda _: len(self.lives()) >= life and self.lives()[life - 1].steps, f"life {life} trains")
        return round(time.monotonic() - began, 1)


def submit(args: argparse.Namespace, **changes: Any) -> str:
    """Queues the job of full_pi0.py with these changes to its sections; its id."""
    job = json.loads(full_pi0.spec(args))
    del job["train"]["wandb"]
    for section, values in changes.items():
        job[section] = job.get(section, {}) | values
    done = subprocess.run(
        pi0q("submit", "-", "--json"), input=json.dumps(job), text=True, capture_output=True, check=True
    )
    return str(json.loads(done.stdout)["id"])


# -- part one -----------------------------------------------------------------------------------------


def saved_on_demand(job: Job) -> dict[str, Any]:
    """`pi0q checkpoint`: the next step is saved and verified, the training goes on."""
    at, asked = job.lives()[-1].last, time.time()
    answer = job.ask("checkpoint", job.id)
    verified = time.time() - asked
    saved = job.lives()[-1].saves[-1]
    job.until(lambda now: (now.step or 0) > saved["step"], "goes on after the save")
    around = {event["step"]: event["t"] for event in job.lives()[-1].steps}
    shown = subprocess.run(pi0q("show", job.id), capture_output=True, text=True, check=True).stdout
    return {
        "asked_at_step": at,
        "saved_step": saved["step"],
        "bytes": answer["checkpoint"]["bytes"],
        "save_s": saved["seconds"],
        "training_stood_still_s": round(around[saved["step"] + 1] - around[saved["step"]], 1),
        "asked_to_verified_s": round(verified, 1),
        "shown": [line for line in shown.splitlines() if "save" in line],
    }


def held(job: Job) -> dict[str, Any]:
    """`pi0q hold`, and `release` as soon as it waits: no step is lost."""
    during, began = vram(), time.monotonic()
    with TURN:
        job.ask("hold", job.id)
        record = job.until(lambda now: now.state is State.WAITING, "held")
        stopped, there, lives = time.monotonic() - began, vram(), job.lives()
        job.ask("release", job.id)
        job.until(lambda now: now.state in OWNED, "claimed again")
    seconds = job.trains(len(lives) + 1)
    assert record.checkpoint
    return {
        "last_step_before": lives[-1].last,
        "checkpoint": record.checkpoint.step,
        "first_step_after": job.lives()[-1].first,
        "hold_to_queued_s": round(stopped, 1),
        "release_to_training_s": seconds,
        "vram_free_mib_training_and_held": [during, there],
    }


def damaged(job: Job) -> dict[str, Any]:
    """One bit of the newest checkpoint's weights flips, and the trainer dies: it goes on from the one before."""
    checkpoints = job.run / "output" / "checkpoints"
    newest = checkpoints / (checkpoints / "last").readlink()
    weights, life = newest / "pretrained_model" / "model.safetensors", len(job.lives())
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size * 6 // 10)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
        os.fsync(file.fileno())
    job.kill()
    seconds = job.trains(life + 1)
    return {
        "damaged": newest.name,
        "aside": sorted(path.name for path in checkpoints.glob("*.bad")),
        "last_points_to": (checkpoints / "last").readlink().name,
        "first_step_after": job.lives()[-1].first,
        "kill_to_training_s": seconds,
    }


def repeated(args: argparse.Namespace, home: Path, *, kill_at: int | None = None) -> dict[str, Any]:
    """The same 60 steps as ever on box two, killed at that step and resumed from 30."""
    with TURN:
        short = submit(args, train={"steps": 60, "save_freq": 30}, checkpoints={"keep": 1})
        job = Job(args, short, home)
        job.until(lambda now: now.state in OWNED, "claimed")
    assert job.record.box == "two", job.record.box
    if kill_at:
        job.at_step(kill_at)
        job.kill()
    record = job.until(lambda now: now.ended_ms, "ended")
    assert record.state is State.SUCCEEDED, record
    lives = job.lives()
    shutil.rmtree(job.run)
    return {
        "lives": [(life.begun_at, life.last) for life in lives],
        "losses": [{str(event["step"]): event["loss"] for event in life.steps} for life in lives],
    }


def differences(report: Report) -> dict[str, dict[str, float]]:
    """How far the losses of each life of each repetition are from the first one's."""
    whole, found = report.told["repeated 1"]["losses"][0], dict[str, dict[str, float]]()
    for name, result in report.told.items():
        if name.startswith("repeated "):
            for life, losses in enumerate(result["losses"], 1):
                found[f"{name}, life {life}"] = gap(whole, losses)
    return found


def gap(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The largest and the mean difference of two losses of the same step, relative to the first."""
    found = [abs(loss - one[step]) / abs(one[step]) for step, loss in other.items()]
    return {"steps": len(found), "largest": max(found), "mean": statistics.mean(found)}


# -- parts two and three -----------------------------------------------------------------------------------------


#: Bytes for what logs take meanwhile: much where a checkpoint is small.
SPARE = 20 * 2**20


def low_disk(job: Job, disk: Path) -> dict[str, Any]:
    """Someone else takes so much of the disk that no save fits: the older checkpoint goes, the training goes on."""
    job.ask("checkpoint", job.id)
    save = job.ask("checkpoint", job.id)["checkpoint"]["bytes"]
    checkpoints = job.run / "output" / "checkpoints"
    before = verified(checkpoints)
    with filled(disk / "someone-elses", leave=int(0.6 * save) + SPARE):
        while len(verified(checkpoints)) > 1:
            time.sleep(0.2)
        at = job.lives()[-1].last
        job.at_step(at + 5)
        return {"verified_before": before, "and_once_it_was_low": verified(checkpoints), "trained_on_at_step": at}


def out_of_disk(job: Job, disk: Path) -> dict[str, Any]:
    """It takes more, and nothing can go: the job saves while it still can, waits, and goes on by itself."""
    assert job.record.checkpoint
    life = len(job.lives())
    with filled(disk / "someone-elses", leave=int(1.05 * job.record.checkpoint.bytes) + SPARE):
        began = time.monotonic()
        record = job.until(lambda now: now.state is State.QUEUED, "out of disk")
        seconds, stopped = time.monotonic() - began, job.lives()[-1].last
        why = subprocess.run(pi0q("why", job.id), capture_output=True, text=True, check=False).stdout
    again = job.trains(life + 1)
    assert record.checkpoint
    return {
        "last_step_before": stopped,
        "checkpoint": record.checkpoint.step,
        "detail": record.detail,
        "why": why.splitlines(),
        "first_step_after": job.lives()[-1].first,
        "full_to_queued_s": round(seconds, 1),
        "room_to_training_s": again,
    }


def verified(checkpoints: Path) -> list[str]:
    return sorted(path.parent.name for path in checkpoints.glob("[0-9]*[0-9]/pi0q.manifest.json"))


@contextmanager
def filled(path: Path, *, leave: int) -> Iterator[None]:
    """A file that leaves this many bytes free on its disk, until the end of the block."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(path.parent).free - leave)
    try:
        yield
    finally:
        path.unlink()


def came_back(job: Job, life: int) -> dict[str, Any]:
    """Everything was killed at the end of part one: it goes on from its newest checkpoint."""
    seconds = job.trains(life + 1)
    assert job.record.checkpoint
    return {
        "checkpoint": job.record.checkpoint.step,
        "first_step_after": job.lives()[-1].first,
        "up_to_training_s": seconds,
    }


def moved(job: Job, home: Path) -> dict[str, Any]:
    """Its box is drained: saved, copied, and gone on with by the other box, which has nothing but the copy."""
    last, began = len(job.lives()), time.monotonic()
    job.ask("drain", "one", "--now")
    record = job.until(lambda now: now.state is State.QUEUED, "handed back")
    handed = time.monotonic() - began
    before, there = job.lives()[last - 1], Job(job.args, job.id, home)
    there.until(lambda now: now.box == "two" and now.state is State.RUNNING, "runs on the other box")
    there.until(lambda _: (there.run / "events.jsonl").exists() and there.lives() and there.lives()[-1].steps, "trains")
    assert record.checkpoint and record.copied
    return {
        "last_step_before": before.last,
        "checkpoint": record.checkpoint.step,
        "copied": vars(record.copied),
        "first_step_after": there.lives()[-1].first,
        "drain_to_handed_back_s": round(handed, 1),
        "drain_to_training_s": round(time.monotonic() - began, 1),
    }


def pace(job: Job, home: Path) -> dict[str, Any]:
    """Seconds a step of each life of one job, those beside a save, a hash or a copy included; its copies."""
    found = list[dict[str, Any]]()
    for run in (job.run, home / "runs" / job.id):
        if (run / "events.jsonl").exists():
            for life in Job(job.args, job.id, run.parents[1]).lives():
                times = [event["t"] for event in life.steps]
                gaps = sorted(b - a for a, b in itertools.pairwise(times))[: max(1, len(times) - 1 - len(life.saves))]
                found.append({"steps": len(times), "median_s": round(statistics.median(gaps), 4) if gaps else None})
    log = (job.run / "trainer.log").read_text(errors="replace")
    return {"lives": found, "said": [line for line in log.splitlines() if "pi0q:" in line]}


def nan_check(checkpoint: Path) -> dict[str, Any]:
    """What the look for a NaN before each save takes, on the weights of that checkpoint, as the hook does it."""
    from safetensors.torch import load_file

    from pi0q.workers.trainer.pi0q_trainer import checks

    free = vram()
    device = f"cuda:{free.index(max(free))}" if free else "cpu"
    weights = load_file(checkpoint / "pretrained_model" / "model.safetensors", device=device)

    class Model:
        def named_parameters(self) -> Any:
            return weights.items()

    seconds = list[float]()
    for _ in range(6):
        began = time.perf_counter()
        assert checks.not_finite(Model()) is None
        seconds.append(round(time.perf_counter() - began, 5))
    return {"numbers": sum(one.numel() for one in weights.values()), "first_s": seconds[0], "then_s": min(seconds[1:])}


# -- the machine --------------------------------------------------------------------------------------


@contextmanager
def box_two(home: Path) -> Iterator[None]:
    """A second worker with a home of its own, until the end of the block."""
    env = {**os.environ, "PI0Q_REDIS_URL": all_settings.load().redis_url, "PI0Q_HOME": str(home), "PI0Q_BOX": "two"}
    with (home / "worker.out").open("ab") as out:
        worker = subprocess.Popen(
            pi0q("worker", "--slots", "1"), env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(60)


def kill_all_of(home: Path) -> None:
    """SIGKILL to every process of this home; runner and trainer outlive `pi0q up`."""
    for found in psutil.process_iter():
        with suppress(psutil.Error):
            if found.pid != os.getpid() and found.environ().get("PI0Q_HOME") == str(home):
                found.kill()


class Report:
    """Results as they come, in a file: what follows may fail."""

    def __init__(self, path: Path) -> None:
        self.path, self.began, self._lock = path, time.monotonic(), threading.Lock()
        self.told: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, name: str, result: Any) -> None:
        with self._lock:
            self.told[name] = result
            self.path.write_text(json.dumps(self.told, indent=1, default=str))
            print(
                f"{time.monotonic() - self.began:8.1f} s  {name}: {json.dumps(result, default=str)[:1500]}", flush=True
            )

    def part(self, name: str, act: Callable[[], Any]) -> None:
        """Does it; one that fails is told of, and the others go on."""
        try:
            self.add(name, act())
        except Exception:
            self.add(f"{name} FAILED", traceback.format_exc())


def begun(args: argparse.Namespace, one: Path) -> Job:
    """A long job with copies on the RAM disk, trained by box one."""
    need = {} if args.tiny else {"resources": {"disk": "70GiB"}}
    long = submit(
        args,
        train={"steps": 100_000, "save_freq": 100_000},
        preflight={"rehearse": "never"},
        checkpoints={"keep": 2, "every": "60s", "copy_to": str(args.ram.absolute() / "copies")},
        **need,
    )
    (args.out / "job").write_text(long)
    job = Job(args, long, one)
    job.until(lambda now: now.state in OWNED, "claimed")
    return job


def part_one(args: argparse.Namespace, one: Path, two: Path, report: Report) -> None:
    job = begun(args, one)
    with box_two(two), ThreadPoolExecutor() as pool:
        beside = pool.submit(twice, args, two, report)
        job.at_step(20)
        report.part("saved on demand", lambda: saved_on_demand(job))
        report.part("held", lambda: held(job))
        job.at_step((job.record.step or 0) + 20)
        report.part("damaged", lambda: damaged(job))
        beside.result()
    report.part("pace one", lambda: pace(job, two))


def twice(args: argparse.Namespace, two: Path, report: Report) -> None:
    for number in (1, 2):
        report.part(f"repeated {number}", lambda: repeated(args, two))


def part_two(args: argparse.Namespace, one: Path, two: Path, report: Report) -> None:
    job = begun(args, one)
    with ThreadPoolExecutor() as pool, box_two(two):
        beside = pool.submit(report.part, "repeated 3", lambda: repeated(args, two, kill_at=45))
        job.at_step(20)
        report.part("low disk", lambda: low_disk(job, one))
        beside.result()
    # By itself again: else the other box would take it from its copy.
    report.part("out of disk", lambda: out_of_disk(job, one))
    report.part("differences", lambda: differences(report))
    report.part("pace two", lambda: pace(job, two))


def part_three(args: argparse.Namespace, one: Path, two: Path, report: Report) -> None:
    job = Job(args, (args.out / "job").read_text(), one)
    life = len(job.lives())
    with box_two(two):
        report.part("came back", lambda: came_back(job, life))
        report.part("nan check", lambda: nan_check(job.run / "output" / "checkpoints" / "last"))
        report.part("moved", lambda: moved(job, two))
        report.part("pace three", lambda: pace(job, two))
        job.ask("cancel", job.id)
        job.until(lambda now: now.ended_ms, "cancelled")
    report.add("vram_free_mib_after", vram())


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--ram", type=Path, required=True)
    parser.add_argument("--part", choices=("one", "two", "three"), required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    args.steps, args.save_freq, args.gradient_checkpointing = 60, 30, False
    one, two = args.home.absolute(), args.ram.absolute() / "two"
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"PI0Q_HOME": str(one), "PI0Q_BOX": "one", "PI0Q_FAST_INIT": "1", "HF_HUB_OFFLINE": "1"}
    if args.tiny:
        os.environ["PI0Q_REHEARSAL"] = "1"
    for home in (one, two):
        if not (home / "datasets/grab_box").exists():
            standins_main.make_dataset(home / "datasets" / "grab_box", size=32 if args.tiny else 224)
            standins_main.make_tokenizer(home / "huggingface")
    report = Report(args.out / "control.json")
    with running(one, "--slots", "1"):
        {"one": part_one, "two": part_two, "three": part_three}[args.part](args, one, two, report)
    kill_all_of(one)


if __name__ == "__main__":
    main()

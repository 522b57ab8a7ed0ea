"""Full-size pi0 over several GPUs of this host: saved on demand, one rank killed, resumed exactly; and its speed.

    python -m benchmarks.multi_gpu --out DIR --part story    on all visible GPUs, about 5 minutes on two H200
    python -m benchmarks.multi_gpu --out DIR --part pace     the same GPUs, about 6 minutes
    python -m benchmarks.multi_gpu --out DIR --quick         both, rehearsed on a CPU: two ranks, model shrunk

`story`: `pi0q up`, a job with `resources.gpus` of all cards; the NCCL variables of this machine are asserted in each
rank's environment before its first step; `pi0q checkpoint`; kill -9 of the last rank alone; the losses that the
resumed run repeats are held against those before the kill. `pace`: samples a second of pi0q's trainer against plain
`torch.distributed.run … lerobot_train` in alternating pairs, and of one card; stamped where each step's line is read.

PYTHON has pi0q[worker,server,train]. No weights and no tokenizer are downloaded: random weights, built on the GPU by
both sides, stand-in tokenizer and dataset. The first step that fails ends the script with exit code 1 and the log.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import full_pi0
from pi0q.ops.local import standins_main
from pi0q.workers.host import probe, process_tree
from pi0q.workers.trainer import launch
from pi0q.workers.trainer.ranks import Ranks

STEP = re.compile(rb"step:(\d+) .*?loss:")
#: As LeRobot is started by torch's launcher; the model is built on the GPU, as pi0q does: 170 s of CPU less.
BARE = """
import os, sys, torch
import lerobot.scripts.lerobot_train as train
if torch.cuda.is_available():
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    make = train.make_policy
    def make_policy(*args, **kwargs):
        with torch.device("cuda"):
            return make(*args, **kwargs)
    train.make_policy = make_policy
if __name__ == "__main__":  # a data loader's processes import this file
    train.main()
"""
#: The same with the model shrunk, for a CPU.
BARE_QUICK = """
import sys
sys.path.insert(0, {hook!r})
from pi0q_trainer import pi0
import lerobot.scripts.lerobot_train as train
pi0.shrink(pi0.module("pi0"))
if __name__ == "__main__":
    train.main()
"""


def fail(why: str, log: Path | None = None) -> None:
    """End at once; nothing after a step that failed is worth its GPUs."""
    tail = log.read_text(errors="replace")[-3000:] if log and log.exists() else ""
    raise SystemExit(f"{tail}\nFAILED: {why}")


# -- the story --------------------------------------------------------------------------------------------------------


def job_file(args: argparse.Namespace) -> str:
    policy: dict[str, Any] = {"type": "pi0", "dtype": "bfloat16", "push_to_hub": False}
    if not args.quick:
        policy["device"] = "cuda"
    resources: dict[str, Any] = {"gpus": args.cards, "disk": "2GiB" if args.quick else "48GiB"}
    if args.quick:
        resources["vram"] = "1GiB"
    job: dict[str, Any] = {
        "name": "multi_gpu",
        "resources": resources,
        "train": {
            "dataset": {"repo_id": "local/grab_box", "root": "datasets/grab_box"},
            "policy": policy,
            "steps": args.steps,
            "batch_size": args.batch_size,
            "save_freq": 10**6,
            "log_freq": 1,
            "num_workers": 0 if args.quick else 4,
        },
        "checkpoints": {"keep": 1, "every": None},
        "preflight": {"rehearse": "never"},
    }
    return json.dumps(job)


def ranks_of(job_id: str) -> dict[int, int]:
    """Return the pid of each rank of a job, by its number."""
    found: dict[int, int] = {}
    for pid in process_tree.marked(job_id, epoch=99):
        env = environment(pid)
        # A data loader has its parent's environment, and is its child.
        if "RANK" in env and environment(parent(pid)).get("RANK") != env["RANK"]:
            found[int(env["RANK"])] = pid
    return found


def environment(pid: int) -> dict[str, str]:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.partition("=")[::2] for entry in raw.split("\0") if entry)  # type: ignore[misc]


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return 0


def assert_nccl(job_id: str, count: int) -> dict[str, str]:
    """Hold the NCCL variables of each rank against this machine's; return them."""
    here = {name: value for name, value in os.environ.items() if name.startswith("NCCL_")}
    give_up = time.monotonic() + 120
    while len(ranks := ranks_of(job_id)) < count:
        if time.monotonic() > give_up:
            fail(f"only ranks {sorted(ranks)} of {count} were seen")
        time.sleep(0.1)
    for rank, pid in sorted(ranks.items()):
        there = {name: value for name, value in environment(pid).items() if name.startswith("NCCL_")}
        if there != here:
            fail(f"rank {rank} has {there} of NCCL, this machine {here}")
    print(f"           each of {count} ranks has {here or 'no NCCL variable, as this machine'}", flush=True)
    return here


def story(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Submit, train, save on demand, kill one rank, resume, end."""
    with full_pi0.running(home) as store:
        command = full_pi0.pi0q("submit", "-", "--json")
        done = subprocess.run(command, input=job_file(args), text=True, capture_output=True, check=False)
        if done.returncode:
            fail(done.stderr)
        job_id = str(json.loads(done.stdout)["id"])
        run = home / "runs" / job_id
        full_pi0.until(store, job_id, lambda job: job.state.value == "running", "trainers started")
        nccl = assert_nccl(job_id, args.cards)
        full_pi0.until(store, job_id, lambda job: (job.step or 0) >= args.save_at, "training")
        asked = time.monotonic()
        subprocess.run(full_pi0.pi0q("checkpoint", job_id), check=False, timeout=400, stdout=subprocess.DEVNULL)
        full_pi0.until(store, job_id, lambda job: job.checkpoint, "verified checkpoint on demand")
        verified = time.monotonic() - asked
        saved = store.get(job_id).checkpoint
        assert saved is not None
        kill_at = max(saved.step, store.get(job_id).step or 0) + 5
        full_pi0.until(store, job_id, lambda job: (job.step or 0) >= kill_at, "kill -9 of the last rank alone")
        last = max(first := ranks_of(job_id))
        killed = time.monotonic()
        process_tree.send(first[last], signal.SIGKILL)
        while any(not process_tree.is_dead(pid) for pid in first.values()):
            time.sleep(0.01)
        all_dead = time.monotonic() - killed
        full_pi0.until(
            store, job_id, lambda job: job.epoch == 2 and job.state.value == "running", "trainers started again"
        )
        full_pi0.until(store, job_id, lambda job: (job.step or 0) > kill_at, "past the killed step")
        back = time.monotonic() - killed
        full_pi0.until(store, job_id, lambda job: job.ended_ms, "ended")
        record = store.get(job_id)
    told = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (args.out / "story.log").write_bytes((run / "trainer.log").read_bytes())
    if record.state.value != "succeeded":
        fail(f"{record.state} {record.reason}: {record.detail}", run / "trainer.log")
    return {
        "ranks": args.cards,
        "nccl": nccl,
        "state": record.state.value,
        "history": [f"{event.state} {event.text}" for event in record.history],
        "saved_on_demand": {"step": saved.step, "bytes": saved.bytes, "seconds_to_verified": round(verified, 1)},
        "seconds_kill_to_all_ranks_dead": round(all_dead, 2),
        "seconds_kill_to_past_the_killed_step": round(back, 1),
        "params": next(event["params"] for event in told if event["event"] == "ready"),
        "vram_peaks_mib": next((e["vram_peaks_mib"] for e in reversed(told) if e.get("vram_peaks_mib")), None),
        "saves": [{"step": e["step"], "seconds": e["seconds"]} for e in told if e["event"] == "saved"],
        **repeated(told),
    }


def repeated(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Hold the losses of steps that were done twice against each other."""
    first, again = dict[int, float](), dict[int, float]()
    for event in told:
        if event["event"] == "step":
            (again if event["step"] in first else first)[event["step"]] = event["loss"]
    differ = {step: [first[step], loss] for step, loss in again.items() if first[step] != loss}
    return {"steps_done_twice": len(again), "of_them_bit_for_bit": len(again) - len(differ), "differ": differ}


# -- the pace ---------------------------------------------------------------------------------------------------------


def flags(args: argparse.Namespace, home: Path, output: Path) -> list[str]:
    device = [] if args.quick else ["--policy.device=cuda"]
    return [
        "--dataset.repo_id=local/grab_box",
        f"--dataset.root={home}/datasets/grab_box",
        "--policy.type=pi0",
        "--policy.dtype=bfloat16",
        "--policy.push_to_hub=false",
        *device,
        f"--batch_size={args.batch_size}",
        f"--steps={args.pace_steps}",
        "--log_freq=1",
        "--save_checkpoint=false",
        "--env_eval_freq=0",
        f"--num_workers={0 if args.quick else 4}",
        f"--output_dir={output}",
    ]


def trainer_env(home: Path, **more: str) -> dict[str, str]:
    quiet = {"HF_HOME": f"{home}/huggingface", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **quiet, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def ours(args: argparse.Namespace, home: Path, name: str, count: int) -> dict[str, Any]:
    """pi0q's trainer as a runner starts it."""
    events = args.out / f"{name}.events"
    events.touch()
    env = trainer_env(home, PI0Q_EVENTS=str(events), PI0Q_FAST_INIT="1", PI0Q_SAVE_EVERY_S="1800")
    if count < args.cards and not args.quick:
        env["CUDA_VISIBLE_DEVICES"] = (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0]
    argv = [sys.executable, str(launch.HOOK), *flags(args, home, args.out / f"{name}.output")]
    ranks = Ranks(argv, env=env, cwd=args.out, count=count)
    try:
        stamps = read_steps(ranks.outputs(), args.out / f"{name}.log", ended=ranks.exit)
    finally:
        for pid in ranks.pids:
            process_tree.send(pid, signal.SIGKILL) if not process_tree.is_dead(pid) else None
        end = ranks.wait_all()
    if end.code:
        fail(f"{name}: rank {end.rank} ended with exit code {end.code}", args.out / f"{name}.log")
    return pace(stamps, args, count)


def bare(args: argparse.Namespace, home: Path, name: str) -> dict[str, Any]:
    """LeRobot alone, started by torch's launcher."""
    script = args.out / "bare.py"
    script.write_text(BARE_QUICK.format(hook=str(launch.HOOK.parent)) if args.quick else BARE)
    # LeRobot's own launcher-side tools need no pi0q.
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.cards}"]
    argv = [sys.executable, *launcher, str(script), *flags(args, home, args.out / f"{name}.output")]
    process = subprocess.Popen(
        argv, env=trainer_env(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert process.stdout is not None
    try:
        stamps = read_steps([process.stdout.fileno()], args.out / f"{name}.log")
    finally:
        code = process.wait(60)
    if code:
        fail(f"{name}: exit code {code}", args.out / f"{name}.log")
    return pace(stamps, args, args.cards)


def read_steps(handles: list[int], log: Path, *, ended: int | None = None) -> dict[int, float]:
    """Read what ranks print until they have ended; return when each step's line of rank 0 came.

    `ended`: a handle that is readable once a rank has ended that ends all.
    """
    stamps, partial, open_handles = dict[int, float](), b"", list(handles)
    deadline = time.monotonic() + 540
    with log.open("wb") as file:
        while open_handles and time.monotonic() < deadline:
            if ended is not None and select.select([ended], [], [], 0)[0]:
                deadline = min(deadline, time.monotonic() + 3)
            for handle in select.select(open_handles, [], [], 1.0)[0]:
                try:
                    chunk = os.read(handle, 65536)
                except BlockingIOError:
                    continue
                if not chunk:
                    open_handles.remove(handle)
                    continue
                file.write(chunk)
                file.flush()
                if handle != handles[0]:
                    continue
                now = time.monotonic()
                *lines, partial = (partial + chunk).split(b"\n")
                for line in lines:
                    if found := STEP.search(line):
                        stamps[int(found[1])] = now
    return stamps


def pace(stamps: Mapping[int, float], args: argparse.Namespace, count: int) -> dict[str, Any]:
    """Samples a second over all ranks, from the first step after the warm-up to the last."""
    warm = sorted(step for step in stamps if step >= args.warm_up)
    if len(warm) < 3:
        fail(f"only steps {sorted(stamps)} were seen")
    seconds = (stamps[warm[-1]] - stamps[warm[0]]) / (warm[-1] - warm[0])
    each = [stamps[after] - stamps[before] for before, after in itertools.pairwise(warm)]
    return {
        "steps": len(warm) - 1,
        "step_s": round(seconds, 4),
        "step_s_median": round(statistics.median(each), 4),
        "samples_a_second": round(args.batch_size * count / seconds, 2),
    }


def paces(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Alternating pairs, and one card alone."""
    pairs = []
    for number in range(args.pairs):
        # Whoever comes second finds warm caches: they take turns.
        order = ("bare", "ours") if number % 2 else ("ours", "bare")
        pair = {}
        for who in order:
            name = f"{who}-{number}"
            pair[who] = bare(args, home, name) if who == "bare" else ours(args, home, name, args.cards)
            print(f"           {name}: {pair[who]}", flush=True)
        pair["ratio"] = round(pair["ours"]["samples_a_second"] / pair["bare"]["samples_a_second"], 4)
        pairs.append(pair)
    one = ours(args, home, "one-card", 1)
    print(f"           one card: {one}", flush=True)
    together = statistics.median(pair["ours"]["samples_a_second"] for pair in pairs)
    return {
        "pairs": pairs,
        "ratio_to_bare_median": statistics.median(pair["ratio"] for pair in pairs),
        "one_card": one,
        "speed_up_over_one_card": round(together / one["samples_a_second"], 3),
    }


# -- both -------------------------------------------------------------------------------------------------------------


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"== {what}", flush=True)
    yield
    print(f"== {what}: {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("story", "pace", "both"), default="both")
    parser.add_argument("--quick", action="store_true", help="on the CPU, model shrunk")
    parser.add_argument("--cards", type=int, help="ranks; all visible GPUs where left out, two with --quick")
    parser.add_argument("--steps", type=int, help="of the story")
    parser.add_argument("--save-at", type=int, help="the step after which a save is asked for")
    parser.add_argument("--pace-steps", type=int)
    parser.add_argument("--warm-up", type=int, help="steps left out at the beginning of each run")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--batch-size", type=int)
    args = parser.parse_args()
    usual = {"steps": 300, "save_at": 4, "pace_steps": 60, "warm_up": 12, "pairs": 3, "batch_size": 8}
    quick = {"steps": 60, "save_at": 3, "pace_steps": 12, "warm_up": 3, "pairs": 1, "batch_size": 2}
    for name, value in (quick if args.quick else usual).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.out = args.out.absolute()
    args.out.mkdir(parents=True, exist_ok=True)
    home = args.out / "home"
    os.environ |= {"PI0Q_HOME": str(home), "PI0Q_FAST_INIT": "1", "HF_HUB_OFFLINE": "1"}
    args.cards = args.cards or (2 if args.quick else len(probe.nvml_gpus()[0]))
    if args.quick:
        os.environ["PI0Q_REHEARSAL"] = "1"
        os.environ["PI0Q_FAKE_GPUS"] = json.dumps([{"name": "simulated", "total_gib": 80}] * args.cards)
    if args.cards < 2:
        fail(f"{args.cards} GPU is visible: this needs two")
    with timed("stand-ins"):
        if not (home / "datasets/grab_box").exists():
            standins_main.make_dataset(home / "datasets/grab_box", size=32 if args.quick else 224)
            standins_main.make_tokenizer(home / "huggingface")
    result: dict[str, Any] = {"arguments": {name: str(value) for name, value in vars(args).items()}}
    for name, run in (("story", story), ("pace", paces)):
        if args.part in (name, "both"):
            with timed(name):
                result[name] = run(args, home)
            print(json.dumps(result[name], indent=1), flush=True)
            (args.out / "result.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

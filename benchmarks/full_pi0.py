"""Full-size pi0 on one GPU: the whole path, killed once, beside a bare lerobot-train in the same sitting.

    PYTHON benchmarks/full_pi0.py --out DIR            a GPU of 80 GB and 60 GB of disk: about 15 minutes
    PYTHON benchmarks/full_pi0.py --out DIR --tiny     the same script rehearsed on a CPU, model shrunk

PYTHON has pi0q[worker,server] and LeRobot 0.6.1. No weights and no tokenizer are downloaded: the weights are
random, the tokenizer and the dataset (224 x 224 images) are stand-ins, which changes nothing of the work a step does.
`--part pi0q|bare|cancel` does one part, for machines that are lent by the slice.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pi0q.ops.local import standins_main
from pi0q.queue import settings as all_settings
from pi0q.queue.connection import connect
from pi0q.queue.store import Store, heard
from pi0q.workers.host import probe, process_tree
from pi0q.workers.trainer import launch

#: Steps left out at the start of each run: warm-up of kernels and data loader.
WARM_UP = 10
LINE = re.compile(r"step:(\d+) .*?updt_s:([\d.]+) data_s:([\d.]+)")


def spec(args: argparse.Namespace) -> str:
    policy = {"type": "pi0", "device": "cpu" if args.tiny else "cuda", "dtype": "bfloat16", "push_to_hub": False}
    if args.gradient_checkpointing:
        policy["gradient_checkpointing"] = True
    job: dict[str, Any] = {
        "name": "full_pi0",
        "resources": {"disk": "2GiB" if args.tiny else "48GiB"},
        "train": {
            "dataset": {"repo_id": "local/grab_box", "root": "datasets/grab_box"},
            "policy": policy,
            "steps": args.steps,
            "batch_size": args.batch_size,
            "save_freq": args.save_freq,
            "log_freq": 1,
            "num_workers": 0 if args.tiny else 4,
            "wandb": {"enable": True, "mode": "offline", "project": "pi0q-benchmark"},
        },
        "checkpoints": {"keep": 1},
    }
    return json.dumps(job)  # JSON is YAML


def pi0q(*words: str) -> list[str]:
    return [sys.executable, "-m", "pi0q.queue.cli", *words]


def until(store: Store, job_id: str, met: Any, what: str) -> Any:
    """Waits on the changes of one job."""
    pubsub, started = store.subscribe("changes"), time.monotonic()
    while not met(record := store.get(job_id)):
        if record.ended_ms:
            raise SystemExit(f"ended before {what}: {record.state} {record.reason} {record.detail}")
        list(heard(pubsub, 5.0))
    print(
        f"{time.monotonic() - started:8.1f} s  {what}: step {record.step}, {record.phase or record.state}", flush=True
    )
    return record


def vram() -> list[int]:
    gpus, _ = probe.nvml_gpus()
    return [gpu.free_mib for gpu in gpus]


def whole_path(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Submit, claim, train, save, kill -9, resume, end."""
    before = vram()
    with running(home) as store:
        job_id = submit(args)
        until(store, job_id, lambda job: (job.step or 0) >= 1, "first step")
        until(store, job_id, lambda job: job.checkpoint, "first verified checkpoint")
        until(store, job_id, lambda job: (job.step or 0) >= args.kill_at, "kill -9 of the trainer")
        killed_at = time.monotonic()
        for pid in process_tree.marked(job_id, epoch=1):
            process_tree.send(pid, signal.SIGKILL)
        until(store, job_id, lambda job: job.epoch == 2, "claimed again")
        until(store, job_id, lambda job: job.phase == "" and job.state.value == "running", "training again")
        back = time.monotonic() - killed_at
        until(store, job_id, lambda job: job.ended_ms, "ended")
        record = store.get(job_id)
        subprocess.run(pi0q("show", job_id), check=True)
        subprocess.run(pi0q("boxes"), check=True)
        (args.out / "record.json").write_text(json.dumps(record.to_json(), indent=1, default=str))
    run = home / "runs" / job_id
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    steps = [event["step"] for event in events if event["event"] == "step"]
    return {
        "job": job_id,
        "state": record.state.value,
        "epochs": record.epoch,
        "steps_done": len(steps),
        "step_after_resume": next(b for a, b in itertools.pairwise(steps) if b <= a),
        "seconds_kill_to_training": round(back, 1),
        "params": next(event["params"] for event in events if event["event"] == "ready"),
        "vram_peak_mib": max((event.get("vram_peak_mib") or 0) for event in events),
        "vram_free_mib_before_and_after": [before, vram()],
        "saves": [{"step": e["step"], "seconds": e["seconds"]} for e in events if e["event"] == "saved"],
        "checkpoint": vars(record.checkpoint) if record.checkpoint else None,
        "wandb_runs": sorted({path.name.rpartition("-")[2] for path in run.glob("output/wandb/offline-run-*")}),
        **pace((run / "trainer.log").read_text()),
    }


def cancel(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    """A rehearsal on the GPU to its end, then the full job cancelled in the midst of its training."""
    before = vram()
    with running(home) as store:
        small, full = submit(args, "--rehearsal"), submit(args)
        until(store, small, lambda job: job.ended_ms, "rehearsed")
        until(store, full, lambda job: (job.step or 0) >= 5, "training")
        during, asked = vram(), time.monotonic()
        subprocess.run(pi0q("cancel", full), check=True)
        until(store, full, lambda job: job.ended_ms, "cancelled")
        seconds = time.monotonic() - asked
        rehearsal = store.get(small)
        assert rehearsal.started_ms and rehearsal.ended_ms
        return {
            "rehearsal": rehearsal.detail,
            "rehearsal_seconds": (rehearsal.ended_ms - rehearsal.started_ms) / 1000,
            "rehearsal_vram_peak_mib": rehearsal.vram_peak_mib,
            "cancelled": store.get(full).state.value,
            "seconds_to_cancel": round(seconds, 2),
            "vram_free_mib_before_during_after": [before, during, vram()],
            "processes_left": process_tree.marked(full, epoch=9),
        }


def bare(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    """The same flags through the plain `lerobot-train`, no save."""
    plan = subprocess.run(
        pi0q("submit", "-", "--dry-run", "--json"), input=spec(args), text=True, capture_output=True, check=True
    )
    argv = [
        word for word in json.loads(plan.stdout)["argv"][1:] if not re.match("--(output_dir|steps|dataset.root)=", word)
    ]
    argv += [f"--output_dir={home}/bare", f"--steps={args.bare_steps}", f"--dataset.root={home}/datasets/grab_box"]
    env = {**os.environ, "HF_HOME": f"{home}/huggingface", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    program = "import sys; sys.argv[0] = 'lerobot-train'; from lerobot.scripts.lerobot_train import main; main()"
    if args.tiny:
        env |= {"PI0Q_REHEARSAL": "1"}
        command = [sys.executable, str(launch.HOOK), *argv]
    else:
        env |= {"OMP_NUM_THREADS": str(os.cpu_count())}  # random weights are made on the CPU here
        command = [sys.executable, "-c", program, *argv]
    command.append("--save_checkpoint=false")
    with (args.out / "bare.log").open("w") as log:
        subprocess.run(command, env=env, stdout=log, stderr=subprocess.STDOUT, check=True)
    return pace((args.out / "bare.log").read_text())


def pace(log: str) -> dict[str, Any]:
    """Seconds a step from the trainer's own console lines, the same for both."""
    found = [(int(step), float(update), float(data)) for step, update, data in LINE.findall(log)]
    warm = [(update, data) for step, update, data in found if step > WARM_UP]
    return {
        "lines": len(warm),
        "update_s_median": statistics.median(update for update, _ in warm),
        "step_s_median": round(statistics.median(update + data for update, data in warm), 4),
        "step_s_mean": round(statistics.mean(update + data for update, data in warm), 4),
    }


@contextmanager
def running(home: Path, *options: str) -> Iterator[Store]:
    """`pi0q up` without Flower, until the end of the block; the store once its box is there."""
    up = subprocess.Popen(pi0q("up", "--no-flower", "--port", "0", *options), start_new_session=True)
    try:
        while up.poll() is None and not (home / "up.json").exists():
            time.sleep(0.2)
        chosen = all_settings.load()
        store = Store(connect(chosen), chosen.prefix)
        while up.poll() is None and not store.boxes():
            time.sleep(0.2)
        yield store
    finally:
        os.killpg(up.pid, signal.SIGINT)
        up.wait(60)


def submit(args: argparse.Namespace, *options: str) -> str:
    """Queues the job; its id."""
    command = pi0q("submit", "-", "--json", *options)
    done = subprocess.run(command, input=spec(args), text=True, capture_output=True, check=True)
    return str(json.loads(done.stdout)["id"])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--part", choices=("both", "pi0q", "bare", "cancel"), default="both")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--bare-steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--save-freq", type=int, default=40)
    parser.add_argument("--kill-at", type=int, default=60)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    home = (args.home or args.out / "home").absolute()
    os.environ |= {"PI0Q_HOME": str(home), "PI0Q_FAST_INIT": "1", "HF_HUB_OFFLINE": "1"}
    if args.tiny:
        os.environ["PI0Q_REHEARSAL"] = "1"
    if not (home / "datasets/grab_box").exists():
        standins_main.make_dataset(home / "datasets" / "grab_box", size=32 if args.tiny else 224)
        standins_main.make_tokenizer(home / "huggingface")
    result: dict[str, Any] = {"arguments": {k: str(v) for k, v in vars(args).items()}}
    if args.part == "cancel":
        result["cancel"] = cancel(args, home)
    if args.part in ("both", "pi0q"):
        result["pi0q"] = whole_path(args, home)
        print(json.dumps(result["pi0q"], indent=1), flush=True)
    if args.part in ("both", "bare"):
        result["bare"] = bare(args, home)
        print(json.dumps(result["bare"], indent=1), flush=True)
    if args.part == "both":
        ratio = result["pi0q"]["step_s_median"] / result["bare"]["step_s_median"]
        result["ratio_step_s"] = round(ratio, 3)
    (args.out / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

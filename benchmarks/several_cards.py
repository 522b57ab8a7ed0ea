"""Measure jobs on a host of several GPUs: one a card by NVML; a job of two cards beside a stream of others.

    PYTHON benchmarks/several_cards.py --out DIR          two GPUs or more: about 5 minutes
    PYTHON benchmarks/several_cards.py --out DIR --tiny   rehearse with two simulated cards and the tests' fake LeRobot

PYTHON has pi0q[worker,server] and LeRobot 0.6.1. The jobs are real ACT trainings with random weights on a dataset of
noise. `cards` submits one job more than there are cards: each that trains must hold memory on the card of its record
and on no other, and the one that waits must say why. `reservation` submits a stream of one-card jobs, then a job of two
cards, then more one-card jobs: without a reservation it would start when the stream ends.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from full_pi0 import pi0q, running

from pi0q.jobs.record import Record
from pi0q.ops.local import standins_main
from pi0q.queue.store import Store, heard
from pi0q.workers.host import process_tree

#: Seconds after which a part is given up.
PATIENCE = 240.0


def spec(args: argparse.Namespace, name: str, steps: int, *, cards: int = 1, limit: str | None = None) -> str:
    """Return a job file: ACT of the size that a card of 80 GB hardly notices."""
    size = {"dim_model": 64, "n_heads": 2, "dim_feedforward": 128, "n_encoder_layers": 1} if args.tiny else {}
    job: dict[str, Any] = {
        "name": name,
        "resources": {"gpus": cards, "vram": "10GiB", "disk": "2GiB"},
        "checkpoints": {"every": None, "keep": 1},
        "preflight": {"rehearse": "never"},
        "train": {
            "dataset": {"repo_id": "local/grab_box", "root": "datasets/grab_box"},
            "policy": {
                "type": "act", "device": "cuda", "push_to_hub": False, "use_vae": False,
                "chunk_size": 8, "n_action_steps": 8, "pretrained_backbone_weights": None, **size,
            },
            "steps": steps, "batch_size": 2 if args.tiny else 8, "save_freq": steps, "log_freq": 10, "num_workers": 0,
        },
    }  # fmt: skip
    return json.dumps(job | ({"time_limit": limit} if limit else {}))


def submit(args: argparse.Namespace, name: str, steps: int, *, cards: int = 1, limit: str | None = None) -> str:
    text = spec(args, name, steps, cards=cards, limit=limit)
    done = subprocess.run(pi0q("submit", "-", "--json"), input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} was not taken: {done.stdout}{done.stderr}")
    return str(json.loads(done.stdout)["id"])


def until_all(store: Store, ids: Sequence[str], met: Callable[[Record], Any], what: str) -> list[Record]:
    """Wait until each of these jobs meets a condition; return their records. Exits when it takes too long."""
    pubsub, give_up = store.subscribe("changes"), time.monotonic() + PATIENCE
    while True:
        records = [store.get(job_id) for job_id in ids]
        if all(map(met, records)):
            return records
        if bad := [record for record in records if record.state.value == "failed"]:
            raise SystemExit(f"failed before {what}: {bad[0].name} {bad[0].reason} {bad[0].detail}")
        if time.monotonic() > give_up:
            raise SystemExit(f"{what}: {[(record.name, record.state.value, record.detail) for record in records]}")
        list(heard(pubsub, 5.0))


def memory_by_card(tiny: bool) -> dict[str, dict[int, int]]:
    """Return for each card's UUID the memory in MiB of each process that NVML sees there."""
    if tiny:
        return {}
    import pynvml

    pynvml.nvmlInit()
    found: dict[str, dict[int, int]] = {}
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        running_there = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        found[pynvml.nvmlDeviceGetUUID(handle)] = {p.pid: (p.usedGpuMemory or 0) >> 20 for p in running_there}
    return found


def cards(args: argparse.Namespace, store: Store, count: int) -> dict[str, Any]:
    """One job more than there are cards: where each trains, by NVML, and why the last one waits."""
    ids = [submit(args, f"one_{n}", 200_000) for n in range(count)]
    records = until_all(store, ids, lambda job: (job.step or 0) >= 20, "the trainings begin")
    waiting = submit(args, "one_more", 200_000)
    time.sleep(3)
    why = subprocess.run(pi0q("why", waiting), text=True, capture_output=True, check=False).stdout
    held = {record.name: list(record.gpus) for record in records}
    seen = memory_by_card(args.tiny)
    by_job = {
        record.name: {
            uuid: {pid: mib for pid, mib in there.items() if pid in process_tree.marked(record.id, epoch=record.epoch)}
            for uuid, there in seen.items()
        }
        for record in records
    }
    boxes = subprocess.run(pi0q("boxes"), text=True, capture_output=True, check=False).stdout
    print(why, boxes, json.dumps({"held": held, "nvml": seen}), sep="\n", flush=True)
    subprocess.run(pi0q("cancel", *ids, waiting), check=True, capture_output=True)
    until_all(store, [*ids, waiting], lambda job: job.ended_ms, "cancelled")
    assert len({uuid for uuids in held.values() for uuid in uuids}) == count, held
    if not args.tiny:
        for name, there in by_job.items():
            assert [uuid for uuid, processes in there.items() if processes] == held[name], (name, there, held)
    return {"held": held, "nvml": by_job, "why": why, "boxes": boxes}


def reservation(args: argparse.Namespace, store: Store, count: int) -> dict[str, Any]:
    """A job of two cards behind running one-card jobs and before more of them: when each starts."""
    steps = 40 if args.tiny else 400
    began = time.time()
    first = [submit(args, f"before_{n}", steps * (1 + n), limit="3min") for n in range(count)]
    until_all(store, first, lambda job: job.started_ms, "the first ones start")
    big = submit(args, "two_cards", steps, cards=2, limit="3min")
    after = [submit(args, f"after_{n}", steps, limit="3min") for n in range(2 * count)]
    time.sleep(2)
    why = subprocess.run(pi0q("why", big), text=True, capture_output=True, check=False).stdout
    print(why, flush=True)
    records = until_all(store, [*first, big, *after], lambda job: job.ended_ms, "all end")
    rows = [
        {
            "name": record.name,
            "started_s": round((record.started_ms or 0) / 1000 - began, 1),
            "ended_s": round((record.ended_ms or 0) / 1000 - began, 1),
            "cards": len(record.gpus),
            "state": record.state.value,
        }
        for record in records
    ]
    print(*rows, sep="\n", flush=True)
    (two,) = (row for row in rows if row["name"] == "two_cards")
    last_first = max(row["ended_s"] for row in rows if row["name"].startswith("before"))
    later = sum(row["started_s"] > two["started_s"] for row in rows if row["name"].startswith("after"))
    return {"rows": rows, "why": why, "seconds_after_the_running_ones": round(two["started_s"] - last_first, 1),
            "jobs_of_the_stream_that_start_later": later}  # fmt: skip


def main() -> None:
    """Do both parts with one `pi0q up`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    home = (args.out / "home").absolute()
    os.environ |= {"PI0Q_HOME": str(home), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    if args.tiny:
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1] / "tests" / "fake_lerobot")
        os.environ["PI0Q_FAKE_GPUS"] = json.dumps([{"name": "simulated", "total_gib": 80, "used_gib": 1}] * 2)
        count = 2
    else:
        count = len(memory_by_card(False))
    if not (home / "datasets/grab_box").exists():
        standins_main.make_dataset(home / "datasets" / "grab_box", size=32 if args.tiny else 96)
    result: dict[str, Any] = {}
    with running(home, "--slots", str(count + 2)) as store:
        for part in (cards, reservation):
            result[part.__name__] = part(args, store, count)
            (args.out / "several_cards.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result["reservation"], indent=1))


if __name__ == "__main__":
    main()

"""A fleet to look at: four boxes and twelve jobs of all states, as a server would hold them; for tests and pictures."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pi0q.jobs import transition
from pi0q.jobs.curve import Curve, Point, write
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.queue import celery_message, refusals
from pi0q.queue.refusals import TooLittleDisk
from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimant, Claimed, LogChunk, Reservation

H100, A100, RTX = ("NVIDIA H100 80GB HBM3", 81559), ("NVIDIA A100-SXM4-40GB", 40960), ("NVIDIA GeForce RTX 4090", 24564)
DATASET = "datasets/puheliang/lerobot_fmc3_grab_box_v2"
LOG = "\n".join(
    f"INFO 2026-11-29 14:{10 + n // 60:02d}:{n % 60:02d} ot_train.py:406 step:{12000 + 200 * n} smpl:{384 + n}K ep:{n} "
    f"epch:{3 + n / 50:.2f} loss:{0.08 - n / 2000:.3f} grdn:0.{410 - n} lr:2.4e-05 updt_s:0.333 data_s:0.004"
    for n in range(40)
)


@dataclass
class Box:
    """One box, and what runs on each of its cards."""

    name: str
    kind: tuple[str, int]
    cards: int
    disk_gib: tuple[int, int]
    status: str = "ready"
    drain_text: str = ""
    #: Seconds since its last heartbeat.
    silent: float = 1.0
    note: str = ""
    cached: list[str] = field(default_factory=list)
    held: dict[int, list[str]] = field(default_factory=dict)
    refused: dict[str, list[refusals.Refusal]] = field(default_factory=dict)


class Fleet:
    """Writes jobs and boxes as `pi0q submit` and boxes do."""

    def __init__(self, store: Store, *, seed: int = 1) -> None:
        self.store, self.dice = store, random.Random(seed)

    def submit(self, name: str, *, gpus: int = 1, vram_gib: float = 72, priority: str = "normal", **fields: Any) -> str:
        """Queue a job; return its id."""
        job_id = f"{self.dice.getrandbits(48):012x}"
        by = fields.pop("by", "ada@laptop")
        needs = {"gpus": gpus, "vram_mib": int(vram_gib * 1024), "disk_mib": 96 * 1024}
        raw = celery_message.build(job_id, name=name, needs=needs, priority=priority, origin=by)
        known: dict[str, Any] = {"id": job_id, "name": name, "priority": priority, "submitter": by, "needs": needs}
        known |= {"queue": celery_message.queue_key(celery_message.STEPS[priority]), "message": raw, "steps": 50000}
        train = {"policy.type": "pi0", "dataset.repo_id": "puheliang/lerobot_fmc3_grab_box_v2", "batch_size": 32}
        known["spec"] = {"name": name, "train": train}
        assert self.store.submit(job_id, known | fields, text=f"submitted by {by}")
        return job_id

    def claim(self, job_id: str, box: Box, cards: Sequence[int] = (0,)) -> int:
        """Make a box the owner; return the claim number."""
        how = Reservation(promises=(), gpus=[f"GPU-{box.name}-{card}" for card in cards])
        claimed = self.store.claim(
            job_id, Claimant(box=box.name, boot="1", lease_seconds=600.0), how, text=f"claimed by {box.name}"
        )
        assert isinstance(claimed, Claimed), claimed
        for card in cards:
            box.held.setdefault(card, []).append(job_id)
        return claimed.epoch

    def run(self, job_id: str, box: Box, cards: Sequence[int] = (0,), *, attempt: int = 1) -> int:
        """Bring a job to running; return the claim number."""
        epoch = self.claim(job_id, box, cards)
        self.store.move(
            job_id, transition.preparing(epoch, attempt=attempt, run_dir=f"/root/autodl-tmp/pi0q/runs/{job_id}")
        )
        started = self.store.get(job_id).started_ms or self.store.now_ms()
        self.store.move(job_id, transition.running(epoch, text="the trainer lives", started_ms=started))
        return epoch

    def report(self, job_id: str, epoch: int, *, log: str = "", **fields: Any) -> None:
        """Report progress as a runner does."""
        self.store.report(job_id, epoch, lease_seconds=600.0, fields=fields, log=LogChunk(text=log))

    def progress(self, job_id: str, epoch: int, step: int, *, loss: float, steps: int = 50000, **fields: Any) -> None:
        """Report a usual training at a step, with checkpoints."""
        saved = step // 5000 * 5000
        known = {"step": step, "steps": steps, "loss": loss, "lr": 2.4e-5, "step_seconds": 0.333, "phase": ""}
        known |= {"eta_seconds": (steps - step) * 0.345, "vram_peak_mib": 73900}
        if saved:
            known["checkpoint"] = checkpoint(job_id, saved)
            known["verified"] = {str(one): f"{one:064x}" for one in range(max(5000, saved - 10000), saved + 1, 5000)}
        self.report(job_id, epoch, log=LOG, **{**known, **fields})

    def curve(self, job_id: str, epoch: int, box: Box, until: int, *, start: float = 1.9, floor: float = 0.02) -> None:
        """Store the curve of a usual training up to a step: a falling loss, warm-up and cosine, steady steps."""
        curve = Curve()
        for step in range(50, until + 1, 50):
            loss = floor + start * math.exp(-((step / 900) ** 0.55)) * self.dice.uniform(0.85, 1.18)
            rate = 2.5e-5 * min(1.0, step / 1000) * (0.55 + 0.45 * math.cos(math.pi * step / 50000))
            curve.add(Point(step, loss, rate, 0.333 * self.dice.uniform(0.985, 1.03)))
        self.store.put_curve(job_id, epoch, box=box.name, stay=0, points=write(curve.points))

    def end(self, job_id: str, epoch: int, reason: Reason, detail: str) -> None:
        """End or interrupt a job."""
        self.store.move(job_id, transition.ended(self.store.get(job_id), epoch, reason, detail))

    def announce(self, box: Box) -> None:
        """Send a box's heartbeat."""
        name, total = box.kind
        used = [int(total * (0.9 if box.held.get(card) else 0.0)) + 480 for card in range(box.cards)]
        cards = [
            {
                "uuid": f"GPU-{box.name}-{card}",
                "name": name,
                "total_mib": total,
                "free_mib": total - used[card],
                "simulated": False,
            }
            for card in range(box.cards)
        ]
        busy = [bool(box.held.get(card)) for card in range(box.cards)]
        gauges = [
            {"use": 93 + card % 6, "celsius": 64 + 3 * (card % 5)}
            if busy[card]
            else {"use": 0, "celsius": 34 + card % 3}
            for card in range(box.cards)
        ]
        fields = {
            "status": box.status, "boot": "1", "version": "0.1.0", "gpus": json.dumps(cards), "note": box.note,
            "free_mib": json.dumps([0 if busy[card] else total - used[card] for card in range(box.cards)]),
            "holders": json.dumps([{"jobs": box.held.get(card, []), "shared": False} for card in range(box.cards)]),
            "gauges": json.dumps(gauges),
            "disk_free_mib": box.disk_gib[0] * 1024, "disk_mib": box.disk_gib[1] * 1024,
            "home": "/root/autodl-tmp/pi0q", "hf_home": "/root/autodl-tmp/huggingface", "lerobot": "0.6.1",
            "slots": max(1, box.cards), "running": sum(busy), "used_slots": sum(busy), "busy": "",
            "refusals": refusals.dumps(box.refused), "warm": json.dumps(box.cached),
        }  # fmt: skip
        self.store.announce_box(box.name, f"id-{box.name}", fields, boot="1")
        if box.drain_text:
            self.store.drain(box.name, "drain", text=box.drain_text)
        if box.silent > 1:
            at = self.store.now_ms() - int(box.silent * 1000)
            self.store.client.zadd(self.store.prefix + "boxes", {box.name: at})


def checkpoint(job_id: str, step: int) -> Saved:
    """A verified checkpoint."""
    path = f"/root/autodl-tmp/pi0q/runs/{job_id}/output/checkpoints/{step:06d}"
    return Saved(step=step, path=path, manifest=f"{step:064x}", bytes=19_400_000_000)


def fill(store: Store) -> tuple[Fleet, list[Box], dict[str, str]]:
    """Put twelve jobs of all states and four boxes onto an empty server; return the fleet, boxes, and ids by name."""
    fleet = Fleet(store)
    big = Box("h100-a", H100, 8, (1210, 3500), cached=["lerobot/pi0", "lerobot/pi05_base", DATASET])
    small = Box("autodl-4090", RTX, 1, (41, 200), note="")
    lost = Box("a100-lab", A100, 2, (310, 900), silent=2460.0)
    drained = Box("h100-b", H100, 2, (95, 1000), status="drained", drain_text="by grace@desk: new driver on Friday")
    boxes, ids = [big, small, lost, drained], dict[str, str]()
    for box in boxes:
        fleet.announce(box)

    def queue(name: str, **how: Any) -> str:
        ids[name] = fleet.submit(name, **how)
        return ids[name]

    done = queue("grab_box_act", vram_gib=18, by="grace@desk")
    epoch = fleet.run(done, lost)
    fleet.progress(done, epoch, 50000, loss=0.0213, eta_seconds=None)
    fleet.end(done, epoch, Reason.FINISHED, "50000 steps")
    lost.held.clear()
    lost_job = queue("stack_cups_pi05", vram_gib=38, by="lin@lab")
    epoch = fleet.run(lost_job, lost, (1,))
    fleet.progress(lost_job, epoch, 7300, loss=0.141)
    fleet.curve(lost_job, epoch, lost, 7300, floor=0.09)
    main = queue("grab_box_pi0_fmc3", wandb_url="https://wandb.ai/lab/lerobot/runs/pi0q-5c1f", by="ada@laptop")
    epoch = fleet.run(main, big)
    fleet.progress(main, epoch, 14000, loss=0.083)
    fleet.end(main, epoch, Reason.BOX_RESTARTED, "the box restarted")
    big.held.clear()
    epoch = fleet.run(main, big)
    fleet.progress(main, epoch, 31250, loss=0.0312)
    fleet.curve(main, epoch, big, 31250)
    wide = queue("fold_cloth_pi0_4gpu", gpus=4, by="lin@lab", priority="high")
    epoch = fleet.run(wide, big, (1, 2, 3, 4))
    fleet.curve(wide, epoch, big, 4150, floor=0.15)
    fleet.progress(wide, epoch, 4180, loss=0.197, step_seconds=0.412, phase="saving a checkpoint")
    compiling = queue("pour_water_pi05", by="grace@desk")
    epoch = fleet.run(compiling, big, (5,))
    fleet.report(
        compiling,
        epoch,
        steps=30000,
        phase="compiling, the first step takes about 24 min",
        log="INFO torch.compile max-autotune\n",
    )
    getting = queue("sort_screws_smolvla", vram_gib=22, by="ada@laptop")
    epoch = fleet.claim(getting, small)
    fleet.store.move(getting, transition.preparing(epoch, attempt=1, run_dir="/root/autodl-tmp/pi0q/runs/x"))
    fleet.report(getting, epoch, phase="downloading lerobot/smolvla_base 3.1/14 GB")
    bad = queue("grab_box_hot_lr", by="lin@lab")
    epoch = fleet.run(bad, big, (6,))
    fleet.curve(bad, epoch, big, 2550, start=2.4, floor=0.5)
    fleet.progress(bad, epoch, 2600, loss=math.nan, eta_seconds=None)
    fleet.end(bad, epoch, Reason.NON_FINITE_LOSS, "the loss was NaN at step 2600")
    big.held.pop(6)
    dropped = queue("wrong_camera", by="ada@laptop")
    store.cancel(dropped, text="cancelled by ada@laptop")
    queue("urgent_demo_act", vram_gib=60, gpus=6, priority="urgent", by="grace@desk")
    needy = queue("grab_box_pi0_long", by="ada@laptop", vram_gib=70)
    queue("pi0_full_batch64", vram_gib=141, by="lin@lab")
    kept = queue("night_sweep_03", vram_gib=30, priority="low", by="lin@lab")
    store.hold(kept, text="by lin@lab")
    small.refused[needy] = [TooLittleDisk(needed_mib=98304, free_mib=41984, path="/root/autodl-tmp")]
    for box in boxes:
        fleet.announce(box)
    return fleet, boxes, ids


def crowd(store: Store, *, jobs: int, boxes: int) -> None:
    """Put many jobs and boxes onto an empty server: two boxes in three have eight cards and run three jobs each."""
    fleet = Fleet(store, seed=2)
    hosts = [Box(f"box-{number:03d}", H100, 8 if number % 3 else 1, (900, 3500)) for number in range(boxes)]
    for number in range(jobs):
        job_id = fleet.submit(f"sweep_{number:04d}_pi0_lr{number % 7}", vram_gib=60, by=f"user{number % 9}@lab")
        box, card = hosts[number % boxes], number // boxes
        if card < min(3, box.cards):
            fleet.progress(
                job_id, fleet.run(job_id, box, (card,)), 100 * (number % 490) + 50, loss=0.01 + number / jobs
            )
    for box in hosts:
        fleet.announce(box)

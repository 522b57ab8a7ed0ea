"""A fleet to look at: twelve jobs in all states, four boxes, one with eight cards, one lost, one drained."""

from __future__ import annotations

import json
import math
from typing import Any

from pi0q.jobs import curve, transition
from pi0q.jobs.curve import Curve, Point
from pi0q.jobs.outcome import Reason
from pi0q.queue import refusals
from pi0q.queue.refusals import Problem
from pi0q.queue.store import Store
from tests.conftest import JobDriver

MIB = 1024
H100 = "NVIDIA H100 80GB HBM3"


def announce(store: Store, name: str, cards: list[dict[str, Any]], **more: Any) -> None:
    """Announce a box; each card has name, gib, used, promised, use, celsius and jobs."""
    gpus = [
        {"uuid": f"GPU-{name}-{at}", "name": card["name"], "total_mib": card["gib"] * MIB,
         "free_mib": (card["gib"] - card.get("used", 0)) * MIB}
        for at, card in enumerate(cards)
    ]  # fmt: skip
    free = [(card["gib"] - card.get("used", 0) - card.get("promised", 0)) * MIB for card in cards]
    fields = {
        "status": "ready", "gpus": json.dumps(gpus), "free_mib": json.dumps(free), "slots": len(cards),
        "holders": json.dumps([{"jobs": card.get("jobs", []), "shared": False} for card in cards]),
        "gauges": json.dumps([{"use": card.get("use"), "celsius": card.get("celsius")} for card in cards]),
        "running": sum(bool(card.get("jobs")) for card in cards), "disk_mib": 2000 * MIB, "disk_free_mib": 700 * MIB,
        "home": "/root/autodl-tmp/pi0q", "lerobot": "0.6.1",
    }  # fmt: skip
    assert store.announce_box(name, f"id-{name}", fields | more)


def lose(store: Store, name: str, seconds: float) -> None:
    """Let a box be silent for so long."""
    store.client.zadd(f"{store.prefix}boxes", {name: store.now_ms() - seconds * 1000})


def losses(steps: int, *, diverges: bool = False) -> list[str]:
    """Return the stored curve of a training so far."""
    found = Curve()
    for at in range(1, 201):
        loss = 4.0 * math.exp(-at / 60) + 0.3 + 0.1 * math.sin(at)
        loss += math.exp((at - 120) / 9) if diverges and at > 120 else 0.0
        found.add(Point(at * steps // 200, loss, 1e-4 * (1 - at / 400), 0.45 + 0.02 * math.sin(at / 3)))
    return curve.write(found.points)


def build(store: Store, driver: JobDriver) -> dict[str, str]:
    """Make the fleet; return the ids of its jobs by name."""
    ids: dict[str, str] = {}

    def running(name: str, box: str, card: int, **fields: Any) -> None:
        ids[name] = driver.submit(name, steps=50_000)
        epoch = driver.run(ids[name], box)
        store.client.hset(f"{store.prefix}job:{ids[name]}", "gpus", json.dumps([f"GPU-{box}-{card}"]))
        step = fields.get("step", 0)
        saved = {"step": step // 2, "path": f"/data/runs/{ids[name]}/{step}", "manifest": "a" * 64, "bytes": 7 * 10**9}
        driver.report(
            ids[name],
            epoch,
            log=f"step {step} loss {fields.get('loss')}\n",
            **fields,
            checkpoint=saved if step else None,
        )
        if step:
            store.put_curve(
                ids[name], epoch, box=box, stay=0, points=losses(step, diverges=not math.isfinite(fields["loss"]))
            )

    running("grab_box_pi0_fmc3", "autodl-1", 0, step=31_250, loss=0.312, lr=5e-5, eta_seconds=8437.5, step_seconds=0.45,
            wandb_url="https://wandb.ai/lab/grab/runs/pi0q-1")  # fmt: skip
    running(
        "pour_water_smolvla", "autodl-1", 1, step=4_100, loss=0.741, lr=9e-5, eta_seconds=20655.0, step_seconds=0.45
    )
    running("fold_cloth_compiles", "autodl-1", 2, phase="compiling")
    running("stack_saves", "lab-4090", 0, step=12_000, loss=0.501, lr=8e-5, phase="saving step 12000 (4.2 of 22.1 GB)",
            eta_seconds=17100.0, step_seconds=0.45)  # fmt: skip
    running(
        "hot_lr_diverges", "lab-4090", 1, step=900, loss=float("inf"), lr=1e-2, eta_seconds=21000.0, step_seconds=0.43
    )
    small = {"gpus": 1, "vram_mib": 20 * MIB, "disk_mib": 30 * MIB}
    ids["act_urgent"] = driver.submit("act_urgent", priority="urgent", needs=small)
    ids["no_dataset"] = driver.submit("no_dataset", needs=small)
    ids["too_big"] = driver.submit("too_big", needs={"gpus": 1, "vram_mib": 200 * MIB, "disk_mib": 30 * MIB})
    ids["held_by_ada"] = driver.submit("held_by_ada")
    store.hold(ids["held_by_ada"], text="by ada@laptop")
    for name, reason in (("done_pi0", Reason.FINISHED), ("oom_batch_64", Reason.SPEC_REFUSED)):
        ids[name] = driver.submit(name, steps=20)
        epoch = driver.run(ids[name], "lab-old")
        assert store.move(ids[name], transition.ended(store.get(ids[name]), epoch, reason, "it ended"))
    ids["cancelled"] = driver.submit("cancelled")
    store.cancel(ids["cancelled"], text="cancelled by ada@laptop")
    lacks = refusals.dumps({ids["no_dataset"]: [Problem(text="no dataset datasets/no_such on this box")]})
    eight = [{"name": H100, "gib": 80, "celsius": 38, "use": 0} for _ in range(8)]
    for card, name, used, use, celsius in ((0, "grab_box_pi0_fmc3", 72, 99, 74), (1, "pour_water_smolvla", 41, 87, 66)):
        eight[card] |= {"used": used, "use": use, "celsius": celsius, "jobs": [ids[name]]}
    eight[2] |= {"promised": 72, "used": 3, "use": 12, "celsius": 45, "jobs": [ids["fold_cloth_compiles"]]}
    announce(store, "autodl-1", eight, refusals=lacks)
    two = [{"name": "NVIDIA GeForce RTX 4090", "gib": 24, "used": 19, "use": 95, "celsius": 86} for _ in range(2)]
    two[0] |= {"jobs": [ids["stack_saves"]]}
    two[1] |= {"jobs": [ids["hot_lr_diverges"]]}
    announce(store, "lab-4090", two, refusals=lacks)
    announce(store, "lab-old", [{"name": "NVIDIA A100-SXM4-40GB", "gib": 40}], refusals=lacks)
    lose(store, "lab-old", 3600)
    announce(store, "spare", [{"name": "NVIDIA L40S", "gib": 48, "celsius": 33, "use": 0}], refusals=lacks)
    store.drain("spare", "drain", text="drained by ada@laptop")
    return ids

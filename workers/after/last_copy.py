"""The chore `copy`: the last checkpoint of a job that ended goes where its copies go, its GPU being free by then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pi0q.jobs import copies
from pi0q.jobs.checkpoint import MANIFEST
from pi0q.jobs.record import Saved
from pi0q.jobs.spec import Spec
from pi0q.workers.aftercare import Desk, Did, Later, Never
from pi0q.workers.run import child, clerk
from pi0q.workers.run.chores import Chore
from pi0q.workers.run.transfer import amount


def chore(spec: Spec, behind: Saved | None, *, epoch: int, box: str) -> Chore | None:
    """The copy of the last checkpoint of a run that ends; None where nothing is behind."""
    if behind is None:
        return None
    order = {"place": copies.place_of(spec), "keep": spec.checkpoints.keep, "checkpoint": vars(behind)}
    return Chore(kind="copy", epoch=epoch, box=box, order=order)


def work(desk: Desk) -> Did:
    """Copies it. No lease is asked for: nobody else can own a job that has ended. Raises Later or Never."""
    told, saved = desk.chore.order, Saved(**desk.chore.order["checkpoint"])
    order = {
        "act": "copy", "place": told["place"], "job": desk.job_id, "epoch": desk.chore.epoch, "keep": told["keep"],
        "checkpoint": saved.path, "spared": list(desk.record.kept_steps), "lease": "",
        "xet": desk.chore.tries % 2 == 0,
    }  # fmt: skip
    if not (Path(saved.path) / MANIFEST).exists():
        raise Never(f"the checkpoint of step {saved.step} is not on {desk.chore.box} any more")
    end, said = dict[str, object](), ""
    try:
        for end in clerk.send(order, desk.settings, over=desk.stopping):
            if end.get("total") and (text := amount(int(str(end["done"])), int(str(end["total"])))) != said:
                said = text
                desk.say(f"copying step {saved.step} to {told['place']}, {text}")
    except child.Broken as error:
        raise Later(str(error)) from None
    if desk.stopping.is_set():
        raise Later("the worker stopped")
    if "copied" in end:
        copy = replace(saved, path=str(end["copied"]))
        return Did(detail=f"step {saved.step}", fields={"copied": vars(copy), "copy_detail": ""})
    why = str(end.get("failed") or "the process that copies ended without a word")
    if end.get("damaged"):
        raise Never(why)
    raise Later(why)

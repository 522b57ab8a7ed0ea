from __future__ import annotations

import json
from typing import Any

from pi0q.jobs.outcome import OUTCOMES, Reason
from pi0q.jobs.record import Record, Saved, event_from, from_hash, to_hash
from pi0q.jobs.state import State

SAVED = Saved(step=20000, path="/data/runs/a1/output/checkpoints/020000", manifest="ab" * 32, bytes=28_000_000_000)
FULL: dict[str, Any] = {
    "id": "a1b2c3", "name": "抓盒子 №1", "state": State.FAILED, "priority": "high", "submitter": "ada@laptop",
    "spec": {"train": {"steps": 50000}}, "needs": {"gpus": 1, "vram_mib": 92160}, "created_ms": 1763815200123,
    "updated_ms": 1763815200456, "started_ms": 1763815200200, "ended_ms": 1763815200456, "queued_ms": 1763815200123,
    "evidence": {"reason": "cuda_out_of_memory", "cure": "", "seen": ["exit code 1"]},
    "reason": Reason.CUDA_OUT_OF_MEMORY, "detail": "CUDA out of memory", "epoch": 3, "attempt": 1, "fruitless": 2,
    "rest_seconds": 90.0, "held": "held by ada@laptop", "continues": "b2c3d4", "continued": "c3d4e5",
    "box": "autodl-1", "boot": "99", "gpus": ("GPU-1",), "phase": "saving", "step": 0, "steps": 50000, "loss": 0.0,
    "lr": 2.5e-05, "step_seconds": 1.25, "eta_seconds": 3.5, "vram_peak_mib": 90000, "vram_now_mib": 5,
    "disk_now_mib": 7, "save_seconds": 28.6, "save_wish": 1763815200111, "save_served": 1763815200100, "save_at": 19,
    "save_step": 20, "save_detail": "was not vouched for", "save_able": "yes", "kept_steps": (10, 20),
    "checkpoint": SAVED, "wandb_run_id": "pi0q-a1b2c3", "wandb_url": "https://wandb.ai/e/p/runs/r",
    "copied": SAVED, "copy_detail": "copying step 9", "copy": {"state": "pending"},
    "lerobot": "0.6.1", "wandb_dir": "/data/wandb",
    "pins": {"lerobot/pi0": "c0ffee"}, "wish": "cancel", "run_dir": "/data/runs/a1b2c3",
    "preflight": {"autodl-1": {"ok": True, "seconds": 1.5}}, "rehearsal": {"ok": True, "seconds": 50.5},
    "disk_plan": {"checkpoint_mib": 22000, "free": {"autodl-1": 90000}},
    "push": {"state": "pending", "repo": "you/it"}, "wandb_sync": {"autodl-1": {"state": "done", "mb": 0.5}},
}  # fmt: skip


def test_the_full_record_above_leaves_no_field_out() -> None:
    assert set(FULL) | {"history"} == set(Record.__dataclass_fields__)


def test_what_is_written_is_what_is_read() -> None:
    assert from_hash(to_hash(FULL)) == Record(**FULL)


def test_a_new_job_is_nothing_but_its_defaults() -> None:
    job = from_hash({"id": "a1", "name": "n", "state": "queued", "created_ms": "5"})
    assert (job.priority, job.epoch, job.attempt, job.box, job.gpus, job.checkpoint) == ("normal", 0, 0, None, (), None)


def test_an_empty_field_is_an_absent_one() -> None:
    written = to_hash(dict.fromkeys(("loss", "step", "box", "checkpoint", "reason", "wandb_url")))
    job = from_hash({"id": "a1", "name": "n", "state": "queued", "created_ms": "5", **written})
    assert (job.loss, job.step, job.box, job.checkpoint, job.reason, job.wandb_url) == (None,) * 6


def test_history_reads_as_the_scripts_write_it() -> None:
    line = json.dumps({"at_ms": 7, "state": "queued", "epoch": 1, "box": "", "reason": "", "text": "submitted"})
    event = event_from(line)
    assert (event.at_ms, event.state, event.epoch, event.box, event.reason) == (7, State.QUEUED, 1, None, None)
    ended = event_from(json.dumps({"at_ms": 9, "state": "failed", "epoch": 1, "box": "b", "reason": "disk_full"}))
    assert (ended.reason, ended.box, ended.text) == (Reason.DISK_FULL, "b", "")


def test_a_reason_brings_its_cure() -> None:
    assert Record(**FULL).cure == OUTCOMES[Reason.CUDA_OUT_OF_MEMORY].cure
    assert from_hash({"id": "a1", "name": "n", "state": "queued", "created_ms": "5"}).cure == ""


def test_what_show_prints_is_plain_json() -> None:
    shown = json.loads(json.dumps(from_hash(to_hash(FULL)).to_json()))
    assert shown["state"] == "failed" and shown["reason"] == "cuda_out_of_memory"
    assert shown["checkpoint"] == shown["copied"] == vars(SAVED)
    assert shown["gpus"] == ["GPU-1"]


def test_the_cure_of_its_last_end_is_told_only_with_that_ends_reason() -> None:
    found = {"reason": "hung", "cure": "Look at the stacks."}
    assert Record(**{**FULL, "reason": Reason.HUNG, "evidence": found}).cure == "Look at the stacks."
    later = Record(**{**FULL, "reason": Reason.LEASE_EXPIRED, "evidence": found})
    assert later.cure == OUTCOMES[Reason.LEASE_EXPIRED].cure

from __future__ import annotations

import json
from typing import Any

from pi0q.jobs.best_checkpoint import Best
from pi0q.jobs.box_choice import BoxChoice
from pi0q.jobs.estimates.base_facts import BaseFacts
from pi0q.jobs.outcome import OUTCOMES, Reason
from pi0q.jobs.record import STORED, Record, Saved, Use, event_from, from_hash, keys_for, to_hash
from pi0q.jobs.signing.job_signature import ClaimReceipt, JobSignature
from pi0q.jobs.signing.sweep_warrant import SweepWarrant
from pi0q.jobs.start_point import StartPoint
from pi0q.jobs.state import State
from pi0q.jobs.sweep import Tally
from pi0q.jobs.vram_peak import Peak

SAVED = Saved(step=20000, path="/data/runs/a1/output/checkpoints/020000", manifest="ab" * 32, bytes=28_000_000_000)
FULL: dict[str, Any] = {
    "id": "a1b2c3d4e5f6", "name": "抓盒子 №1", "state": State.FAILED, "priority": "high", "submitter": "ada@laptop",
    "spec": {"train": {"steps": 50000}}, "needs": {"gpus": 1, "vram_mib": 92160}, "created_ms": 1763815200123,
    "updated_ms": 1763815200456, "started_ms": 1763815200200, "ended_ms": 1763815200456, "queued_ms": 1763815200123,
    "evidence": {"reason": "cuda_out_of_memory", "cure": "", "seen": ["exit code 1"]},
    "facts": {"exit": 1, "error": {"type": "OutOfMemoryError"}},
    "reason": Reason.CUDA_OUT_OF_MEMORY, "detail": "CUDA out of memory", "epoch": 3, "attempt": 1,
    "runs_without_checkpoint": 2,
    "rest_seconds": 90.0, "held": "held by ada@laptop", "lacks": {"what": "weights", "since_ms": 5},
    "continues": "b2c3d4e5f6a1", "continued": "c3d4e5f6a1b2",
    "box": "autodl-1", "boot": "99", "gpus": ("GPU-1",), "phase": "saving", "step": 0, "steps": 50000, "loss": 0.0,
    "lr": 2.5e-05, "step_seconds": 1.25, "trained_seconds": 7.5, "eta_seconds": 3.5, "vram_peak_mib": 90000,
    "vram_now_mib": 5, "vram_peaks_mib": (90000, 80000),
    "disk_now_mib": 7, "save_seconds": 28.6, "save_wish": 1763815200111, "save_served": 1763815200100, "save_at": 19,
    "save_step": 20, "save_detail": "was not vouched for", "save_able": "yes", "pinned_steps": (10, 20),
    "starters": {"d4e5f6a1b2c3": 10}, "awaits": {"d4e5f6a1b2c4": "ok"}, "sweep": "d4e5f6a1b2c5", "sweep_number": 3,
    "trials": Tally(total=4, made=4, succeeded=1, best_id="d4e5f6a1b2c6", best_number=2, best=0.5,
                    best_values={"train.seed": 7}),
    "choice": BoxChoice(box=("autodl-*",)), "eval_loss": 0.5, "best": Best(step=5, loss=0.5, since=2),
    "max_parallel": 2, "sweep_values": {"train.seed": 7}, "start_ms": 9, "start_job": "d4e5f6a1b2c4",
    "starts_from": StartPoint(job="e5f6a1b2c3d4", step=5, manifest="ab" * 32, lerobot="0.6.1"),
    "base": BaseFacts(policy="act", params=5, vision=2, expert=3, bytes=20, settings={"dtype": "bfloat16"}),
    "measured": Peak(peak_mib=5, oom_mib=7, job="e5f6a1b2c3d4", box="b", at_ms=9),
    "verified": {"10": "ab" * 32},
    "checkpoint": SAVED, "checkpoint_ms": 6, "wandb_run_id": "pi0q-a1b2c3", "wandb_url": "https://wandb.ai/e/p/runs/r",
    "copied": SAVED, "copy_detail": "copying step 9", "copy": {"state": "pending"}, "manifests": {"10": "ab" * 32},
    "compiled": {"cd" * 32: "ab" * 32},
    "signature": JobSignature(
        key="ab" * 8, job="a1b2c3d4e5f6", prefix="pi0q:", issued_ms=1, expires_ms=2, lineage=("b2c3d4e5f6a1",),
        value="A" * 86 + "==",
    ),
    "warrant": SweepWarrant(
        spec={"name": "n"},
        starts_from=None,
        signature=JobSignature(
            key="ab" * 8, job="a1b2c3d4e5f6", prefix="pi0q:", issued_ms=1, expires_ms=2, value="A" * 86 + "=="
        ),
    ),
    "receipt": ClaimReceipt(key="cd" * 8, job="a1b2c3d4e5f6", prefix="pi0q:", at_ms=3, value="B" * 86 + "=="),
    "lerobot": "0.6.1", "wandb_dir": "/data/wandb",
    "uncompared": {"lerobot/pi0": "c0ffee00" * 5},
    "pins": {"lerobot/pi0": "c0ffee00" * 5}, "wish": "cancel", "run_dir": "/data/runs/a1b2c3d4e5f6",
    "preflight": {"autodl-1": {"ok": True, "seconds": 1.5}}, "rehearsal": {"ok": True, "seconds": 50.5},
    "disk_plan": {"checkpoint_mib": 22000, "free": {"autodl-1": 90000}},
    "swanlab_url": "https://swanlab.cn/@e/p/runs/r", "swanlab_sync": {"autodl-1": {"state": "done", "mb": 0.5}},
    "push": {"state": "pending", "repo": "you/it"}, "wandb_sync": {"autodl-1": {"state": "done", "mb": 0.5}},
}  # fmt: skip


KEYS = {one.name: one.key for one in STORED}


def written(values: dict[str, Any]) -> dict[str, str]:
    """Fields by their names in Redis, as text."""
    return to_hash({KEYS[name]: value for name, value in values.items()})


def test_full_record_above_leaves_no_field_out() -> None:
    assert set(FULL) | {"history"} == set(Record.__dataclass_fields__)


def test_every_field_has_metadata_and_a_use_that_means_something() -> None:
    for name, one in Record.__dataclass_fields__.items():
        assert set(one.metadata) == {"codec", "uses", "key", "absent"}, f"{name} needs metadata=stored(…)"
    assert [one.name for one in STORED] == list(Record.__dataclass_fields__)
    assert all(keys_for(use) for use in Use)


def test_redis_names_of_renamed_attributes_stay() -> None:
    """Records of older versions lie on servers, and scripts write these fields by name."""
    assert {name: key for name, key in KEYS.items() if name != key} == {
        "runs_without_checkpoint": "fruitless",
        "pinned_steps": "kept_steps",
    }


def test_fields_of_each_use_are_those_that_their_reader_names() -> None:
    """A field that is forgotten here is silently at its default in a list, a retried job or a ledger."""
    assert {"checkpoint", "copied", "pins", "uncompared", "kept_steps", "wandb_run_id", "disk_plan"} <= set(
        keys_for(Use.CARRIED)
    )
    assert {"state", "checkpoint", "fruitless", "save_served"} <= set(keys_for(Use.LEDGER))
    assert {"step", "loss", "checkpoint", "save_detail"} <= set(keys_for(Use.FINAL))
    assert {"gpus", "vram_now_mib", "disk_now_mib"} <= set(keys_for(Use.OWNED))
    assert "spec" not in keys_for(Use.LISTED) and "step" not in keys_for(Use.LEDGER)


def test_what_is_written_is_what_is_read() -> None:
    assert from_hash(written(FULL)) == Record(**FULL)


def test_a_new_job_is_nothing_but_its_defaults() -> None:
    job = from_hash({"id": "a1a1a1a1a1a1", "name": "n", "state": "queued", "created_ms": "5"})
    assert (job.priority, job.epoch, job.attempt, job.box, job.gpus, job.checkpoint) == ("normal", 0, 0, None, (), None)


def test_an_empty_field_is_an_absent_one() -> None:
    empty = to_hash(dict.fromkeys(("loss", "step", "box", "checkpoint", "reason", "wandb_url", "submitter", "spec")))
    job = from_hash({"id": "a1a1a1a1a1a1", "name": "n", "state": "queued", "created_ms": "5", **empty})
    assert (job.submitter, job.spec, job.needs, job.updated_ms) == ("", {}, {}, 0)
    assert (job.loss, job.step, job.box, job.checkpoint, job.reason, job.wandb_url) == (None,) * 6


def test_history_reads_as_the_scripts_write_it() -> None:
    line = json.dumps({"at_ms": 7, "state": "queued", "epoch": 1, "box": "", "reason": "", "text": "submitted"})
    event = event_from(line)
    assert (event.at_ms, event.state, event.epoch, event.box, event.reason) == (7, State.QUEUED, 1, None, None)
    ended = event_from(json.dumps({"at_ms": 9, "state": "failed", "epoch": 1, "box": "b", "reason": "disk_full"}))
    assert (ended.reason, ended.box, ended.text) == (Reason.DISK_FULL, "b", "")


def test_reason_brings_its_fix() -> None:
    assert Record(**FULL).fix == OUTCOMES[Reason.CUDA_OUT_OF_MEMORY].fix
    assert from_hash({"id": "a1a1a1a1a1a1", "name": "n", "state": "queued", "created_ms": "5"}).fix == ""


def test_fix_names_the_job_itself() -> None:
    def fix(reason: Reason, cure: str = "") -> str:
        evidence = {"reason": reason.value, "cure": cure}
        return Record(**{**FULL, "reason": reason, "evidence": evidence}).fix

    assert [reason for reason in Reason if "{id}" in fix(reason)] == []
    assert f"`pi0q release {FULL['id']}`" in fix(Reason.HELD)
    told = "Traceback: `pi0q logs {id}`."
    assert fix(Reason.HUNG, told) == f"Traceback: `pi0q logs {FULL['id']}`."


def test_what_show_prints_is_plain_json() -> None:
    shown = json.loads(json.dumps(from_hash(written(FULL)).to_json()))
    assert shown["state"] == "failed" and shown["reason"] == "cuda_out_of_memory"
    assert shown["checkpoint"] == shown["copied"] == vars(SAVED)
    assert shown["gpus"] == ["GPU-1"] and shown["kept_steps"] == [10, 20] and shown["fruitless"] == 2


def test_fix_of_the_last_end_is_shown_only_with_its_reason() -> None:
    found = {"reason": "hung", "cure": "Look at the stacks."}
    assert Record(**{**FULL, "reason": Reason.HUNG, "evidence": found}).fix == "Look at the stacks."
    later = Record(**{**FULL, "reason": Reason.LEASE_EXPIRED, "evidence": found})
    assert later.fix == OUTCOMES[Reason.LEASE_EXPIRED].fix

"""Caches as huggingface_hub and a trainer lay them, a few MiB each."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from pi0q.jobs.checkpoint import MANIFEST
from pi0q.jobs.record import to_hash
from pi0q.queue.settings import Settings
from pi0q.workers.host import usage_locks
from pi0q.workers.runs.ledger import Ending, Ledger
from pi0q.workers.runs.run_directory import RunDirectory

DAY = 86400.0
MIB = 1024 * 1024


def fill(path: Path, mib: int) -> Path:
    """A file that really takes the room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(MIB) * mib)
    return path


def repo(hf_home: Path, name: str, *, mib: int = 2, kind: str = "model", used: float | None = DAY) -> Path:
    """A repository of one commit; `used`: when a job last did, None: none of pi0q's ever did."""
    folder = hf_home / "hub" / f"{kind}s--{name.replace('/', '--')}"
    sha = hashlib.sha1(name.encode()).hexdigest()
    blob = fill(folder / "blobs" / hashlib.sha256(name.encode()).hexdigest(), mib)
    link = folder / "snapshots" / sha / "weights.bin"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(sha)
    if used is not None:
        mark = usage_locks.of_hub(hf_home) / f"{folder.name}.used"
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        os.utime(mark, (used, used))
    return folder


def checkpoint(directory: RunDirectory, step: int, *, mib: int = 1, verified: bool = True, bad: bool = False) -> Path:
    place = directory.checkpoints / (f"{step:06d}" + ".bad" * bad)
    fill(place / "pretrained_model" / "model.safetensors", mib)
    if verified:
        (place / MANIFEST).write_text("{}")
    return place


def a_run(settings: Settings, job: str, *, ended: str = "", name: str = "grab_box") -> RunDirectory:
    """A run with a ledger; `ended`: the state in which it did."""
    directory = RunDirectory(settings.runs / job)
    directory.make()
    ending = Ending(to=ended, reason="", text="", fields=to_hash({})) if ended else None
    fields = {"name": name, "state": "running"}
    Ledger(job_id=job, epoch=1, box="box-a", boot="1", fields=fields, ending=ending).write(directory.ledger)
    (directory.path / "trainer.log").write_text(json.dumps({}))
    return directory

"""Weights of another job's checkpoint in a run's own directory: linked from this disk, or brought back from a copy.

runs/JOB/start/000010/pi0q.manifest.json                 the manifest that the job's record names
runs/JOB/start/000010/pretrained_model/model.safetensors

They share their space with the checkpoint where that lies on the same disk, and stay whatever becomes of it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pi0q.jobs.checkpoint import MANIFEST, Manifest, step_of
from pi0q.jobs.replicas import within
from pi0q.jobs.start_point import StartPoint
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import local_store, replicate_client
from pi0q.workers.checkpoints.replicate_client import ReplicaTarget
from pi0q.workers.checkpoints.start_sources import Copies
from pi0q.workers.host import files
from pi0q.workers.runs.lease import Lease, LeaseExpired

log = logging.getLogger(__name__)

#: The part of a checkpoint that a training starts from.
MODEL = "pretrained_model"
#: Errors of a disk that can't give a file a second name.
_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP})


class Unusable(Exception):
    """The checkpoint can't be taken from there; the text says why."""


@dataclass(frozen=True, kw_only=True)
class StartWeights:
    """The weights that one run starts from."""

    start: StartPoint
    #: `runs/JOB/start`.
    place: Path
    settings: Settings
    lease: Lease
    #: Set where the run ends meanwhile: cancels a fetch.
    over: threading.Event
    #: Called with what is done, in words.
    show: Callable[[str], None]
    #: Whose checkpoints are taken over, see signers.py; None: nobody need sign.
    signers: Mapping[str, Any] | None = None

    def present(self) -> Path | None:
        """Return the model's directory where an earlier run of the job has brought it; verified."""
        for directory in local_store.step_directories(self.place).values():
            if not self._faults(directory):
                return directory / MODEL
        return None

    def link(self, checkpoint: Path) -> Path:
        """Take the model of a checkpoint on this disk; return its directory. Raises Unusable, LeaseExpired, OSError."""
        manifest = self._manifest(checkpoint)
        fresh = self._fresh()
        target = fresh / checkpoint.name
        for path in _model_files(manifest):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            try:
                _link(checkpoint / path, target / path)
            except FileNotFoundError:
                raise Unusable(f"{path} is gone") from None
        (target / MANIFEST).write_bytes((checkpoint / MANIFEST).read_bytes())
        if faults := self._faults(target):
            shutil.rmtree(fresh)
            raise Unusable("; ".join(faults))
        self.lease.require_valid()
        fresh.rename(self.place)
        files.fsync_directory(self.place.parent)
        return self.place / checkpoint.name / MODEL

    def fetch(self, copies: Copies, *, epoch: int) -> Path:
        """Bring the model back from a copy; return its directory. Raises Unusable, LeaseExpired."""
        shutil.rmtree(self.place, ignore_errors=True)
        why = f"{copies.place} holds no copy of it any more"
        for job in copies.jobs:
            target = ReplicaTarget(
                place=copies.place, job_id=job, epoch=epoch, keep=1, lease=str(self.place.parent / "lease")
            )
            request = {
                **target.request("fetch"),
                "newer_than": self.start.step - 1,
                "only": self.start.step,
                "below": f"{MODEL}/",
                "into": str(self.place),
                "part": str(self.place.with_name("start.part")),
                "manifests": [self.start.manifest],
                **({} if self.signers is None else {"signers": dict(self.signers)}),
            }
            damages = list[str]()
            result = replicate_client.fetch(request, self.settings, over=self.over, show=partial(self._show, damages))
            if result.lease_ended:
                raise LeaseExpired
            if result.name:
                return self.place / result.name / MODEL
            why = result.error or next(iter(damages), why)
        raise Unusable(why)

    def remove(self) -> None:
        """Remove the weights: the run has a checkpoint of its own."""
        for place in (self.place, self.place.with_name("start.part")):
            shutil.rmtree(place, ignore_errors=True)

    def _fresh(self) -> Path:
        """Return an empty directory beside the place, in which nothing is yet; what was there is removed."""
        self.remove()
        fresh = self.place.with_name("start.part")
        fresh.mkdir(parents=True)
        return fresh

    def _show(self, damages: list[str], line: Mapping[str, Any]) -> None:
        if "bad" in line:
            damages.append(str(line["why"]))
            log.warning("the copy of checkpoint %s is not the one to start from: %s", line["bad"], line["why"])
        elif line.get("total"):
            done, total = int(line["done"]), int(line["total"])
            self.show(f"restoring step {line['step']}, {done / 1e9:.1f} of {total / 1e9:.1f} GB")

    def _manifest(self, directory: Path) -> Manifest:
        """Return the manifest that the record names. Raises Unusable where another one lies there."""
        try:
            text = (directory / MANIFEST).read_bytes()
            if hashlib.sha256(text).hexdigest() != self.start.manifest:
                raise Unusable("its manifest is not the one that the job's record names")
            manifest = Manifest.from_json(json.loads(text))
            for path in manifest.files:
                within(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unusable(f"its manifest can't be read: {error}") from None
        return manifest

    def _faults(self, directory: Path) -> list[str]:
        """Return how the model here differs from the manifest that the record names; every byte is read."""
        try:
            manifest = self._manifest(directory)
        except Unusable as error:
            return [str(error)]
        if step_of(directory.name) != self.start.step:
            return ["it is of another step"]
        self.show(f"verifying the weights of step {self.start.step}")
        return local_store.part_faults(directory, manifest, below=f"{MODEL}/")


def model_type(model: Path) -> str:
    """Return the type of the policy in a model's directory; "" where its config.json names none."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        return str(json.loads((model / "config.json").read_text(encoding="utf-8")).get("type") or "")
    return ""


def _model_files(manifest: Manifest) -> list[str]:
    return [path for path in manifest.files if path.startswith(f"{MODEL}/")]


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; on a disk without links copy it. Raises Unusable for what is no regular file."""
    if source.is_symlink() or (source.exists() and not source.is_file()):
        raise Unusable(f"{source.name} is no regular file")
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target, follow_symlinks=False)

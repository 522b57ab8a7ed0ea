"""Weights that a job names by a directory of the box: whether they are there, and whole."""

from __future__ import annotations

from pathlib import Path

from pi0q.jobs.estimates import policy_sizes
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.queue.refusals import BadInput

WEIGHTS = "weights"
#: What a directory of LeRobot's has: the whole model, or an adapter.
_MODEL = (("config.json", "model.safetensors"), ("adapter_config.json", "adapter_model.safetensors"))
#: What Git LFS leaves in place of a file until it is fetched.
_POINTER = b"version https://git-lfs.github.com/spec/"


def directory(spec: Spec) -> Path | None:
    """Return the directory that the job starts from; None where it names none."""
    base = policy_sizes.base(spec)
    return Path(base) if base and base.startswith("/") else None


def problem(job: Record, spec: Spec) -> BadInput | None:
    """Why this box can't start the job from its directory; None if it can, or needs not."""
    place = directory(spec)
    # A job that goes on does so from its own checkpoint.
    if place is None or job.checkpoint is not None:
        return None
    if not place.is_dir():
        return _bad(f"{place} is not on this box. Fix: copy it here, or name another directory or repository")
    missing = [name for name in _MODEL[0] if not (place / name).is_file()]
    if missing and not all((place / name).is_file() for name in _MODEL[1]):
        return _bad(f"{place} is not on this box whole: it has no {' and no '.join(missing)}. Fix: copy all of it here")
    for name in (names[1] for names in _MODEL):
        if _is_pointer(place / name):
            told = f"{place / name} is what Git LFS leaves in place of a file that was not fetched"
            return _bad(f"{told}. Fix: `cd {place} && git lfs install && git lfs pull`")
    return None


def config(spec: Spec) -> bytes | None:
    """Return config.json of the directory that the job starts from; None where it can't be read."""
    place = directory(spec)
    try:
        return (place / "config.json").read_bytes()[: 1 << 20] if place else None
    except OSError:
        return None


def _is_pointer(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def _bad(why: str) -> BadInput:
    return BadInput(what=WEIGHTS, why=why, reason=Reason.WEIGHTS_DAMAGED.value)

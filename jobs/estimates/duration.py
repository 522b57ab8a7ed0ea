"""How long a training takes at the least: what is worth a rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pi0q.jobs.schema import trained_model
from pi0q.jobs.schema.defaults import number

if TYPE_CHECKING:
    # Commands that only read must not import the parser of job files.
    from pi0q.jobs.spec import Spec

#: A job that takes longer than this is rehearsed first unless its file says otherwise, seconds.
LONG_SECONDS = 3600.0
#: Seconds a sample of one step, on a fast card: pi0 was measured on an H100 (0.24 s at batch 8, 0.71 s at batch 32 with
#: gradient checkpointing), the others are guessed low, so that a job that is called long is.
_SAMPLE_SECONDS = {"pi0": 0.022, "pi05": 0.022, "pi0_fast": 0.022, "smolvla": 0.006, "act": 0.002, "diffusion": 0.002}
#: Seconds a step beside the samples.
_STEP_SECONDS = 0.02
#: How much longer a CPU takes, at the least.
_CPU = 10.0
#: What a rehearsal trains: pi0q shrinks the first two, the others are small as they are.
_REHEARSED = frozenset({"pi0", "pi05", "smolvla", "act", "diffusion", "tdmpc", "vqbet"})


def seconds(spec: Spec, *, steps: int, step_seconds: float | None = None) -> float:
    """Seconds that these steps take at the least; `step_seconds` where the job's own is known."""
    return steps * step_seconds if step_seconds else guessed_seconds(spec.train, steps=steps)


def guessed_seconds(train: Mapping[str, Any], *, steps: int) -> float:
    """Return the seconds that these steps take at the least, by the `train` section of the job's file alone."""
    sample = _SAMPLE_SECONDS.get(trained_model.kind(train), 0.022)
    slow = _CPU if trained_model.on_cpu(train) else 1.0
    return steps * slow * (_STEP_SECONDS + sample * number(train, "batch_size"))


def wants_rehearsal(spec: Spec, *, steps: int, step_seconds: float | None = None) -> bool:
    """Whether the job is rehearsed on its box before the long run begins."""
    if spec.rehearsal or spec.rehearse == "never" or why_not(spec):
        return False
    return spec.rehearse == "always" or seconds(spec, steps=steps, step_seconds=step_seconds) > LONG_SECONDS


def why_not(spec: Spec) -> str:
    """Why this job can't be rehearsed: its model can't be made small; "" if it can."""
    if spec.train.get("policy.path"):
        return "a policy given by path can't be shrunk"
    kind = trained_model.kind(spec.train)
    return "" if kind in _REHEARSED else f"{kind} can't be shrunk"

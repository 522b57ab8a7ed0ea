"""The flags that pi0q sets itself, by the names that each LeRobot release has for them.

What else a new release needs is a table (ops/dev/lerobot_flags_main.py) and its line in lerobot_tables.RELEASES;
trackers (WandB, Trackio) are in schema/trackers.py. tests/jobs/test_next_release.py plays a 0.7.0.
"""

from __future__ import annotations

from collections.abc import Mapping

from pi0q.jobs.schema import lerobot_tables, trackers, trained_model
from pi0q.jobs.schema.value_types import Value

#: The trainer's command, as LeRobot installs it; the box replaces it by its interpreter and pi0q's hook.
PROGRAM = "lerobot-train"
#: The simulator's evaluation, newest name first.
_EVALUATION = ("env_eval_freq", "eval_freq")
#: Mixed precision: LeRobot's own flag since 0.7; before, accelerate reads its environment, which 0.7 refuses.
_PRECISION_FLAG = "accelerator.mixed_precision"
_PRECISION_VARIABLE = "ACCELERATE_MIXED_PRECISION"


def added(train: Mapping[str, Value], *, lerobot: str, run_id: str) -> dict[str, Value]:
    """Return what pi0q adds to a job's own flags, whatever box it is on."""
    return trackers.added(train, lerobot=lerobot, run_id=run_id) | _no_push(train) | _no_evaluation(lerobot)


def precision(wanted: str, lerobot: str) -> tuple[dict[str, Value], dict[str, str]]:
    """Return the flags and the environment that turn mixed precision on ("bf16", "fp16"); none for ""."""
    if not wanted:
        return {}, {}
    if lerobot_tables.takes(lerobot, _PRECISION_FLAG):
        return {_PRECISION_FLAG: wanted}, {}
    return {}, {_PRECISION_VARIABLE: wanted}


def _no_push(train: Mapping[str, Value]) -> dict[str, Value]:
    """The box pushes when the training is over (workers/postrun/push.py): here a Hub that is away would fail it."""
    return {f"{trained_model.section(train)}.push_to_hub": False}


def _no_evaluation(lerobot: str) -> dict[str, Value]:
    known = (name for name in _EVALUATION if lerobot_tables.takes(lerobot, name))
    return dict.fromkeys(list(known)[:1], 0)

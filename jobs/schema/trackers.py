"""The experiment trackers of LeRobot's releases: which section of flags each has, and which release has which.

LeRobot 0.4 to 0.6 report to WandB (`wandb.*`). 0.7.0's notes say that `trackio.*` takes its place. A tracker is not the
training: what a release has no flags for is not passed to it, and a job that wants it is refused by that box.

A job file chooses among trackers by `tracking` (jobs/tracking.py). SwanLab is none of LeRobot's and has no flags here:
pi0q feeds it itself (workers/trainer/pi0q_trainer/trackers.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pi0q.jobs.schema import lerobot_tables
from pi0q.jobs.schema.value_types import Value


class Tracker(NamedTuple):
    """One tracker, as LeRobot's flags have it."""

    #: Of its flags; `SECTION.enable` turns it on.
    section: str
    #: The flag by which all attempts of a job are one run; "" where LeRobot has none.
    run: str = ""
    #: What pi0q sets where the file does not.
    settings: Mapping[str, Value] = {}


TRACKERS = (
    # LeRobot would upload every checkpoint (7-14 GB of weights) from inside the training loop.
    Tracker("wandb", run="wandb.run_id", settings={"wandb.disable_artifact": True}),
    Tracker("trackio"),
)


def is_on(tracker: Tracker, train: Mapping[str, Value]) -> bool:
    """Whether a job wants it."""
    return bool(train.get(f"{tracker.section}.enable"))


def in_release(tracker: Tracker, lerobot: str) -> bool:
    """Whether a release has it."""
    return lerobot_tables.takes(lerobot, f"{tracker.section}.enable")


def idle_flags(train: Mapping[str, Value], lerobot: str) -> frozenset[str]:
    """Return the job's flags of trackers that are off and that the release does not have: nothing is lost with them."""
    return frozenset(
        name
        for tracker in TRACKERS
        if not is_on(tracker, train) and not in_release(tracker, lerobot)
        for name in train
        if name.startswith(f"{tracker.section}.")
    )


def passed(train: Mapping[str, Value], lerobot: str) -> dict[str, Value]:
    """Return the job's flags without those of trackers that the release does not have."""
    gone = tuple(f"{tracker.section}." for tracker in TRACKERS if not in_release(tracker, lerobot))
    return {name: value for name, value in train.items() if not name.startswith(gone)}


def added(train: Mapping[str, Value], *, lerobot: str, run_id: str) -> dict[str, Value]:
    """Return what pi0q adds: one run for all attempts of the job, and no upload of checkpoints."""
    found: dict[str, Value] = {}
    for tracker in TRACKERS:
        if is_on(tracker, train) and in_release(tracker, lerobot):
            found |= {tracker.run: run_id} if tracker.run else {}
            found |= {name: train.get(name, value) for name, value in tracker.settings.items()}
    return found

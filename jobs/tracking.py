"""Which experiment trackers a job reports to, as its file chooses them, and its settings of SwanLab. Pure.

LeRobot reports to WandB by flags of its own (`train.wandb.*`, schema/trackers.py); SwanLab has none there, pi0q itself
feeds it (workers/trainer/pi0q_trainer/swanlab_run.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pi0q.jobs.schema import tracker_names, trackers
from pi0q.jobs.schema.value_types import Value

#: LeRobot's own name of a project where nobody gave one.
PROJECT = "lerobot"
_SETTINGS = ("project", "workspace", "mode")
#: Those that a job file can choose and that LeRobot has flags for: `SECTION.enable` turns one on.
_OF_LEROBOT = tuple(one.section for one in trackers.TRACKERS if one.section in tracker_names.NAMES)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """The choice of one job file."""

    #: Names of trackers; None: the file does not say, and WandB's own flags decide.
    to: tuple[str, ...] | None = None
    #: SwanLab's project; "" for WandB's project, or LeRobot's name of one.
    project: str = ""
    #: SwanLab's workspace; "" for that of the box's key.
    workspace: str = ""
    #: `online`, or `offline`: the run stays on the box.
    mode: str = "online"

    @property
    def swanlab(self) -> bool:
        """Whether the job reports to SwanLab."""
        return "swanlab" in (self.to or ())

    def to_json(self) -> dict[str, object]:
        """Return the keys of the job file; none where it says nothing, which boxes with an older pi0q know."""
        usual = Tracking()
        said = {name: value for name in _SETTINGS if (value := getattr(self, name)) != getattr(usual, name)}
        chosen = {} if self.to is None else {"tracking": list(self.to)}
        return {**chosen, **({"swanlab": said} if said else {})}


NOT_CHOSEN = Tracking()


def of_values(values: Mapping[str, Value]) -> Tracking:
    """Return the choice of a job file, from its values by dotted key."""
    names = values.get("tracking")
    said = {name: str(value) for name in _SETTINGS if (value := values.get(f"swanlab.{name}"))}
    return Tracking(to=tuple(map(str, names)) if isinstance(names, list) else None, **said)


def with_choice(train: Mapping[str, Value], tracking: Tracking) -> dict[str, Value]:
    """Return LeRobot's flags with its trackers on or off as the file chose; as they are where it chose nothing."""
    if tracking.to is None:
        return dict(train)
    return {**train, **{f"{section}.enable": section in tracking.to for section in _OF_LEROBOT}}


def faults(train: Mapping[str, Value], values: Mapping[str, Value]) -> dict[str, str]:
    """Return by key what contradicts the choice."""
    tracking, found = of_values(values), dict[str, str]()
    for section in _OF_LEROBOT if tracking.to is not None else ():
        flag, wanted = f"{section}.enable", section in (tracking.to or ())
        if (on := train.get(flag)) is not None and bool(on) != wanted:
            with_it = "both" if tracking.to else section
            cure = f"write `tracking: {with_it}`, or leave train.{flag} out" if on else "leave one of the two out"
            said = ", ".join(tracking.to or ()) or "none"
            found["tracking"] = f"is {said} but train.{flag} is {str(bool(on)).lower()}; {cure}"
    if not tracking.swanlab and (given := [name for name in _SETTINGS if values.get(f"swanlab.{name}")]):
        found[f"swanlab.{given[0]}"] = "has no effect: the job does not report to SwanLab; write `tracking: swanlab`"
    if tracking.swanlab and not tracking.project and (wrong := tracker_names.PROJECT.fault(project(tracking, train))):
        found["tracking"] = f"takes train.wandb.project as SwanLab's, which {wrong}; set swanlab.project"
    return found


def project(tracking: Tracking, train: Mapping[str, Value]) -> str:
    """Return the project in SwanLab: its own, else WandB's, else LeRobot's name of one."""
    return tracking.project or str(train.get("wandb.project") or "") or PROJECT


def run_id(wandb_run_id: str) -> str:
    """Return the id of the job's one run in SwanLab: its WandB run's, without what a deleted run had added.

    A WandB run that its user deleted goes on as `pi0q-a1.2`; SwanLab's run is not concerned by that.
    """
    return re.sub(r"\.\d+$", "", wandb_run_id)

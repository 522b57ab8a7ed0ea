"""What a policy takes of a dataset: which features, how normalised, whether the task's text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pi0q.jobs.dataset_checks.contents import features_of
from pi0q.jobs.schema import lerobot_tables, trained_model
from pi0q.jobs.schema.value_types import Value

#: Policies whose processors hand the task's text to a tokenizer (their processor_*.py in LeRobot 0.4.4 to 0.6.1): each
#: refuses a task that is no text.
READS_TASKS = frozenset({"pi0", "pi05", "pi0_fast", "smolvla", "xvla"})
#: Policies that normalise the dataset's features as they are, by its own statistics: by LeRobot 0.6.1's
#: `make_default_policy_processor_steps`, and what their processors did before. Others pad, mask or compute them anew.
NORMALISES = frozenset({
    "act", "diffusion", "multi_task_dit", "pi0", "pi05", "pi0_fast", "smolvla", "tdmpc", "vqbet", "wall_x",
})  # fmt: skip
#: Policies that pad states and actions to a width and can take no wider ones.
PADS = frozenset({"pi0", "pi05", "pi0_fast", "smolvla"})
#: Statistics that each mode of LeRobot's normalisation reads (normalize_processor.py).
STATISTICS: Mapping[str, tuple[str, ...]] = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}


@dataclass(frozen=True, kw_only=True)
class PolicyInputs:
    """What is known of the inputs of the policy that a job trains."""

    #: Its type; "" where it is not known.
    kind: str
    #: Normalisation by type of feature (STATE, ACTION, VISUAL); a type that is absent is not normalised.
    modes: Mapping[str, str] = field(default_factory=dict)
    #: Name -> type of the inputs that its own config.json names; None where they are those of the dataset.
    named: Mapping[str, str] | None = None
    #: Cameras that it makes up for itself.
    empty_cameras: int = 0
    #: What `train.rename_map` says.
    renamed: Mapping[str, str] = field(default_factory=dict)
    #: The most values of a state and of an action; None where there is no limit.
    max_state: int | None = None
    max_action: int | None = None

    @property
    def cameras(self) -> frozenset[str] | None:
        """Return the cameras that its config names, with those that it makes up; None where it names no inputs."""
        if self.named is None:
            return None
        made_up = {f"observation.images.empty_camera_{n}" for n in range(self.empty_cameras)}
        return frozenset({name for name, kind in self.named.items() if kind == "VISUAL"} | made_up)


def of_job(train: Mapping[str, Value], *, base: bytes | None, lerobot: str) -> PolicyInputs:
    """Return what the policy of a job takes.

    Args:
        base: The config.json of the weights that `policy.path` names; None where it was not read. It counts for a
            policy given by path alone: one given by type has its own defaults, whatever weights it starts from.
        lerobot: Version of the LeRobot that will train.
    """
    config = _config(base) if train.get("policy.path") else {}
    kind = trained_model.kind(train) or str(config.get("type") or "")
    read = _Settings(train, config, kind, lerobot)
    given = train.get("policy.input_features")
    named = features_of(given or config.get("input_features")) if given or config.get("input_features") else None
    modes, renamed, empty = read.value("normalization_mapping"), train.get("rename_map"), read.value("empty_cameras")
    return PolicyInputs(
        kind=kind,
        modes={str(of): str(mode) for of, mode in modes.items()} if isinstance(modes, Mapping) else {},
        named=named,
        empty_cameras=empty if type(empty) is int and 0 <= empty <= 16 else 0,
        renamed={str(old): str(new) for old, new in renamed.items()} if isinstance(renamed, Mapping) else {},
        max_state=read.limit("max_state_dim"),
        max_action=read.limit("max_action_dim"),
    )


class _Settings:
    """A policy's settings: from the job file, else from its own config, else LeRobot's defaults."""

    def __init__(self, train: Mapping[str, Value], config: Mapping[str, Any], kind: str, lerobot: str) -> None:
        self.train, self.config, self.kind = train, config, kind
        self.line = lerobot_tables.line(lerobot) or next(reversed(lerobot_tables.RELEASES))

    def value(self, name: str) -> Any:
        given = self.train.get(f"policy.{name}")
        if given is not None:
            return given
        return self.config[name] if self.config.get(name) is not None else self._default(name)

    def limit(self, name: str) -> int | None:
        found = self.value(name) if self.kind in PADS else None
        return found if type(found) is int else None

    def _default(self, name: str) -> Any:
        row = lerobot_tables.rows(f"policy.{name}").get(self.line, {}).get(self.kind)
        try:
            return json.loads(row.default) if row else None
        except ValueError:
            return None


def _config(base: bytes | None) -> Mapping[str, Any]:
    try:
        found = json.loads(base) if base else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}

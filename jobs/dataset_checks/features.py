"""Hold the features of a dataset against what the policy takes: cameras by name and number, widths, shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pi0q.jobs.dataset_checks.contents import DatasetContents, Feature
from pi0q.jobs.dataset_checks.finding import Finding, Source
from pi0q.jobs.dataset_checks.policy_inputs import PolicyInputs
from pi0q.jobs.outcome import Reason
from pi0q.jobs.schema.value_types import Value

INFO = "meta/info.json"
#: Policies that need an image or `observation.environment_state` (their validate_features).
_IMAGE_OR_STATE = frozenset({"act", "diffusion"})
#: Policies that need an image.
_IMAGE = frozenset({"eo1", "fastwam", "groot", "lingbot_va", "molmoact2", "vla_jepa", "wall_x", "xvla"})
#: Policies whose cameras must all have one shape.
_ONE_SHAPE = frozenset({"diffusion", "multi_task_dit"})


def check(contents: DatasetContents, inputs: PolicyInputs, train: Mapping[str, Value], at: Source) -> Iterator[Finding]:
    """Yield what does not fit."""
    yield from _axes(contents.cameras, at)
    if inputs.named is None:
        yield from _number(contents, inputs)
        yield from _shapes(contents.cameras, inputs)
    else:
        yield from _names(contents.cameras, inputs, by_map=bool(train.get("rename_map")))
    yield from _widths(contents.features, inputs)
    if inputs.kind and "action" not in contents.features and not any(map(_is_action, contents.features)):
        yield Finding(
            what="The dataset has no feature `action`, and a policy learns to predict it",
            where=f"{INFO}: features",
            cure=f"name the feature of the robot's commands `action` in the dataset{at.after}",
        )


def _is_action(name: str) -> bool:
    return name.startswith("action")


def _axes(cameras: Mapping[str, Feature], at: Source) -> Iterator[Finding]:
    """LeRobot takes the third name of an image's axes for its channels, and dies where there is none."""
    for name, one in cameras.items():
        where = f"{INFO}: features: {name}"
        if len(one.shape) != 3:
            shape = list(one.shape)
            yield Finding(
                what=f"The images of {name} have the shape {shape}, and LeRobot takes three numbers",
                where=f"{where}: shape",
                cure=f"write [height, width, 3] there{at.after}",
            )
        elif one.names is None or len(one.names) < 3:
            yield Finding(
                what=f"The axes of {name} have no names (`names` is missing or null), and LeRobot reads the third",
                where=f"{where}: names",
                cure=f'write ["height", "width", "channel"] there, in the order of its shape{at.after}',
            )


def _names(cameras: Mapping[str, Feature], inputs: PolicyInputs, *, by_map: bool) -> Iterator[Finding]:
    """As LeRobot's validate_visual_features_consistency: one side must hold all of the other."""
    wanted = inputs.cameras or frozenset()
    there = frozenset(inputs.renamed.get(name, name) for name in cameras)
    if wanted <= there or there <= wanted:
        return
    # With a rename_map LeRobot does not look, and trains on the cameras that both know.
    if by_map and wanted & there:
        return
    known, own = ", ".join(sorted(wanted)), ", ".join(sorted(cameras))
    strange = [name for name in inputs.renamed if name not in cameras and name.startswith("observation.image")]
    if by_map and strange:
        what = f"train.rename_map renames {strange[0]}, which the dataset does not have"
    else:
        what = "The policy knows none of the dataset's cameras" if not wanted & there else "Cameras have other names"
    first = sorted(cameras)[0] if cameras else "observation.images.NAME"
    free = sorted(wanted - there) or sorted(wanted)
    yield Finding(
        what=f"{what}: the dataset has {own or 'none'}; the policy takes {known}",
        where=f"train.rename_map; {INFO}: features",
        cure=f"name each camera by what the policy calls it: `train.rename_map: {{{first}: {free[0]}, …}}`",
        reason=Reason.SPEC_REFUSED,
    )


def _number(contents: DatasetContents, inputs: PolicyInputs) -> Iterator[Finding]:
    """How many cameras a policy that is trained from the dataset's own features must have."""
    count, kind = len(contents.cameras), inputs.kind
    environment = "observation.environment_state" in contents.features
    wants = ""
    if (kind in _IMAGE and not count) or (kind in _IMAGE_OR_STATE and not count and not environment):
        wants = "at least one camera"
    elif kind == "vqbet" and count != 1:
        wants = "exactly one camera"
    elif kind == "tdmpc" and count > 1:
        wants = "one camera at the most"
    if wants:
        yield Finding(
            what=f"{kind} takes {wants}, and the dataset has {count}",
            where=f"{INFO}: features",
            cure="choose another policy.type, or a dataset with other cameras",
            reason=Reason.SPEC_REFUSED,
        )


def _shapes(cameras: Mapping[str, Feature], inputs: PolicyInputs) -> Iterator[Finding]:
    shapes = {name: one.shape for name, one in cameras.items() if len(one.shape) == 3}
    if inputs.kind in _ONE_SHAPE and len(set(shapes.values())) > 1:
        first = next(iter(shapes))
        other = next(name for name in shapes if shapes[name] != shapes[first])
        yield Finding(
            what=f"{inputs.kind} takes cameras of one size, and {first} has {list(shapes[first])}, "
            f"{other} {list(shapes[other])}",
            where=f"{INFO}: features",
            cure="choose another policy.type, or scale the images of one camera in the dataset",
            reason=Reason.SPEC_REFUSED,
        )


def _widths(features: Mapping[str, Feature], inputs: PolicyInputs) -> Iterator[Finding]:
    for name, limit in (("observation.state", inputs.max_state), ("action", inputs.max_action)):
        one = features.get(name)
        if one is None or limit is None or len(one.shape) != 1 or one.shape[0] <= limit:
            continue
        flag = "max_action_dim" if name == "action" else "max_state_dim"
        yield Finding(
            what=f"{name} has {one.shape[0]} values, and the policy takes {limit} at the most",
            where=f"{INFO}: features: {name}; train.policy.{flag}",
            cure=f"`train.policy.{flag}: {one.shape[0]}`, without weights to start from: they have {limit}",
            reason=Reason.SPEC_REFUSED,
        )

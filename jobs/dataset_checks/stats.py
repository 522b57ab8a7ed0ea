"""Hold meta/stats.json against what the policy's normalisation reads of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pi0q.jobs.dataset_checks.contents import DatasetContents, Feature, FileFault, Stat
from pi0q.jobs.dataset_checks.finding import Finding, Source
from pi0q.jobs.dataset_checks.policy_inputs import NORMALISES, STATISTICS, PolicyInputs
from pi0q.jobs.outcome import Reason
from pi0q.jobs.schema.value_types import Value

FILE = "meta/stats.json"


def check(contents: DatasetContents, inputs: PolicyInputs, train: Mapping[str, Value], at: Source) -> Iterator[Finding]:
    """Yield what is missing or wrong in the statistics."""
    absent = any(bad.path == FILE and bad.fault is FileFault.MISSING for bad in contents.bad_files)
    if contents.stats is None and not absent:
        # It was not looked at, or can't be read, which is a finding of its own.
        return
    stats, imagenet = contents.stats or {}, train.get("dataset.use_imagenet_stats") in (None, True)
    cameras = [name for name, one in contents.cameras.items() if not one.depth]
    lacking = [name for name in cameras if name not in stats]
    if imagenet and lacking:
        yield _no_camera(lacking, at, absent=absent)
    if inputs.kind not in NORMALISES:
        return
    modes = {
        name: inputs.modes.get(kind, "IDENTITY")
        for name, feature in contents.features.items()
        if (kind := _kind(name, feature)) and _is_taken(name, inputs)
    }
    yield from _incomplete(modes, stats, inputs, at)
    for name, mode in modes.items():
        yield from _of_feature(name, contents.features[name], mode, stats, inputs, at)


def _is_taken(name: str, inputs: PolicyInputs) -> bool:
    """Whether the policy normalises the feature: those that its own config names, and actions."""
    return inputs.named is None or name == "action" or inputs.renamed.get(name, name) in inputs.named


def _incomplete(
    modes: Mapping[str, str], stats: Mapping[str, Mapping[str, Stat]], inputs: PolicyInputs, at: Source
) -> Iterator[Finding]:
    """Yield one finding for all features that lack the same statistics: older datasets have no quantiles at all."""
    lacking = dict[tuple[str, tuple[str, ...]], list[str]]()
    for name, mode in modes.items():
        found = stats.get(inputs.renamed.get(name, name), {})
        missing = tuple(stat for stat in STATISTICS.get(mode, ()) if stat not in found)
        if found and missing:
            lacking.setdefault((mode, missing), []).append(name)
    for (mode, missing), names in lacking.items():
        line = "train.policy.normalization_mapping: {ACTION: MEAN_STD, STATE: MEAN_STD, VISUAL: IDENTITY}"
        quantiles = f"{_quantiles(at)}; or write `{line}` into the job file"
        yield Finding(
            what=f"This policy normalises {' and '.join(names)} by {' and '.join(STATISTICS[mode])} ({mode}), and the "
            f"statistics lack {' and '.join(missing)}",
            where=f"{FILE}: {names[0]}",
            cure=quantiles if mode.startswith("QUANTILE") else _recompute(at),
        )


def _no_camera(lacking: list[str], at: Source, *, absent: bool) -> Finding:
    """LeRobot puts ImageNet's numbers into the entry of each camera, and dies where there is none."""
    what = "The dataset has no statistics" if absent else f"The statistics lack the cameras {', '.join(lacking)}"
    if len(lacking) == 1 and not absent:
        what = f"The statistics lack the camera {lacking[0]}"
    where = FILE if absent else f"{FILE}: {lacking[0]}"
    return Finding(what=f"{what}, which LeRobot wants to change", where=where, cure=_recompute(at))


def _kind(name: str, feature: Feature) -> str:
    """Return the type that LeRobot gives a feature of numbers; "" for all others (dataset_to_policy_features)."""
    if feature.is_camera or feature.dtype in ("string", "language"):
        return ""
    if name == "action":
        return "ACTION"
    return "STATE" if name.startswith("observation") and name != "observation.environment_state" else ""


def _of_feature(
    name: str, feature: Feature, mode: str, stats: Mapping[str, Mapping[str, Stat]], inputs: PolicyInputs, at: Source
) -> Iterator[Finding]:
    # The processor looks for the statistics of a feature by the name that the policy knows.
    known = inputs.renamed.get(name, name)
    wanted = STATISTICS.get(mode, ())
    if not wanted:
        return
    where = f"{FILE}: {name}"
    if known != name and known not in stats:
        yield Finding(
            what=f"{name} is renamed to {known}, and LeRobot finds no statistics by that name: it would train on "
            "numbers that are not normalised, without a word",
            where=f"train.rename_map: {name}",
            cure=f"rename the feature in the dataset, or say that this is meant: {_mapping_line(inputs)}",
            reason=Reason.SPEC_REFUSED,
        )
        return
    found = stats.get(known)
    if not found:
        yield Finding(
            what=f"The statistics lack {name}: LeRobot would train on numbers that are not normalised, without a word",
            where=where,
            cure=_recompute(at),
        )
        return
    yield from _of_statistics(name, feature, mode, found, at)


def _of_statistics(name: str, feature: Feature, mode: str, found: Mapping[str, Stat], at: Source) -> Iterator[Finding]:
    wanted = STATISTICS[mode]
    if any(stat not in found for stat in wanted):
        return
    where = f"{FILE}: {name}"
    if odd := [stat for stat in wanted if not found[stat].finite]:
        yield Finding(
            what=f"{' and '.join(odd)} of {name} hold values that are no finite numbers, so every loss would be NaN",
            where=where,
            cure=f"look for NaN in the recording, then {_recompute(at)}",
        )
    width = feature.shape[0] if len(feature.shape) == 1 else None
    if width and (wrong := [stat for stat in wanted if found[stat].size not in (1, width)]):
        yield Finding(
            what=f"{name} has {width} values, and its {wrong[0]} has {found[wrong[0]].size}",
            where=where,
            cure=_recompute(at),
        )


def _mapping_line(inputs: PolicyInputs) -> str:
    modes = {**inputs.modes, "STATE": "IDENTITY"}
    return f"`train.policy.normalization_mapping: {{{', '.join(f'{of}: {mode}' for of, mode in modes.items())}}}`"


def _quantiles(at: Source) -> str:
    return _script(at, "")


def _recompute(at: Source) -> str:
    """LeRobot's script computes all statistics, those that were there already too."""
    return f"compute them: {_script(at, ' --overwrite')}"


def _script(at: Source, more: str) -> str:
    """It pushes what it has written; offline it has written the file when it says that it can't push."""
    offline = "HF_HUB_OFFLINE=1 " if at.root else ""
    ends = " (it ends at its push to the Hub; the file is written by then)" if at.root else at.after
    return f"`{offline}python -m lerobot.scripts.augment_dataset_quantile_stats {at.flags}{more}`{ends}"

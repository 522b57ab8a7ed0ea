"""Rules about datasets, each by values alone; the real LeRobot confirms them in test_dataset_faults_real.py.

The reports that they come from are public: missing quantiles (huggingface/lerobot#2105), cameras without statistics
(#2975, #3786), axes without names (#3786), merged datasets whose frames lie beyond their video (#2627), tables cut off
while recording (#2268, #3522), columns that info.json names and the data lack (#1317), empty cameras (#894).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from pi0q.jobs.dataset_checks import checks, policy_inputs
from pi0q.jobs.dataset_checks.contents import DatasetContents, parse
from pi0q.jobs.dataset_checks.finding import Finding, Source
from pi0q.jobs.dataset_checks.policy_inputs import PolicyInputs
from pi0q.jobs.outcome import Reason
from pi0q.jobs.schema import lerobot_tables

HUB, LOCAL = Source(repo_id="you/box"), Source(repo_id="you/box", root="/data/box")
TOP, WRIST = "observation.images.top", "observation.images.wrist"
CAMERA: dict[str, Any] = {"dtype": "video", "shape": [480, 640, 3], "names": ["height", "width", "channels"]}
VECTOR: dict[str, Any] = {"dtype": "float32", "shape": [6], "names": [f"j{n}" for n in range(6)]}
FEATURES: dict[str, Any] = {TOP: CAMERA, "observation.state": VECTOR, "action": VECTOR,
                            "timestamp": {"dtype": "float32", "shape": [1], "names": None}}  # fmt: skip
ALL = ("mean", "std", "min", "max", "q01", "q10", "q90", "q99")
SIZES = {TOP: 3, "observation.state": 6, "action": 6}
PI05_BASE = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


def stat(size: int = 6, *, finite: bool = True) -> dict[str, Any]:
    return {"size": size, "finite": finite}


def told(**change: Any) -> dict[str, Any]:
    """What a helper tells of a dataset without a fault."""
    info = {"codebase_version": "v3.0", "fps": 30, "total_episodes": 4, "total_tasks": 1, "features": FEATURES}
    good = {
        "info": info | change.pop("info", {}),
        "stats": {
            name: {one: stat(3 if name == TOP else 6) for one in ALL} for name in (TOP, "observation.state", "action")
        },
        "tasks": {"rows": 1, "indexed_by_text": True},
        "episodes": {"rows": 4, "frames": 200, "disordered": None, "per_task": [4]},
        "rows": 200,
        "max_task": 0,
    }
    return {**good, **change}


def base(kind: str, *cameras: str, **more: Any) -> bytes:
    """The config.json of weights that know these cameras."""
    inputs = {f"observation.images.{name}": {"type": "VISUAL", "shape": [3, 224, 224]} for name in cameras}
    inputs["observation.state"] = {"type": "STATE", "shape": [32]}
    return json.dumps({"type": kind, "input_features": inputs, **more}).encode()


def find(
    contents: dict[str, Any], *, config: bytes | None = None, at: Source = HUB, **train: Any
) -> tuple[Finding, ...]:
    flags = {name.replace("__", "."): value for name, value in train.items()}
    flags.setdefault("dataset.repo_id", "you/box")
    if "policy.path" not in flags:
        flags.setdefault("policy.type", "act")
    inputs = policy_inputs.of_job(flags, base=config, lerobot="0.6.1")
    return checks.findings(parse(contents), inputs, flags, at)


def one(contents: dict[str, Any], **how: Any) -> Finding:
    found = find(contents, **how)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("kind", ["act", "pi0", "pi05", "smolvla", "diffusion", "vqbet", "tdmpc", "groot", "xvla"])
def test_a_dataset_without_a_fault_is_good_for_every_policy(kind: str) -> None:
    assert find(told(), policy__type=kind) == ()


def test_what_can_not_be_read_says_nothing_against_a_dataset() -> None:
    odds: tuple[Any, ...] = (None, [], "x", {}, {"info": []}, {"info": {"features": 5}}, {"stats": {"action": 3}})
    for odd in odds:
        assert parse(odd).features == {}
        assert checks.findings(parse(odd), PolicyInputs(kind="act"), {}, HUB) == ()


def test_values_of_a_foreign_file_are_bounded() -> None:
    huge = told(info={"total_episodes": 10**30, "fps": float("inf"), "features": {"a" * 999: {"shape": [10**20, "x"]}}})
    contents = parse(huge)
    assert (contents.total_episodes, contents.fps) == (None, None)
    ((name, feature),) = contents.features.items()
    assert (len(name), feature.shape) == (300, ())


# -- statistics


def without(stats: dict[str, Any], *names: str) -> dict[str, Any]:
    return {feature: {one: value for one, value in of.items() if one not in names} for feature, of in stats.items()}


def test_pi05_without_quantiles_names_the_script_and_the_line_of_the_file() -> None:
    contents = told(stats=without(told()["stats"], "q01", "q10", "q90", "q99"))
    found = one(contents, policy__type="pi05")
    assert "observation.state and action by q01 and q99 (QUANTILES)" in found.what
    assert "`python -m lerobot.scripts.augment_dataset_quantile_stats --repo-id=you/box`" in found.cure
    assert "train.policy.normalization_mapping: {ACTION: MEAN_STD, STATE: MEAN_STD" in found.cure
    assert find(contents, policy__type="pi0") == ()
    mapping = {"ACTION": "MEAN_STD", "STATE": "MEAN_STD", "VISUAL": "IDENTITY"}
    assert find(contents, policy__type="pi05", policy__normalization_mapping=mapping) == ()
    local = one(contents, policy__type="pi05", at=LOCAL)
    assert "HF_HUB_OFFLINE=1 python -m" in local.cure and "--root=/data/box" in local.cure


def test_cameras_without_statistics_matter_only_where_lerobot_changes_them() -> None:
    stats = {name: of for name, of in told()["stats"].items() if name != TOP}
    assert TOP in one(told(stats=stats)).what
    assert find(told(stats=stats), dataset__use_imagenet_stats=False) == ()
    depth = {**FEATURES, TOP: {**CAMERA, "info": {"is_depth_map": True}}}
    assert find(told(stats=stats, info={"features": depth})) == ()


def test_numbers_that_are_none_are_told_with_the_statistic() -> None:
    stats = {**told()["stats"], "action": {**told()["stats"]["action"], "std": stat(finite=False)}}
    assert "std of action" in one(told(stats=stats)).what
    assert find(told(stats=stats), policy__type="diffusion") == (), "min and max are what it reads"


def test_a_state_that_is_renamed_would_be_trained_on_without_normalisation() -> None:
    """LeRobot looks for the statistics by the policy's name, and leaves numbers as they are where there are none."""
    config = base("smolvla", "top", normalization_mapping={"STATE": "MEAN_STD", "ACTION": "MEAN_STD"})
    features = {"joints" if name == "observation.state" else name: of for name, of in FEATURES.items()}
    features["observation.joints"] = features.pop("joints")
    stats = told()["stats"]
    stats["observation.joints"] = stats.pop("observation.state")
    found = one(
        told(info={"features": features}, stats=stats), config=config, policy__path="you/base",
        rename_map={"observation.joints": "observation.state"},
    )  # fmt: skip
    assert "observation.joints is renamed to observation.state" in found.what
    assert found.in_file


@pytest.mark.parametrize("line", lerobot_tables.RELEASES)
def test_defaults_of_each_release_are_its_own(line: str) -> None:
    version = lerobot_tables.RELEASES[line]
    inputs = policy_inputs.of_job({"policy.type": "pi05"}, base=None, lerobot=version)
    assert inputs.modes["STATE"] == "QUANTILES"
    assert inputs.max_action == 32


# -- cameras


def cameras(*names: str) -> dict[str, Any]:
    features = {f"observation.images.{name}": CAMERA for name in names}
    stats = {name: {one: stat(3) for one in ALL} for name in features}
    stats |= {name: {one: stat() for one in ALL} for name in ("observation.state", "action")}
    return told(info={"features": {**features, "observation.state": VECTOR, "action": VECTOR}}, stats=stats)


def test_cameras_of_other_names_name_both_sides_and_the_map() -> None:
    found = one(cameras("top", "wrist"), config=base("pi05", *PI05_BASE), policy__path="lerobot/pi05_base")
    assert "the dataset has observation.images.top, observation.images.wrist" in found.what
    assert "the policy takes observation.images.base_0_rgb" in found.what
    assert "train.rename_map: {observation.images.top: observation.images.base_0_rgb" in found.cure
    assert (found.reason, found.in_file) == (Reason.SPEC_REFUSED, True)


@pytest.mark.parametrize(
    ("there", "renamed"),
    [
        (("base_0_rgb",), {}),
        (("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb", "more"), {}),
        (("empty_camera_0", "base_0_rgb"), {}),
        (("top", "wrist"), {"top": "base_0_rgb", "wrist": "left_wrist_0_rgb"}),
        (("top", "extra"), {"top": "base_0_rgb"}),
    ],
    ids=["fewer", "more", "made up", "renamed", "one renamed and one that it does not know"],
)
def test_lerobots_own_rule_takes_these(there: tuple[str, ...], renamed: dict[str, str]) -> None:
    names = {f"observation.images.{old}": f"observation.images.{new}" for old, new in renamed.items()}
    more: dict[str, Any] = {"rename_map": names} if names else {}
    config = base("pi05", *PI05_BASE, empty_cameras=int("empty_camera_0" in there))
    assert find(cameras(*there), config=config, policy__path="lerobot/pi05_base", **more) == ()


def test_a_map_of_a_camera_that_is_not_there_is_told() -> None:
    """With any rename_map LeRobot does not look at names: it would die, or train without that camera."""
    renamed = {"observation.images.front": "observation.images.base_0_rgb"}
    found = one(cameras("top"), config=base("pi05", *PI05_BASE), policy__path="you/base", rename_map=renamed)
    assert "renames observation.images.front, which the dataset does not have" in found.what


def test_weights_of_a_policy_that_is_given_by_type_have_no_say_in_its_cameras() -> None:
    config = base("pi05", *PI05_BASE)
    assert find(cameras("top"), config=config, policy__type="pi05", policy__pretrained_path="lerobot/pi05_base") == ()


def test_more_values_than_the_policy_takes_are_told() -> None:
    wide = {**FEATURES, "action": {**VECTOR, "shape": [40], "names": None}}
    stats = {**told()["stats"], "action": {one: stat(40) for one in ALL}}
    found = one(told(info={"features": wide}, stats=stats), policy__type="pi0")
    assert "action has 40 values, and the policy takes 32" in found.what
    assert find(told(info={"features": wide}, stats=stats), policy__type="pi0", policy__max_action_dim=48) == ()
    assert find(told(info={"features": wide}, stats=stats), policy__type="act") == ()


# -- files, tables, frames


def test_files_that_git_lfs_has_not_fetched_come_first() -> None:
    files = [{"path": "data/chunk-000/file-000.parquet", "fault": "pointer", "detail": ""}]
    found = one(told(files=files, rows=None), at=LOCAL)
    assert "cd /data/box && git lfs install && git lfs pull" in found.cure


def test_the_format_before_is_told_alone() -> None:
    files = [{"path": "meta/tasks.parquet", "fault": "missing", "detail": ""}]
    found = one(told(files=files, v2_files=True, stats=None, tasks=None), at=LOCAL)
    assert (found.reason, "convert_dataset_v21_to_v30 --repo-id=you/box --root=/data/box" in found.cure) == (
        Reason.DATASET_FORMAT, True,
    )  # fmt: skip


def test_texts_of_tasks_as_a_column_end_policies_that_read_them() -> None:
    contents = told(tasks={"rows": 1, "indexed_by_text": False})
    found = one(contents, policy__type="smolvla", at=LOCAL)
    assert "Task cannot be None" in found.what
    assert "set_index('task')" in found.cure and "/data/box/meta/tasks.parquet" in found.cure
    assert find(contents, policy__type="act") == ()


def frames(worst: float) -> dict[str, Any]:
    where = {"video": "videos/x/chunk-000/file-000.mp4", "episode": 3, "frame": 17, "wanted": 12.3}
    return told(frames={"looked": 400, "episodes": 8, "worst": worst, **where})


def test_times_off_by_less_than_a_frame_name_the_tolerance() -> None:
    found = one(frames(0.004))
    assert found.in_file and found.cure.startswith("`train.tolerance_s: 0.008`")
    assert "400 frames of 8 episodes were looked at" in found.what
    assert find(frames(0.004), tolerance_s=0.01) == ()
    assert find(frames(0.00005)) == ()


def test_times_off_by_more_name_video_episode_and_frame() -> None:
    found = one(frames(460.4))
    assert "frame 17" in found.what.lower() and "episode 3" in found.what
    assert (found.where, found.in_file) == ("videos/x/chunk-000/file-000.mp4: episode 3, frame 17", False)


def test_images_of_two_sizes_matter_in_a_batch_of_several() -> None:
    sizes = [{"camera": TOP, "sizes": [[480, 640, 0], [720, 1280, 90]], "looked": 48}]
    assert "640 x 480, and 1280 x 720 at frame 90" in one(told(images=sizes)).what
    assert find(told(images=sizes), batch_size=1) == ()


def test_a_split_that_holds_everything_out_is_told() -> None:
    assert one(told(), dataset__eval_split=0.9).in_file
    assert find(told(), dataset__eval_split=0.25) == ()


def test_the_reason_of_several_is_that_which_is_mended_outside_the_file() -> None:
    damaged = Finding(what="a", where="b", cure="c")
    in_file = Finding(what="d", where="e", cure="f", reason=Reason.SPEC_REFUSED)
    assert checks.reason([in_file, damaged]) is Reason.DATASET_DAMAGED
    assert checks.reason([in_file]) is Reason.SPEC_REFUSED
    assert checks.sentence([damaged, in_file]) == "a (b). Fix: c. d (e). Fix: f"


def test_an_empty_answer_is_a_dataset_without_contents() -> None:
    assert parse({}) == DatasetContents()

"""Which repositories a policy reads by itself, by the job's flags and LeRobot's defaults."""

from __future__ import annotations

from typing import Any

import pytest

from pi0q.jobs.schema import flags, lerobot_tables
from pi0q.jobs.schema.backbones import _PARTS, KNOWN, WEIGHTS, WORDS, backbones, base, named
from pi0q.jobs.schema.lerobot_tables import RELEASES

QWEN = "Qwen/Qwen2.5-VL-3B-Instruct"


def repos(kind: str, lerobot: str = "", **train: Any) -> list[str]:
    return [one.repo for one in backbones(kind, {f"policy.{name}": value for name, value in train.items()}, lerobot)]


def test_every_policy_and_reward_model_is_known() -> None:
    assert set(KNOWN) == {*flags.trained("policy"), *flags.trained("reward_model")}


@pytest.mark.parametrize(("kind", "part"), [(kind, part) for kind, parts in _PARTS.items() for part in parts])
def test_each_setting_of_the_table_is_one_of_lerobots(kind: str, part: Any) -> None:
    newest = lerobot_tables.table([*RELEASES][-1])
    for name in filter(None, (part.flag, part.revision)):
        assert kind in newest[f"policy.{name}"]
    assert part.default or part.flag


def test_lerobots_default_is_read_where_the_file_names_none() -> None:
    assert repos("eo1") == [QWEN]
    assert repos("eo1", vlm_base="me/qwen") == ["me/qwen"]
    assert repos("pi0") == repos("act") == repos("") == []


def test_each_release_has_its_own_default() -> None:
    assert repos("groot", "0.6.1") == ["nvidia/GR00T-N1.7-3B"]
    assert repos("groot", "0.5.1") == ["nvidia/GR00T-N1.5-3B"]


def test_directory_on_the_box_is_not_fetched() -> None:
    assert repos("evo1", vlm_model_name="/data/internvl") == []


@pytest.mark.parametrize(
    ("kind", "train", "patterns"),
    [
        ("smolvla", {}, WORDS),
        ("smolvla", {"load_vlm_weights": True}, WEIGHTS),
        ("eo1", {}, WEIGHTS),
        ("eo1", {"pretrained_path": "me/eo1"}, WORDS),
        ("xvla", {}, WORDS),
    ],
)
def test_weights_are_read_only_where_the_policy_starts_from_them(
    kind: str, train: dict[str, Any], patterns: tuple[str, ...]
) -> None:
    (one,) = backbones(kind, {f"policy.{name}": value for name, value in train.items()}, "")

    assert one.patterns == patterns


def test_base_that_nobody_has_seen_may_read_all_of_it() -> None:
    (one,) = backbones("smolvla", {"policy.vlm_model_name": "me/ignored"}, "", by_path=True)

    assert one.patterns == WEIGHTS and one.repo.startswith("HuggingFaceTB/")


def test_one_repository_in_two_roles_is_one_entry() -> None:
    assert repos("multi_task_dit") == ["openai/clip-vit-base-patch16"]
    assert repos("multi_task_dit", text_encoder_name="me/clip") == ["openai/clip-vit-base-patch16", "me/clip"]
    (one,) = backbones("fastwam", {"policy.tokenizer_model_id": "Wan-AI/Wan2.2-TI2V-5B-Diffusers"}, "")
    assert one.patterns == ("text_encoder/*", "vae/*", *WORDS)


def test_part_that_is_switched_off_is_not_read() -> None:
    assert len(repos("vla_jepa")) == 2
    assert repos("vla_jepa", enable_world_model=False) == ["Qwen/Qwen3-VL-2B-Instruct"]


def test_revision_of_the_file_is_asked_for() -> None:
    first, _ = backbones("molmoact2", {"policy.checkpoint_revision": "v2"}, "")

    assert (first.revision, first.own_classes) == ("v2", True)


def test_owner_of_a_box_is_asked_about_what_the_file_names() -> None:
    assert named({"policy.type": "eo1", "policy.vlm_base": "me/qwen"}) == ("me/qwen",)
    assert named({"policy.type": "eo1"}) == ()


@pytest.mark.parametrize(
    ("train", "found"),
    [
        ({"policy.type": "fastwam"}, "lerobot/fastwam_base"),
        ({"policy.type": "fastwam", "policy.base_model_id": None}, None),
        ({"policy.type": "fastwam", "policy.pretrained_path": "me/x"}, None),
        ({"policy.type": "pi0"}, None),
    ],
)
def test_base_that_lerobot_takes_by_itself(train: dict[str, Any], found: str | None) -> None:
    assert base(train) == found

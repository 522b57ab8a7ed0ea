"""Which of torchvision's files of weights a job begins with."""

from __future__ import annotations

from typing import Any

import pytest

from pi0q.jobs.errors import SpecError
from pi0q.jobs.schema.backbone_weights import fault, file_of, of_config, wanted
from pi0q.jobs.spec import parse

RESNET18 = "resnet18-f37072fd.pth"
GIVEN = "policy.pretrained_backbone_weights"


@pytest.mark.parametrize(
    ("train", "lerobot", "file"),
    [
        ({"policy.type": "act"}, "0.6.1", RESNET18),
        ({"policy.type": "act"}, "0.4.4", RESNET18),
        ({"policy.type": "act"}, "", RESNET18),
        ({"policy.type": "act", GIVEN: None}, "0.6.1", None),
        ({"policy.type": "diffusion"}, "0.6.1", RESNET18),
        ({"policy.type": "diffusion"}, "0.5.1", None),
        ({"policy.type": "vqbet", GIVEN: "IMAGENET1K_V1"}, "0.4.4", RESNET18),
        (
            {"policy.type": "act", "policy.vision_backbone": "resnet50", GIVEN: "ResNet50_Weights.IMAGENET1K_V2"},
            "0.6.1",
            "resnet50-11ad3fa6.pth",
        ),
        ({"policy.type": "pi0"}, "0.6.1", None),
        ({"policy.path": "you/act"}, "0.6.1", None),
        ({"reward_model.type": "sarm"}, "0.6.1", None),
    ],
)
def test_file_of_weights_follows_the_flags_and_the_releases_defaults(
    train: dict[str, Any], lerobot: str, file: str | None
) -> None:
    assert wanted(train, lerobot) == file


@pytest.mark.parametrize("default", ["DEFAULT", "ResNet50_Weights.DEFAULT"])
def test_default_weights_are_torchvisions_newest(default: str) -> None:
    assert file_of("resnet50", default) == "resnet50-11ad3fa6.pth"


@pytest.mark.parametrize(
    ("config", "file"),
    [
        (
            {
                "type": "act",
                "vision_backbone": "resnet18",
                "pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1",
            },
            RESNET18,
        ),
        ({"type": "act", "vision_backbone": "resnet18", "pretrained_backbone_weights": None}, None),
        ({"type": "act", "vision_backbone": ["resnet18"], "pretrained_backbone_weights": {"a": 1}}, None),
        ({"type": "act", "vision_backbone": "../resnet18", "pretrained_backbone_weights": "../../x"}, None),
        ({"type": "pi0", "vision_backbone": "resnet18", "pretrained_backbone_weights": "DEFAULT"}, None),
        ({}, None),
    ],
)
def test_configuration_of_a_base_names_no_file_but_torchvisions(config: dict[str, Any], file: str | None) -> None:
    assert of_config(config) == file


@pytest.mark.parametrize(
    ("flags", "key", "told"),
    [
        ("vision_backbone: resnet50", "policy.vision_backbone", "ResNet50_Weights.IMAGENET1K_V1"),
        (
            "pretrained_backbone_weights: ResNet50_Weights.DEFAULT",
            GIVEN,
            "write ResNet18_Weights.IMAGENET1K_V1, or null",
        ),
        ("pretrained_backbone_weights: imagenet", GIVEN, "which resnet18 has not"),
    ],
)
def test_weights_of_another_network_are_told_at_submit(flags: str, key: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(f"train: {{dataset: {{repo_id: me/x}}, policy: {{type: act, {flags}}}}}", filename="job.yaml")

    (found,) = caught.value.faults
    assert found.key == f"train.{key}" and told in found.text


@pytest.mark.parametrize("weights", [None, "ResNet34_Weights.IMAGENET1K_V1", "DEFAULT"])
def test_weights_that_fit_the_network_are_taken(weights: str | None) -> None:
    assert fault({"policy.type": "act", "policy.vision_backbone": "resnet34", GIVEN: weights}) is None

"""Sizes of what a job trains: known, guessed, or by the name of its base."""

from __future__ import annotations

from typing import Any

import pytest

from pi0q.jobs.estimates import job_needs, policy_sizes
from pi0q.jobs.schema import flags
from pi0q.jobs.spec import Spec


def job(**train: Any) -> Spec:
    named = {name.replace("__", "."): value for name, value in train.items()}
    return Spec(name="x", train={"dataset.repo_id": "you/box", **named})


@pytest.mark.parametrize(
    ("path", "kind", "certain"),
    [
        ("lerobot/smolvla_base", "smolvla", True),
        ("lerobot/pi05_base", "pi05", True),
        ("lerobot/pi0fast-base", "pi0_fast", True),
        ("you/smolvla_box", "smolvla", False),
        ("you/my-pi05-towel", "pi05", False),
        ("you/pi0_box", "pi0", False),
        ("/data/runs/xvla-arm", "xvla", False),
        ("you/best", "", False),
        ("you/contact_box", "", False),
    ],
)
def test_a_policy_by_path_is_known_by_its_base_or_guessed_by_its_name(path: str, kind: str, certain: bool) -> None:
    assert (policy_sizes.kind(job(policy__path=path)), policy_sizes.is_certain(job(policy__path=path))) == (
        kind,
        certain,
    )


def test_a_base_by_path_takes_what_its_policy_takes() -> None:
    by_path = job_needs.estimate(job(policy__path="lerobot/smolvla_base", batch_size=64))
    by_type = job_needs.estimate(
        job(policy__type="smolvla", policy__pretrained_path="lerobot/smolvla_base", batch_size=64)
    )

    assert by_path.vram_mib == by_type.vram_mib
    assert by_path.disk_mib == by_type.disk_mib


def test_an_unknown_base_is_taken_for_the_largest_and_says_that_it_is_a_guess() -> None:
    told = job_needs.estimate(job(policy__path="you/best"))

    assert told.vram_mib == job_needs.estimate(job(policy__type="pi0")).vram_mib
    assert "a guess" in told.why[1]


@pytest.mark.parametrize("kind", flags.trained("policy"))
def test_every_policy_has_sizes_of_its_own(kind: str) -> None:
    assert kind == "pi0" or policy_sizes.of(job(policy__type=kind)) is not policy_sizes.of(job(policy__type="pi0"))


@pytest.mark.parametrize("kind", ["tdmpc", "vqbet", "multi_task_dit"])
def test_a_small_policy_fits_a_small_card(kind: str) -> None:
    """LeRobot's hardware guide says 2 to 14 GB at batch 8."""
    assert job_needs.estimate(job(policy__type=kind)).vram_mib < 16 * 1024


@pytest.mark.parametrize("kind", ["groot", "xvla", "wall_x", "eo1"])
def test_a_large_policy_at_batch_8_takes_what_lerobots_guide_says_or_more(kind: str) -> None:
    """24 to 40 GB; too much is better than too little."""
    assert 24_000 < job_needs.estimate(job(policy__type=kind)).vram_mib < 80 * 1024


def test_the_checkpoint_of_an_adapter_holds_the_adapter_alone() -> None:
    whole = job(policy__type="pi05", policy__pretrained_path="lerobot/pi05_base", policy__dtype="bfloat16")
    adapter = job(**{name.replace(".", "__"): value for name, value in whole.train.items()}, peft__r=16)

    assert policy_sizes.checkpoint_bytes(adapter) < 1e9 < policy_sizes.checkpoint_bytes(whole) / 20
    assert any("the adapter alone" in item.why for item in job_needs.estimate(adapter).disk.items)

"""The disk planner: what a job takes thing by thing, held against what was measured of full-size pi0."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pi0q.jobs import spec
from pi0q.jobs.estimates import disk, policy_sizes
from pi0q.jobs.estimates.disk import DiskPlan, SavedSoFar, gib, plan, with_margin
from pi0q.jobs.schema.value_types import Value
from pi0q.jobs.spec import Checkpoints, Resources, Spec

GIB = 1024
PI0 = spec.parse(
    "name: x\ntrain: {dataset: {repo_id: me/x}, policy: {type: pi0, dtype: bfloat16, pretrained_path: lerobot/pi0}}\n",
    filename="x",
)


def having(**flags: Value) -> Spec:
    return replace(PI0, train={**PI0.train, **{name.replace("__", "."): of for name, of in flags.items()}})


def kinds(found: DiskPlan) -> dict[str, int]:
    return {item.kind: item.mib for item in found.items}


def test_a_checkpoint_of_full_pi0_is_as_measured() -> None:
    """23.1 GB on an H100 in bfloat16 (benchmarks/2026-11-22-full-pi0-h100.md), 42 GB by count in float32."""
    assert 23.1e9 <= policy_sizes.checkpoint_bytes(PI0) <= 1.05 * 23.1e9
    assert 42e9 <= policy_sizes.checkpoint_bytes(having(policy__dtype="float32")) <= 1.05 * 42e9


def test_a_checkpoint_holds_moments_only_of_what_is_trained() -> None:
    """Counted on the built model: 8.89 GB of weights, and 0.57 B parameters less an unused head of 0.26 B trained."""
    expert = policy_sizes.checkpoint_bytes(having(policy__train_expert_only=True))
    blind = policy_sizes.checkpoint_bytes(having(policy__freeze_vision_encoder=True))
    assert 8.89e9 + 1.2e9 <= expert <= 1.1 * (8.89e9 + 2.33e9)
    assert expert < blind < policy_sizes.checkpoint_bytes(PI0)


def test_each_thing_says_where_it_goes_and_where_its_number_is_from() -> None:
    found = plan(having(policy__compile_model=True))
    assert [(item.kind, item.place) for item in found.items] == [
        ("base", disk.HUB),
        ("dataset", disk.HUB),
        ("tokenizer", disk.HUB),
        ("kernels", disk.CACHE),
        ("checkpoints", disk.RUN),
        ("spare", disk.RUN),
    ]
    assert all(item.why and item.mib > 0 for item in found.items)
    assert found.mib == sum(kinds(found).values())


@pytest.mark.parametrize(
    ("flags", "gone"),
    [
        ({"policy__pretrained_path": "/root/weights"}, "base"),
        ({"policy__pretrained_path": None}, "base"),
        ({"dataset__root": "datasets/x"}, "dataset"),
        ({"dataset__streaming": True}, "dataset"),
        ({"policy__type": "act"}, "tokenizer"),
    ],
)
def test_what_is_not_fetched_takes_nothing(flags: dict[str, Value], gone: str) -> None:
    assert gone in kinds(plan(PI0)) and gone not in kinds(plan(having(**flags)))


def test_one_is_in_the_making_and_one_more_where_they_are_copied() -> None:
    def count(checkpoints: Checkpoints, pinned: int = 0) -> int:
        found = plan(replace(PI0, checkpoints=checkpoints), saved=SavedSoFar(pinned=pinned))
        return round(kinds(found)["checkpoints"] / found.checkpoint_mib)

    assert count(Checkpoints(keep=1)) == 2
    assert count(Checkpoints(keep=3)) == 4
    assert count(Checkpoints(keep=2, copy_to="/root/autodl-fs/x")) == 4
    assert count(Checkpoints(keep=2), pinned=2) == 5


def test_what_the_hub_tells_is_right_and_said_to_be() -> None:
    found = plan(PI0, sizes={"lerobot/pi0": 7 * 2**30, "datasets/me/x": 40 * 2**30})
    assert (kinds(found)["base"], kinds(found)["dataset"]) == (7 * GIB, 40 * GIB)
    assert {item.why for item in found.items if item.pin and item.kind != "tokenizer"} == {"as the Hub tells it"}


def test_what_is_here_is_not_asked_for_again() -> None:
    new, warm = plan(PI0), plan(PI0, here={"base": 13 * GIB, "dataset": 4 * GIB, "checkpoints": 900 * GIB})
    assert new.lacks_mib == new.mib == warm.mib
    saved = min(13 * GIB, kinds(new)["base"]) + 4 * GIB + kinds(new)["checkpoints"]
    assert warm.lacks_mib == new.mib - saved


def test_a_resume_needs_no_base_and_knows_the_size_of_a_checkpoint() -> None:
    found = plan(PI0, saved=SavedSoFar(resuming=True, bytes_each=30 * 2**30), here={"checkpoints": 60 * GIB})
    lacks = {item.kind: item.lacks_mib for item in found.items}
    assert (lacks["base"], lacks["checkpoints"]) == (0, 30 * GIB)
    assert found.measured and "measured" in next(item.why for item in found.items if item.kind == "checkpoints")


def test_what_the_file_states_wins_less_what_is_here() -> None:
    stated = replace(PI0, resources=Resources(disk_mib=50 * GIB))
    assert plan(stated).lacks_mib == plan(stated).mib == 50 * GIB
    assert plan(stated, here={"checkpoints": 30 * GIB}).lacks_mib == 20 * GIB
    # However much is here: the next save must fit.
    tight = plan(stated, here={"checkpoints": 60 * GIB}, saved=SavedSoFar(bytes_each=20 * 2**30))
    assert tight.lacks_mib == with_margin(20 * GIB)


def test_a_disk_that_ran_full_must_have_more_than_it_had() -> None:
    stated = replace(PI0, resources=Resources(disk_mib=50 * GIB))
    assert plan(PI0, at_least_mib=500 * GIB).lacks_mib == 500 * GIB
    assert plan(stated, at_least_mib=60 * GIB).lacks_mib == 60 * GIB
    # What its file states was too little; what was measured is right.
    full = plan(stated, at_least_mib=1, saved=SavedSoFar(bytes_each=30 * 2**30), here={"checkpoints": 30 * GIB})
    assert full.lacks_mib > 60 * GIB


def test_a_rehearsal_takes_its_dataset_and_little_else() -> None:
    found = plan(replace(PI0, rehearsal=True))
    assert set(kinds(found)) == {"dataset", "tokenizer", "spare"} and found.checkpoint_mib < 100


def test_a_table_tells_all_of_it() -> None:
    told = disk.table(plan(PI0).to_json()["items"])
    assert len(told) == 5 and "base weights lerobot/pi0" in told[0] and "PI0Q_HOME/huggingface" in told[0]


def test_amounts_have_the_unit_that_suits_them() -> None:
    assert (gib(25), gib(2048), gib(97000)) == ("25 MiB", "2.0 GiB", "94.7 GiB")

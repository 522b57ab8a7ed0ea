"""A box without a policy's own packages refuses it before a claim."""

from __future__ import annotations

import pytest

from pi0q.jobs.schema import flags
from pi0q.jobs.schema.value_types import Value
from pi0q.workers.trainer import inspect_main
from pi0q.workers.trainer.model_packages import ADAPTER, EXTRAS, missing

HERE = {"lerobot": "0.6.1", "absent": ["diffusers", "peft"]}


def test_the_inspection_looks_for_every_package_that_a_model_needs() -> None:
    needed = {module for _, modules in (*EXTRAS.values(), ADAPTER) for module in modules}

    assert needed == set(inspect_main.OPTIONAL)
    assert set(EXTRAS) <= {*flags.trained("policy"), *flags.trained("reward_model")}


@pytest.mark.parametrize(
    ("train", "extra"),
    [
        ({"policy.type": "diffusion"}, "diffusion"),
        ({"policy.type": "pi05", "peft.r": 8}, "peft"),
        ({"policy.path": "lerobot/smolvla_base", "peft.r": 8}, "peft"),
    ],
)
def test_a_package_that_is_missing_is_told_with_its_extra(train: dict[str, Value], extra: str) -> None:
    (told,) = missing(HERE, train)

    assert told.startswith("package: ") and told.endswith(f"Fix: pip install 'lerobot[{extra}]==0.6.1' there")


@pytest.mark.parametrize("train", [{"policy.type": "act"}, {"policy.type": "xvla"}, {"reward_model.type": "sarm"}])
def test_what_is_there_is_not_told(train: dict[str, Value]) -> None:
    assert list(missing(HERE, train)) == []


@pytest.mark.parametrize("seen", [{}, {"lerobot": "0.6.1"}])
def test_nothing_is_told_where_nobody_looked(seen: dict[str, object]) -> None:
    assert list(missing(seen, {"policy.type": "diffusion"})) == []

"""docs/policies.md has one row for each policy and reward model, with the releases that have it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pi0q.jobs.schema import flags
from pi0q.jobs.schema.forbidden_flags import NOT_TRAINED
from pi0q.jobs.schema.lerobot_tables import RELEASES
from pi0q.workers.trainer.model_packages import EXTRAS

PAGE = (Path(__file__).parents[3] / "docs" / "policies.md").read_text(encoding="utf-8")
CELLS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| `")]
ROWS = {row[0].strip("`"): row[1:] for row in CELLS}
TRAINED = sorted({*flags.trained("policy"), *flags.trained("reward_model")})


def test_each_policy_and_reward_model_has_a_row() -> None:
    assert sorted(ROWS) == TRAINED


@pytest.mark.parametrize("kind", TRAINED)
def test_a_row_names_the_releases_that_have_it_and_its_extra(kind: str) -> None:
    releases, extra, here, _ = ROWS[kind]
    asked = ({f"{section}.type": kind} for section in ("policy", "reward_model") if kind in flags.trained(section))
    have = {of for train in asked for of, release in RELEASES.items() if not flags.problems(dict(train), release)}

    assert releases.split(", ") == sorted(have)
    assert kind not in EXTRAS or extra == f"`{EXTRAS[kind][0]}`"
    assert re.match("trained here|built here|needs weights", here)


@pytest.mark.parametrize("kind", NOT_TRAINED)
def test_what_is_not_trained_is_named(kind: str) -> None:
    assert f"`{kind}`" in PAGE

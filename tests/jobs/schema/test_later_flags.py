"""Flags of a LeRobot that pi0q has no table of yet are told by name; a table that has them takes them."""

from __future__ import annotations

import pytest

from pi0q.jobs.errors import SpecError
from pi0q.jobs.schema import flags, later_flags, lerobot_tables
from pi0q.jobs.schema.later_flags import later, told
from pi0q.jobs.schema.lerobot_tables import RELEASES
from pi0q.jobs.spec import parse

JOB = "train:\n  dataset: {repo_id: me/box}\n  policy: {type: act}\n"


@pytest.mark.parametrize(
    ("flag", "has"),
    [
        ("ema.enable: true", "LeRobot 0.6.1 has no ema.*; LeRobot's main branch has"),
        ("ema: {decay: 0.999}", "LeRobot 0.6.1 has no ema.*; LeRobot's main branch has"),
        ("dataset.exclude_episodes: [3]", "no dataset.exclude_episodes; LeRobot's main branch has"),
        ("trackio.enable: true", "no trackio.*; LeRobot's release 0.7.0 has"),
        ("parallelism.dp_shard: 2", "no parallelism.*; LeRobot's release 0.7.0 has"),
        ("accelerator: {mixed_precision: bf16}", "no accelerator.*; LeRobot's release 0.7.0 has"),
    ],
)
def test_job_file_with_a_later_flag_is_told_what_has_it(flag: str, has: str) -> None:
    text = JOB.replace("{repo_id: me/box}", "{repo_id: me/box, exclude_episodes: [3]}") if "exclude" in flag else None
    with pytest.raises(SpecError) as caught:
        parse(text or f"{JOB}  {flag}\n", filename="job.yaml")

    (fault,) = caught.value.faults
    assert has in fault.text and fault.line in (2, 4)


def test_explain_tells_what_has_a_later_flag() -> None:
    found = flags.explain("ema.decay")

    assert found is not None and "LeRobot's main branch has" in found.refused


@pytest.mark.parametrize("name", ["steps", "emaa.x", "dataset.exclude", "accelerate.x", "wandb.enable"])
def test_other_names_are_none_of_later_releases(name: str) -> None:
    assert told(name) is None


@pytest.mark.parametrize("pattern", later())
def test_no_release_with_a_table_has_what_is_listed_as_later(pattern: str) -> None:
    section = pattern.removesuffix("*")
    having = [of for of in RELEASES for name in lerobot_tables.table(of) if name == pattern or name.startswith(section)]

    assert having == [], f"remove the line from {lerobot_tables.DIRECTORY / 'later.tsv'}"
    assert later_flags.told(pattern)

"""`pi0q submit --explain KEY`."""

from __future__ import annotations

import json

import pytest

from pi0q.jobs.errors import NotFound
from pi0q.jobs.schema import flags
from pi0q.jobs.spec import RULES
from pi0q.jobs.spec import parse as parse_file
from pi0q.queue.commands.explain import WIDTH, help_of
from tests.conftest import Command


def test_a_flag_is_explained_with_its_policies(call: Command) -> None:
    said = call("submit", "--explain", "policy.chunk_size")
    assert (said.returncode, said.stderr) == (0, "")
    rows = {line[2:10].strip(): line[12:] for line in said.stdout.splitlines()[3:] if line[2:3].strip()}
    assert said.stdout.startswith("train.policy.chunk_size\n  Actions predicted at once.\n")
    assert rows["takes"] == "a whole number from 1 to 10000"
    assert rows["example"] == "train: {policy: {chunk_size: 50}}"
    assert "100 for act" in rows["left out"] and rows["LeRobot"].startswith("0.4, 0.5: act, ")


def test_a_key_of_pi0q_and_a_section_are_explained(call: Command) -> None:
    said = call("submit", "--explain", "resources.vram").stdout
    assert "a size with its unit" in said and "resources: {vram: 90GiB}" in said and "LeRobot" not in said
    listed = call("submit", "--explain", "checkpoints").stdout.splitlines()
    assert [line for line in listed if not line.startswith(" ")] == [
        "checkpoints.every",
        "checkpoints.keep",
        "checkpoints.copy_to",
        "checkpoints.best",
        "checkpoints.patience",
    ]


def test_a_refused_flag_says_why(call: Command) -> None:
    said = call("submit", "--explain", "train.env.type")
    assert said.returncode == 0 and "It is not taken: it would run a simulator's code" in said.stdout


def test_an_unknown_key_names_the_nearest(call: Command) -> None:
    said = call("submit", "--explain", "policy.chunk_siz")
    assert said.returncode == 3 and "Fix: pi0q submit --explain policy.chunk_size" in said.stderr
    with pytest.raises(NotFound):
        help_of("")


def test_json_says_the_same(call: Command) -> None:
    said = json.loads(call("submit", "--json", "--explain", "steps").stdout)
    assert said["key"] == "train.steps" and said["known"]["0.6"] == ["-"]


def test_a_file_is_still_wanted_without_it(call: Command) -> None:
    said = call("submit")
    assert said.returncode == 2 and "Missing argument 'FILE…'" in said.stderr


def test_every_key_has_an_example_that_a_file_can_hold(call: Command) -> None:
    keys = [rule.key for rule in RULES] + [f"train.{name}" for name in flags.FLAGS]
    without = list[str]()
    for key in keys:
        example = help_of(key).example
        try:
            parse_file(example, filename="x.yaml")
        except Exception as error:
            # Alone it is no whole job: of its own key nothing may be wrong.
            wrong = [fault for fault in getattr(error, "faults", ()) if fault.key == key]
            without += [f"{key}: {fault.text}" for fault in wrong if "must be" in fault.text]
    assert without == []


@pytest.mark.parametrize("key", ["policy.normalization_mapping", "dataset.image_transforms.tfs", "policy.type"])
def test_long_explanations_fit_a_terminal(call: Command, key: str) -> None:
    assert max(map(len, call("submit", "--explain", key).stdout.splitlines())) <= WIDTH

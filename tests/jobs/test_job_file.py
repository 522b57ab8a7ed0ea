"""The text of a job file, the differences of two, and values of the command line in place of a file's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi0q.jobs.errors import SpecError, UsageError
from pi0q.jobs.job_file import differences, text_of
from pi0q.jobs.schema import overrides
from pi0q.jobs.spec import Priority, Spec, parse

EXAMPLES = Path(__file__).parents[2] / "jobs" / "examples"
FILE = """\
name: grab_box
priority: high
resources: {gpus: 1, vram: 24GiB}
checkpoints: {every: null, keep: 5}
train:
  dataset: {repo_id: ada/grab_box, image_transforms: {enable: true}}
  policy.type: act
  policy: {push_to_hub: false}
  seed: 7
"""


def changed(*settings: str, text: str = FILE) -> Spec:
    return parse(text, filename="job.yaml", overrides=overrides.read(settings))


@pytest.mark.parametrize("text", [FILE, *(file.read_text() for file in sorted(EXAMPLES.glob("*.yaml")))])
def test_text_of_a_spec_is_read_as_the_same_spec(text: str) -> None:
    spec = parse(text, filename="job.yaml")
    assert parse(text_of(spec), filename="other.yaml") == spec


def test_text_of_a_spec_leaves_out_what_is_so_by_default() -> None:
    text = text_of(parse("name: x\ntrain: {dataset: {repo_id: a/b}, policy: {type: act}}", filename="x.yaml"))
    assert text == "name: x\ntrain:\n  dataset:\n    repo_id: a/b\n  policy:\n    type: act\n"


def test_differences_name_each_key_with_both_values() -> None:
    one, other = changed(), changed("train.seed=8", "train.steps=10", "priority=low", "name=other")
    assert list(differences(one, other)) == [
        ("priority", "high", "low"), ("train.seed", 7, 8), ("train.steps", None, 10),
    ]  # fmt: skip
    assert list(differences(one, changed("name=other"))) == []


def test_override_takes_the_place_of_nested_and_dotted_keys() -> None:
    spec = changed("train.policy.type=diffusion", "train.seed=2", "train.seed=3", "name=new", "resources.vram=8GiB")
    assert (spec.name, spec.priority, spec.resources.vram_mib) == ("new", Priority.HIGH, 8192)
    assert spec.train["policy.type"] == "diffusion" and spec.train["seed"] == 3
    assert spec.train["policy.push_to_hub"] is False and spec.train["dataset.repo_id"] == "ada/grab_box"


def test_override_of_a_section_takes_the_place_of_all_of_it() -> None:
    spec = changed("checkpoints={keep: 1}", "train.dataset={repo_id: bob/other}")
    assert spec.checkpoints.keep == 1 and spec.checkpoints.every_seconds is not None
    assert [key for key in spec.train if key.startswith("dataset.")] == ["dataset.repo_id"]


def test_override_with_a_wrong_value_is_told_without_a_line_of_the_file() -> None:
    with pytest.raises(SpecError) as told:
        changed("train.seed=abc", "train.sed=1", text=FILE.replace("keep: 5", "keep: 0"))
    lines = str(told.value).splitlines()
    assert lines[0] == "3 errors in job.yaml; nothing was queued."
    assert [line.split()[0] for line in lines[1:]] == ["--set:", "--set:", "job.yaml:4:"]


@pytest.mark.parametrize("text", ["seed", "=1", "a=[1", "a=1\nb: 2", "a=*x", "a=!!python/name:os.system", ""])
def test_override_that_is_no_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Nothing was queued"):
        overrides.read([text, "fine=1"])


@pytest.mark.parametrize(
    ("text", "tag"), [("a=1", "int"), ("a=x=y", "str"), ("a=", "null"), ("a={b: 1}", "map"), ("a=true", "bool")]
)
def test_override_has_the_type_that_yaml_gives_its_value(text: str, tag: str) -> None:
    ((key, node),) = overrides.read([text])
    assert (key, node.tag) == ("a", tag)

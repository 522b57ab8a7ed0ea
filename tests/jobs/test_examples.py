"""The examples people start from: each must load, and the commented one must leave no key out."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from pi0q.jobs import spec
from pi0q.jobs.schema.flags import FLAGS
from pi0q.jobs.schema.lerobot_tables import RELEASES
from pi0q.jobs.spec import RULES, Spec

NAMES = ["grab_box", "quickstart", "act", "two_gpus", "commented", "commented.zh"]


def read(name: str) -> str:
    return resources.files("pi0q.jobs.examples").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def load(name: str) -> Spec:
    return spec.parse(read(name), filename=f"{name}.yaml")


def test_commented_examples_of_both_languages_are_the_same_job() -> None:
    assert load("commented").train == load("commented.zh").train
    assert load("commented").to_json() == load("commented.zh").to_json()


@pytest.mark.parametrize("name", NAMES)
def test_loads_and_survives_its_record(name: str) -> None:
    job = load(name)

    assert Spec.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_no_example_is_untested() -> None:
    files = resources.files("pi0q.jobs.examples").iterdir()

    assert sorted(f"{name}.yaml" for name in NAMES) == sorted(f.name for f in files if f.name.endswith(".yaml"))


def test_grab_box_is_the_guides_job() -> None:
    job = load("grab_box")

    assert job.name == "grab_box_pi0_fmc3"
    assert (job.resources.gpus, job.resources.vram_mib, job.resources.disk_mib) == (1, 90 * 1024, 120 * 1024)
    assert (job.checkpoints.every_seconds, job.checkpoints.keep) == (1800.0, 2)
    assert not job.rehearsal


def test_quickstart_needs_nobody_elses_machine() -> None:
    job = load("quickstart")

    assert job.rehearsal
    assert job.train["policy.device"] == "cpu"
    assert job.train["policy.push_to_hub"] is False
    assert job.train["wandb.mode"] == "offline"
    assert "policy.pretrained_path" not in job.train
    assert not str(job.train["dataset.root"]).startswith("/")


def test_act_runs_on_either_lerobot() -> None:
    assert all(FLAGS[name].known.keys() == RELEASES.keys() for name in load("act").train)


@pytest.mark.parametrize("key", [rule.key for rule in RULES])
def test_commented_shows_every_key(key: str) -> None:
    last = key.rpartition(".")[2]

    assert any(line.strip().startswith(f"{last}:") for line in read("commented").splitlines())


@pytest.mark.parametrize("section", sorted({name.partition(".")[0] for name in FLAGS if "." in name}))
def test_commented_shows_every_group_of_flags(section: str) -> None:
    assert f"{section}:" in read("commented")


def test_what_is_commented_out_would_load_too() -> None:
    """A reader uncomments a line and submits: that must work as well."""
    lines = []
    for line in read("commented").splitlines():
        bare = line.lstrip()
        body = bare.removeprefix("# ")
        key = body.partition(":")[0]
        is_flag = bare.startswith("# ") and ":" in body and key.isidentifier() and line != bare
        lines.append(line[: len(line) - len(bare)] + body if is_flag else line)
    text = "\n".join(lines)

    job = spec.parse(text, filename="all.yaml")

    assert job.train["peft.r"] == 16
    assert job.train["optimizer.lr"] == 1e-4
    assert job.train["policy.optimizer_lr"] == 2.5e-5
    assert job.train["rename_map"] == {"observation.images.front": "observation.images.base_0_rgb"}

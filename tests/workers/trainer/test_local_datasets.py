"""Datasets on the box: only below what its owner allows, whatever a job writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi0q.queue.settings import Settings
from pi0q.workers.trainer import local_datasets


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for place in ("home/datasets/good", "secret/data", "shared/good"):
        (tmp_path / place / "meta").mkdir(parents=True)
        (tmp_path / place / "meta" / "info.json").write_text("{}")
    (tmp_path / "home/datasets/empty").mkdir()
    (tmp_path / "home/datasets/link").symlink_to(tmp_path / "secret/data")
    home = tmp_path / "home"
    return Settings(home=home, dataset_roots=(home / "datasets", tmp_path / "shared"))


def test_a_job_without_one_has_no_problem(settings: Settings) -> None:
    assert local_datasets.problem({}, settings) is None and local_datasets.local_root({}, settings) is None


def test_a_relative_one_is_taken_below_the_home(settings: Settings, tmp_path: Path) -> None:
    train = {"dataset.root": "datasets/good"}
    assert local_datasets.problem(train, settings) is None
    assert local_datasets.local_root(train, settings) == tmp_path / "home/datasets/good"


def test_an_absolute_one_in_an_allowed_place_is_used(settings: Settings, tmp_path: Path) -> None:
    assert local_datasets.problem({"dataset.root": str(tmp_path / "shared/good")}, settings) is None


@pytest.mark.parametrize("root", ["../secret/data", "datasets/../../secret/data", "datasets/link", "/etc", "~"])
def test_nothing_outside_is_used(settings: Settings, root: str) -> None:
    said = str(local_datasets.problem({"dataset.root": root}, settings))
    assert said and "is outside of what this box allows" in said


@pytest.mark.parametrize("root", ["datasets/empty", "datasets/none", "datasets"])
def test_what_is_no_dataset_is_told(settings: Settings, root: str) -> None:
    said = str(local_datasets.problem({"dataset.root": root}, settings))
    assert said and said.endswith("holds no LeRobot dataset on this box (no meta/info.json)")


def test_what_it_says_of_itself_is_held_against_the_job(settings: Settings, tmp_path: Path) -> None:
    info = tmp_path / "home/datasets/good/meta/info.json"
    train = {"dataset.root": "datasets/good", "dataset.repo_id": "local/good"}
    info.write_text('{"codebase_version": "v2.1", "total_episodes": 4}')
    said = str(local_datasets.problem(train, settings))
    assert said and "convert_dataset_v21_to_v30 --repo-id=local/good" in said
    info.write_text('{"codebase_version": "v3.0", "total_episodes": 4}')
    assert local_datasets.problem(train, settings) is None
    read = local_datasets.facts(train, settings)
    assert read and read.episodes == 4
    assert (
        local_datasets.facts({}, settings) is None
        and local_datasets.facts({"dataset.root": "datasets/empty"}, settings) is None
    )

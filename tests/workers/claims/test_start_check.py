"""Whether a box can get the checkpoint that a job starts from, and what it says where it can't."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.record import Saved
from pi0q.jobs.spec import Spec
from pi0q.jobs.start_point import StartPoint
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.checkpoints import local_store
from pi0q.workers.claims import copy_target
from pi0q.workers.claims.copy_target import CopyTargets
from pi0q.workers.claims.start_check import StartCheck
from tests.conftest import PATIENCE, JobDriver
from tests.workers.checkpoints.saved import checkpoint

SPEC = Spec(name="second", train={"dataset.repo_id": "l/d", "policy.type": "act", "policy.pretrained_path": "job:x"})


@pytest.fixture
def check(chosen: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> StartCheck:
    monkeypatch.setattr(copy_target, "PATIENCE_SECONDS", PATIENCE)
    return StartCheck(settings=chosen, store=store, copy_targets=CopyTargets(chosen.runs))


class Pair:
    """A job that has a checkpoint, and one that starts from it."""

    def __init__(self, driver: JobDriver, elsewhere: Path, **told: Any) -> None:
        self.store = driver.store
        place = told.pop("place", None)
        self.first = driver.submit("first", spec={"train": {}, "checkpoints": {"copy_to": place}})
        self.saved: Saved = checkpoint(elsewhere / "runs" / self.first / "output" / "checkpoints", 10)
        driver.report(self.first, driver.run(self.first), checkpoint=self.saved, lerobot="0.6.1", **told)
        start = StartPoint(job=self.first, step=10, manifest=self.saved.manifest, lerobot="0.6.1")
        self.second = driver.submit("second", starts_from=start.to_json())

    def problems(self, check: StartCheck, lerobot: str = "0.6.1", **changed: Any) -> list[str]:
        return check.problems(replace(self.store.get(self.second), **changed), SPEC, lerobot)


def test_a_box_that_has_the_checkpoint_takes_the_job(check: StartCheck, driver: JobDriver) -> None:
    assert Pair(driver, check.settings.home).problems(check) == []


def test_a_box_without_it_says_who_has_it(check: StartCheck, driver: JobDriver, tmp_path: Path) -> None:
    pair = Pair(driver, tmp_path / "box-a")
    assert pair.problems(check) == [
        f"weights: job:{pair.first}@10, from which it starts, is not here; box-a has it, and there is no copy of it "
        "(checkpoints.copy_to)"
    ]
    # Once it runs from a checkpoint of its own, it needs the other's no more.
    assert pair.problems(check, checkpoint=pair.saved) == []


def test_a_copy_that_the_box_sees_is_enough(check: StartCheck, driver: JobDriver, tmp_path: Path) -> None:
    share = tmp_path / "share"
    pair = Pair(driver, tmp_path / "box-a", place=str(share))
    driver.report(pair.first, 1, manifests={"10": pair.saved.manifest})
    (why,) = pair.problems(check)
    assert why.endswith(f"box-a has it, and its copies are in {share}, which this box does not see")
    target = share / pair.first / "000010"
    target.parent.mkdir(parents=True)
    Path(pair.saved.path).rename(target)
    assert pair.problems(check) == []
    (target / "pi0q.manifest.json").write_text("{}")
    assert len(pair.problems(check)) == 1


def test_a_pushed_checkpoint_is_enough(check: StartCheck, driver: JobDriver, tmp_path: Path) -> None:
    pair = Pair(driver, tmp_path / "box-a")
    push = {"state": "done", "repo": "you/act", "commit": "c0ffee00" * 5}
    check.store.client.hset(check.store.prefix + f"job:{pair.first}", "push", json.dumps(push))
    assert pair.problems(check) == []


def test_what_an_earlier_run_took_of_it_is_enough(check: StartCheck, driver: JobDriver, tmp_path: Path) -> None:
    pair = Pair(driver, tmp_path / "box-a")
    own = check.settings.runs / pair.second / "start"
    own.mkdir(parents=True)
    Path(pair.saved.path).rename(own / "000010")
    assert local_store.manifests(own) == {"10": pair.saved.manifest}
    assert pair.problems(check) == []


def test_a_lerobot_that_can_not_read_it_is_said(check: StartCheck, driver: JobDriver) -> None:
    pair = Pair(driver, check.settings.home)
    (why,) = pair.problems(check, "0.4.4")
    assert why == f"LeRobot 0.4.4 here can't read the configuration in job:{pair.first}@10, which 0.6.1 made"


def test_a_job_whose_source_is_gone_says_so(check: StartCheck, driver: JobDriver, tmp_path: Path) -> None:
    pair = Pair(driver, tmp_path / "box-a")
    check.store.client.delete(check.store.prefix + f"job:{pair.first}")
    (why,) = pair.problems(check)
    assert "is not here; the job that made it is gone" in why

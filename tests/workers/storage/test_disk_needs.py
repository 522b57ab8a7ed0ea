"""What lies on a box already is not asked for again, and nothing else is taken for it."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.estimates.disk import DiskPlan
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.spec import Spec, parse
from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.workers.host import probe
from pi0q.workers.host.probe import Disk
from pi0q.workers.hub import requirements
from pi0q.workers.hub.cached import fetched_mib, sizes_bytes
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.storage.disk_needs import DiskNeeds
from tests.workers.caches import MIB, checkpoint, fill, repo

SPEC = parse(
    "name: x\ntrain: {dataset: {repo_id: you/box}, policy: {type: pi0, pretrained_path: lerobot/pi0, "
    "compile_model: true}}\n",
    filename="x",
)


@pytest.fixture
def needs(chosen: Settings) -> DiskNeeds:
    return DiskNeeds(chosen, "box-a")


def job(**fields: Any) -> Record:
    known: dict[str, Any] = {"id": "a1", "name": "x", "state": State.QUEUED, "priority": "normal", "submitter": ""}
    known |= {"spec": {}, "needs": {"disk_mib": 7}, "created_ms": 0, "updated_ms": 0}
    return Record(**known | fields)


def here(plan: DiskPlan) -> dict[str, int]:
    return {item.kind: item.here_mib for item in plan.items if item.here_mib}


def lay(folder: Path, mib: int, *, patterns: tuple[str, ...] = ()) -> str:
    """Marks a repository as one that a finished download laid; its commit."""
    sha = (folder / "refs" / "main").read_text()
    part = f"{zlib.crc32(' '.join(patterns).encode()):08x}"
    (folder / f".pi0q-whole-{sha}-{part}").write_text(json.dumps({"weights.bin": mib * MIB}))
    return sha


def test_a_box_that_has_nothing_needs_all_of_it(needs: DiskNeeds) -> None:
    plan = needs.plan(job(), SPEC)
    assert here(plan) == {} and plan.lacks_mib == plan.mib > 20 * 1024


def test_a_base_that_lies_here_whole_is_neither_asked_for_nor_guessed(needs: DiskNeeds, chosen: Settings) -> None:
    folder = repo(chosen.hf_home, "lerobot/pi0", mib=3)
    before = needs.plan(job(), SPEC)
    assert "base" not in here(before), "nobody knows whether it is whole"
    sha = lay(folder, 3)
    warm = DiskNeeds(chosen, "box-a")
    found = warm.plan(job(), SPEC)
    assert here(found) == {"base": 3}
    base = next(item for item in before.items if item.kind == "base")
    assert found.lacks_mib == before.lacks_mib - base.mib, "all of it is here, however small"
    assert here(warm.plan(job(pins={"lerobot/pi0": sha}), SPEC)) == {"base": 3}
    assert here(warm.plan(job(pins={"lerobot/pi0": "b" * 40}), SPEC)) == {}, "another commit is another base"


def test_a_torn_base_is_fetched_again(needs: DiskNeeds, chosen: Settings) -> None:
    folder = repo(chosen.hf_home, "lerobot/pi0", mib=3)
    lay(folder, 3)
    next((folder / "blobs").iterdir()).write_bytes(b"torn")
    assert here(needs.plan(job(), SPEC)) == {}


def test_only_verified_checkpoints_count(needs: DiskNeeds, chosen: Settings) -> None:
    """What was set aside, moved aside or never finished goes again, and its room must not be counted on."""
    directory = RunDirectory(chosen.runs / "a1")
    checkpoint(directory, 10, mib=2, verified=False)
    checkpoint(directory, 20, mib=2, verified=False, bad=True)
    fill(directory.path / "output.old" / "checkpoints" / "000005" / "model", 3)
    assert here(needs.plan(job(), SPEC)) == {}
    checkpoint(directory, 30, mib=2)
    saved = Saved(step=30, path="", manifest="ab" * 32, bytes=2 * MIB)
    found = needs.plan(job(checkpoint=saved), SPEC)
    kinds = here(found)
    assert kinds["checkpoints"] == 2 and found.measured
    # It resumes, so that no base is needed.
    assert kinds["base"] == next(item.mib for item in found.items if item.kind == "base")


def test_the_checkpoints_of_a_job_that_it_continues_are_here_too(needs: DiskNeeds, chosen: Settings) -> None:
    checkpoint(RunDirectory(chosen.runs / ("b" * 12)), 10, mib=3)
    assert here(needs.plan(job(continues="b" * 12), SPEC))["checkpoints"] == 3
    assert here(needs.plan(job(), SPEC)) == {}


def test_kernels_are_those_of_this_job_where_it_ran_here(needs: DiskNeeds, chosen: Settings) -> None:
    fill(chosen.home / "cache" / "inductor" / "k", 2)
    fill(chosen.home / "cache" / "triton" / "k", 1)
    assert here(needs.plan(job(), SPEC)) == {}
    assert here(needs.plan(job(box="box-b", started_ms=1), SPEC)) == {}
    assert here(needs.plan(job(box="box-a", started_ms=1), SPEC)) == {"kernels": 3}


def test_what_any_box_heard_of_the_hub_is_right_here_too(needs: DiskNeeds) -> None:
    told: dict[str, Any] = {"box-b": {"ok": True, "sizes": {"datasets/you/box": 3 * MIB, "lerobot/pi0": "a lie"}}}
    found = {item.kind: item for item in needs.plan(job(preflight=told), SPEC).items}
    assert (found["dataset"].mib, found["dataset"].why) == (3, "as the Hub tells it")
    assert found["base"].why == "the usual size for pi0"


def test_what_its_user_keeps_wants_room_too(needs: DiskNeeds) -> None:
    saved = Saved(step=30, path="", manifest="ab" * 32, bytes=100 * MIB)
    plain, pinned = (needs.plan(job(checkpoint=saved, pinned_steps=steps), SPEC).mib for steps in ((), (10, 20)))
    assert pinned - plain == 200


def test_a_box_whose_disk_ran_full_asks_for_more_than_it_had(needs: DiskNeeds) -> None:
    held: dict[str, Any] = {"checkpoint_mib": 50, "free": {"box-a": 900_000}}
    assert needs.plan(job(disk_plan=held), SPEC).lacks_mib == 900_000
    elsewhere = DiskNeeds(needs.settings, "box-b").plan(job(disk_plan=held), SPEC)
    assert elsewhere.lacks_mib < 100_000 and elsewhere.checkpoint_mib == 50


def test_where_the_hubs_cache_is_elsewhere_each_disk_is_asked_for_its_own(
    needs: DiskNeeds, chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = replace(probe.measure(replace(chosen, fake_gpus=()), box="box-a"), hub=None)
    one = needs.need_of(job(), SPEC, host)
    assert (one.disk_mib, one.hub_mib) == (needs.plan(job(), SPEC).lacks_mib, 0)
    fs = Disk(path="/fs", free_mib=1, free_inodes=None, resource="disk:fs")
    two = needs.need_of(job(), SPEC, replace(host, hub=fs))
    assert two.disk_mib + two.hub_mib == one.disk_mib and two.hub_mib > 20 * 1024
    assert needs.need_of(job(), "its spec is not valid", host).disk_mib == 7
    assert needs.shown_plans["a1"]["lacks_mib"] == one.disk_mib


def test_what_was_fetched_for_a_run_is_no_longer_to_come(needs: DiskNeeds, chosen: Settings) -> None:
    wanted = requirements.wanted(SPEC, resuming=False)
    before = sizes_bytes(wanted, chosen, {})
    assert set(before.values()) == {0}
    lay(repo(chosen.hf_home, "lerobot/pi0", mib=3), 3)
    assert fetched_mib(wanted, before, chosen, {}) == 3
    assert fetched_mib(wanted, sizes_bytes(wanted, chosen, {}), chosen, {}) == 0


def test_a_job_of_its_own_dataset_asks_the_cache_for_nothing(needs: DiskNeeds) -> None:
    own: Spec = parse("name: x\ntrain: {dataset: {repo_id: a/b, root: d}, policy: {type: act}}\n", filename="x")
    assert {item.kind for item in needs.plan(job(), own).items} == {"checkpoints", "spare"}

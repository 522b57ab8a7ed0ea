"""Whose inputs a box without cards fetches, on a real queue; its disk and its cards are what a test says."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs.spec import parse
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.submission import new_fields, put
from pi0q.workers.agent.box import Box
from pi0q.workers.host.probe import Host
from pi0q.workers.staging.stager import Stager, Surroundings
from tests.workers.conftest import a_box, submit

#: Even this one is not claimed.
WITHOUT_CARD = """
resources: {gpus: 0, disk: 1MiB}
train: {dataset: {repo_id: local/d, root: datasets/d}, policy: {type: act, device: cpu}, steps: 10}
"""
CARD = [{"name": "RTX 4090", "total_mib": 48 * 1024}]


@pytest.fixture
def box(chosen: Settings, store: Store) -> Box:
    """It has no card; what its jobs read lies on it, so that nobody is asked for anything."""
    (chosen.home / "datasets/d/meta").mkdir(parents=True)
    (chosen.home / "datasets/d/meta/info.json").write_text("{}")
    return a_box(replace(chosen, staging="on"), store, cards=())


def looked(box: Box, *, cards: list[dict[str, Any]] | None = None, free_mib: int | None = None) -> Stager:
    """A stager of this box after it has looked until nothing was left."""

    def measure() -> Host:
        host = box.context.measure()
        return host if free_mib is None else replace(host, data=replace(host.data, free_mib=free_mib))

    around = Surroundings(
        measure=measure, trainer=lambda: box.context.trainer, cards=lambda: cards or [], stopping=threading.Event()
    )
    stager = Stager(box.claims.admission, box.claims.disk_needs, around)
    stager._active = True
    while stager._round():
        pass
    return stager


def test_a_box_without_cards_claims_nothing_and_counts_as_busy_until_it_has_looked(box: Box, store: Store) -> None:
    job = str(put(store, new_fields(parse(WITHOUT_CARD, filename="job.yaml")))["id"])
    box.announce()
    box.claims.claim()
    assert box.claims.fetches and str(store.get(job).state) == "queued"
    assert str(box.claims.blocked) == "no card: fetches inputs, claims nothing"
    box.stager._active = True
    assert box.stager.busy
    while box.stager._round():
        pass
    assert not box.stager.busy and box.stager.state.ready == (job,)
    assert box.idle._waiting(box.context.measure()) == [], "no reason to stay on: it would not claim it"


def test_jobs_that_its_own_cards_could_not_run_are_left_out(box: Box, store: Store) -> None:
    small, large = submit(store, gib=30), submit(store, gib=90)
    assert set(looked(box).state.ready) == {small, large}, "nobody knows its cards"
    known = looked(box, cards=CARD).state
    assert known.ready == (small,) and known.left == 1
    assert known.problems[large].startswith("VRAM: needs 90.0 GiB on 1 GPU, 0 have it")


def test_jobs_for_another_box_and_those_that_the_disk_has_no_room_for_are_left_out(box: Box, store: Store) -> None:
    elsewhere = submit(store, more="box: box-z")
    here = submit(store)
    state = looked(box).state
    assert state.ready == (here,)
    assert state.problems == {elsewhere: "the file keeps it from this box: resources.box is box-z"}
    full = looked(box, free_mib=0).state
    assert full.ready == () and full.problems[here].startswith("disk: needs ") and not full.busy


def test_a_job_that_waits_no_more_is_forgotten(box: Box, store: Store) -> None:
    job = submit(store)
    stager = looked(box)
    store.cancel(job, text="by its user")
    stager._round()
    assert (stager.state.ready, stager.state.left) == ((), 0)

"""A job is left for a moment to a free box that need not download what it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pi0q.jobs.state import State
from pi0q.queue import affinity
from pi0q.queue.affinity import WarmBox
from pi0q.queue.store import Store
from pi0q.workers.agent.box import Box
from pi0q.workers.claims import warm_boxes
from pi0q.workers.claims.warm_boxes import WarmBoxes
from tests.workers.conftest import refused, submit

GIB = 1024
READS = {"lerobot/pi0": 14 * GIB}


def up(store: Store, name: str, *warm: str, gib: int = 80, jobs: tuple[str, ...] = ()) -> None:
    """A box of one card that holds these repositories."""
    card = {"uuid": f"GPU-{name}", "name": "card", "total_mib": gib * GIB, "free_mib": gib * GIB}
    said = {"status": "ready", "slots": 1, "running": len(jobs), "used_slots": len(jobs), "gpus": json.dumps([card])}
    said |= {"free_mib": json.dumps([gib * GIB]), "holders": json.dumps([{"jobs": jobs, "shared": False}])}
    said |= {"blocked": "", "warm": json.dumps(warm)}
    assert store.announce_box(name, f"id-{name}", said)


def mine(*warm: str) -> WarmBox:
    return WarmBox(name="mine", card_mib=80 * GIB, warm=warm)


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def boxes(store: Store, now: list[float]) -> WarmBoxes:
    return WarmBoxes(store, clock=lambda: now[0])


def test_a_job_is_left_to_a_free_box_that_has_its_weights_and_no_longer_than_a_moment(
    boxes: WarmBoxes, store: Store, now: list[float]
) -> None:
    up(store, "warm", "lerobot/pi0")
    job = store.get(submit(store))
    refusal = boxes.refusal(job, READS, mine())
    assert str(refusal) == "waiting up to 8 s for warm, which has 14.0 GiB of what it reads"
    now[0] += affinity.WAIT_SECONDS - 1
    assert boxes.refusal(job, READS, mine()) is not None
    now[0] += 1
    assert boxes.refusal(job, READS, mine()) is None


def test_the_other_box_is_woken_once(boxes: WarmBoxes, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[tuple[str, str]] = []
    monkeypatch.setattr(store, "wake", lambda box, word: woken.append((box, word)))
    up(store, "warm", "lerobot/pi0")
    job = store.get(submit(store))
    for _ in range(2):
        assert boxes.refusal(job, READS, mine())
    assert woken == [("warm", job.id)]


def test_a_box_that_is_busy_too_small_or_cold_gets_no_job_left(boxes: WarmBoxes, store: Store) -> None:
    up(store, "busy", "lerobot/pi0", jobs=("0123456789ab",))
    up(store, "small", "lerobot/pi0", gib=24)
    up(store, "cold")
    assert boxes.refusal(store.get(submit(store)), READS, mine()) is None


def test_a_box_that_has_the_weights_asks_nobody(
    boxes: WarmBoxes, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.get(submit(store))
    monkeypatch.delattr(type(store), "free_boxes")
    assert boxes.refusal(job, READS, mine("lerobot/pi0")) is None


def test_a_box_announces_what_is_complete_in_its_cache(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    for name in ("models--lerobot--pi0/.pi0q-whole-1-a", "datasets--me--grab-it/.pi0q-whole-1-a", "models--a--b/refs"):
        (hub / name).mkdir(parents=True)
    assert json.loads(warm_boxes.complete(tmp_path)) == ["datasets/me/grab-it", "lerobot/pi0"]
    assert warm_boxes.complete(tmp_path / "none") == "[]"


def test_a_box_claims_the_job_itself_once_the_other_had_its_chance(
    box: Box, store: Store, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = box.claims
    claims.admission.warm_boxes = WarmBoxes(store, clock=lambda: now[0])
    monkeypatch.setattr(claims.disk_needs, "reads", lambda job, spec: (READS, frozenset()))
    up(store, "warm", "lerobot/pi0")
    job = submit(store)
    claims.claim()
    assert "waiting up to 8 s for warm" in refused(box, job)
    now[0] += affinity.WAIT_SECONDS
    claims.jobs.expire()
    claims.claim()
    assert store.get(job).state is State.CLAIMED

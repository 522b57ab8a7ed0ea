"""What `pi0q why` says of a waiting job's place, the cards that are kept for it, and its start."""

from __future__ import annotations

import json

import pytest

from pi0q.queue.reservation import CardReservation, pressed_json
from pi0q.queue.store import Store
from tests.conftest import Command
from tests.workers.conftest import submit

UUIDS = ("GPU-0", "GPU-1")


def box_of_two_busy_cards(store: Store, *busy: int | None) -> None:
    cards = [{"uuid": uuid, "name": "card", "total_mib": 81920, "free_mib": 81920} for uuid in UUIDS]
    held = [{"jobs": [f"{card:012x}"], "shared": False} for card in range(2)]
    said = {"status": "ready", "slots": 2, "running": 2, "gpus": json.dumps(cards), "free_mib": "[0, 0]"}
    said |= {"holders": json.dumps(held), "busy": json.dumps(busy), "disk_free_mib": 1}
    assert store.announce_box("box-a", "id-a", said)


def test_why_says_place_start_and_kept_cards(call: Command, store: Store) -> None:
    first, big = submit(store, priority="high"), submit(store, gpus=2)
    box_of_two_busy_cards(store, 600, 7170)
    later = store.now_ms() + 60_000
    kept = CardReservation(job_id=big, box="box-a", cards=UUIDS, from_ms=later, expires_ms=later)
    assert store.reserve(store.plan(), [kept], pressed_json(frozenset(), 60.0))

    said = call("why", big).stdout
    assert "It is number 2 in line, 1 before it; it may start in 1h 59m, if running jobs end when they say so." in said
    assert "Cards 0, 1 of box-a are kept for it." in said
    assert f"before it in the queue\n  job {first} (high)" in said

    told = json.loads(call("why", big, "--json").stdout)
    assert (told["place"], told["kept_on"], told["kept_cards"]) == (2, "box-a", [0, 1])
    assert told["starts_in_seconds"] == pytest.approx(7170, abs=60)


def test_why_says_so_where_nobody_can_tell(call: Command, store: Store) -> None:
    job = submit(store)
    box_of_two_busy_cards(store, None, None)
    assert "It is next in line; when it starts nobody can tell yet." in call("why", job).stdout
    assert json.loads(call("why", job, "--json").stdout)["starts_in_seconds"] is None

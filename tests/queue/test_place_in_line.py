"""What `pi0q why` says of a waiting job's place, the cards that are kept for it, and its start."""

from __future__ import annotations

import json

import pytest

from pi0q.queue.reading import details, views
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


def test_ls_and_show_say_when_a_job_may_start(call: Command, store: Store) -> None:
    box_of_two_busy_cards(store, 3600, 7170)
    first, second = submit(store), submit(store)
    shown = {line.split()[0]: line for line in call("ls").stdout.splitlines()}
    assert "next, in ~59m" in shown[first] and "waits for box-a" in shown[first]
    assert "1 before it, in ~" in shown[second]
    # Of a selection, too.
    assert "1 before it, in ~" in call("ls", "--sort", "submitted", "-n", "2").stdout

    told = {job["id"]: job for job in json.loads(call("ls", "--json").stdout)}
    assert told[first]["starts_in_seconds"] == pytest.approx(3600, abs=60)
    assert told[second]["place"] == 1 and told[second]["starts_in_seconds"] > told[first]["starts_in_seconds"] - 60

    assert "It is next in line; it may start in 59m" in call("show", first).stdout


def test_ls_shows_the_queue_in_turn(call: Command, store: Store) -> None:
    """The class of two cards has the most work a card, so its job is first though it came later."""
    box_of_two_busy_cards(store, 3600, 7170)
    small, big = submit(store), submit(store, gpus=2)
    lines = call("ls").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [big, small]
    assert "next, in ~1h 59m" in lines[1]


def test_page_and_python_tell_the_same_place_and_start(store: Store) -> None:
    box_of_two_busy_cards(store, 3600, 7170)
    first, second = submit(store), submit(store)
    listed = {job.id: job for job in views.read(store, 60.0).queue}
    for place, job in enumerate((first, second)):
        alone = details.read(store, job, 60.0).job
        assert alone.place == listed[job].place == place
        told, shown = alone.wait, listed[job].wait
        assert told and shown and told.start_seconds and shown.start_seconds
        assert told.start_seconds == pytest.approx(shown.start_seconds, abs=60)
        assert told.boxes == shown.boxes == ("box-a",) and told.place == shown.place == place
    assert ", in ~" in str(details.read(store, second, 60.0).job.wait)

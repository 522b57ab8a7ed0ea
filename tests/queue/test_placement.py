"""Where a job could run, by what boxes announced, and how `pi0q submit` says so."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pi0q.queue.capacity import MOST_ON_A_CARD
from pi0q.queue.placement import Boxes, Placement, sentence
from pi0q.queue.store import Store
from tests.conftest import Command

GIB = 1024
NEED = {"gpus": 1, "vram_mib": 60 * GIB, "disk_mib": 1}
SILENT = 60.0
JOB = "0123456789ab"
FILE = (
    "name: x\nresources: {vram: 60GiB, disk: 9GiB}\n"
    "train: {dataset: {repo_id: a/b, root: datasets/b}, policy: {type: act}}\n"
)


def box(*cards: tuple[int, int], **fields: str) -> dict[str, str]:
    """Cards are (total, free and promised to nobody) in GiB."""
    gpus = [{"name": "A card", "total_mib": total * GIB, "free_mib": total * GIB} for total, _ in cards]
    free = json.dumps([left * GIB for _, left in cards])
    return {"status": "ready", "slots": "2", "running": "0", "gpus": json.dumps(gpus), "free_mib": free, **fields}


def announce(store: Store, name: str, fields: dict[str, str]) -> None:
    assert store.announce_box(name, f"id-{name}", fields)


def place(store: Store, need: dict[str, int] = NEED, **other: int) -> Placement:
    (found,) = store.placements([need | other], SILENT)
    return found


def kinds(found: Placement) -> dict[str, tuple[str, ...]]:
    assert all(boxes.count == len(boxes.names) for boxes in found.kinds.values())
    return {kind: boxes.names for kind, boxes in found.kinds.items() if boxes.count}


@pytest.mark.parametrize(
    ("one", "kind"),
    [
        (box((80, 80)), "now"),
        (box((80, 10)), "later"),
        (box((80, 10), (80, 61)), "now"),
        (box((48, 48)), "never"),
        (box(), "never"),
        (box((80, 80), running="2"), "later"),
        (box((80, 80), drain="drain"), "later"),
        (box((80, 80), blocked='{"kind": "problem", "text": "x"}'), "later"),
        (box((80, 80), running="many"), "now"),
        (box((80, 80), running="5", used_slots="1"), "now"),
        (box((80, 70), holders=json.dumps([{"jobs": ["j"], "shared": True}])), "later"),
        (box((80, 80), status="stopped"), None),
        (box((80, 80), status="draining"), "later"),
        (box((80, 80), gpus="{"), None),
        (box((80, 80), gpus='["x"]'), "never"),
        (box((80, 80), free_mib="[1, 2]"), None),
    ],
)
def test_a_box_is_placed_by_its_cards_slots_and_state(store: Store, one: dict[str, str], kind: str | None) -> None:
    announce(store, "a", one)
    assert kinds(place(store)) == ({kind: ("a",)} if kind else {})


def test_each_of_several_cards_must_be_large_enough(store: Store) -> None:
    announce(store, "a", box((80, 80), (48, 48)))
    announce(store, "b", box((80, 80), (80, 5)))
    announce(store, "c", box((80, 80), (80, 70), (24, 24)))
    assert kinds(place(store, gpus=2)) == {"now": ("c",), "later": ("b",), "never": ("a",)}
    cpu = place(store, gpus=0)
    assert (cpu.now.count, cpu.largest_card_mib) == (3, 80 * GIB)


@pytest.mark.parametrize(
    ("jobs", "shared", "kind"),
    [
        (0, True, "now"),
        (1, True, "now"),
        (MOST_ON_A_CARD - 1, True, "now"),
        (MOST_ON_A_CARD, True, "later"),
        (1, False, "later"),
    ],
)
def test_a_job_that_shares_its_card_may_join_those_that_share_theirs(
    store: Store, jobs: int, shared: bool, kind: str
) -> None:
    announce(store, "a", box((80, 70), holders=json.dumps([{"jobs": ["j"] * jobs, "shared": shared}])))
    assert kinds(place(store, share=1)) == {kind: ("a",)}


def test_a_box_is_placed_anew_by_what_it_announces_next(store: Store) -> None:
    for change, kind in (
        ({}, "now"),
        ({"free_mib": "[5000]"}, "later"),
        ({"free_mib": "[70000]"}, "now"),
        ({"running": "2"}, "later"),
        ({"running": "0"}, "now"),
        ({"gpus": json.dumps([{"name": "small", "total_mib": 1000, "free_mib": 1000}])}, "never"),
    ):
        announce(store, "a", (box((80, 80)) if not change else {}) | change)
        assert kinds(place(store)) == {kind: ("a",)}
    store.drain("a", "drain", text="")
    assert kinds(place(store, vram_mib=900)) == {"later": ("a",)}
    store.drain("a", "", text="")
    assert kinds(place(store, vram_mib=900)) == {"now": ("a",)}
    announce(store, "a", {"status": "stopped"})
    assert kinds(place(store)) == {}


def test_a_silent_box_is_left_out_until_it_is_heard_of_again(store: Store) -> None:
    announce(store, "a", box((80, 80)))
    for key in ("boxes", "cards:0"):
        store.client.zadd(store.prefix + key, {"a": store.now_ms() - 61_000})
    assert kinds(place(store)) == {} and not place(store).older_boxes
    assert store.client.keys(f"{store.prefix}cards:*") == []
    announce(store, "a", {})
    assert kinds(place(store)) == {"now": ("a",)}


def test_names_are_few_and_counts_are_whole_with_many_boxes(store: Store) -> None:
    for number in range(60):
        announce(store, f"box-{number:02}", box((80, 80 if number < 30 else 1)))
    found = place(store)
    assert (found.now.count, found.later.count) == (30, 30)
    assert len(found.now.names) == 20 and set(found.later.names) <= {f"box-{number:02}" for number in range(30, 60)}
    assert sentence(found, JOB) == "By their GPUs it fits on box-00, box-01, box-02 and 27 more now."


def test_boxes_of_an_older_version_are_not_said_to_be_away(store: Store) -> None:
    announce(store, "old", {"status": "ready", "gpus": "[]"})
    assert place(store).older_boxes
    assert "Boxes of an older pi0q are up" in sentence(place(store), JOB)


NOBODY = Placement(now=Boxes(), later=Boxes(), never=Boxes(), gpus=1, vram_mib=60 * GIB)


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ({"now": Boxes(count=2, names=("a", "b"))}, "By their GPUs it fits on a, b now."),
        ({"later": Boxes(count=1, names=("c",))}, f"It fits on c as soon as there is room: pi0q why {JOB}"),
        ({"now": Boxes(count=5, names=tuple("abcde"))}, "By their GPUs it fits on a, b, c and 2 more now."),
        ({}, "No box is up: `pi0q worker` on a GPU machine makes it one."),
    ],
)
def test_the_sentence_names_the_boxes(boxes: dict[str, Boxes], said: str) -> None:
    assert sentence(replace(NOBODY, **boxes), JOB) == said  # type: ignore[arg-type]


def test_a_job_that_is_too_large_for_every_card_is_told_with_both_numbers() -> None:
    too_small = replace(NOBODY, never=Boxes(count=2, names=("a", "b")), largest_card_mib=48 * GIB)
    said = sentence(too_small, JOB)

    assert "it needs 60.0 GiB on a card, and the largest card has 48.0 GiB" in said
    assert f"Fix: pi0q why {JOB}" in said
    assert "none of them has a GPU" in sentence(replace(too_small, largest_card_mib=0), JOB)


def test_submit_says_where_a_job_fits(call: Command, store: Store) -> None:
    announce(store, "box-a", box((96, 96)))

    told = json.loads(call("submit", "-", "--json", stdin=FILE).stdout)

    assert told["fits"]["now"] == ["box-a"]
    assert told["fits"]["counts"] == {"now": 1, "later": 0, "never": 0}

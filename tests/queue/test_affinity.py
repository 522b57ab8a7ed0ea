"""Which free box should take a job by what it holds already."""

from __future__ import annotations

from pi0q.queue import affinity
from pi0q.queue.affinity import Better, WarmBox

GIB = 1024
READS = {"lerobot/pi0": 14 * GIB, "datasets/me/grab": 6 * GIB}


def box(name: str, *warm: str, gib: int = 80) -> WarmBox:
    return WarmBox(name=name, card_mib=gib * GIB, warm=warm)


def test_the_box_that_saves_the_most_is_preferred() -> None:
    others = [box("base", "lerobot/pi0"), box("all", *READS), box("cold")]
    assert affinity.better(READS, box("mine"), others) == Better(box="all", saved_mib=20 * GIB)


def test_a_box_that_has_it_takes_the_job_itself() -> None:
    assert affinity.better(READS, box("mine", *READS), [box("all", *READS)]) is None
    assert affinity.better(READS, box("mine", *READS), [box("mine", *READS)]) is None


def test_a_few_gib_are_worth_no_wait() -> None:
    assert affinity.better({"datasets/a/b": 3 * GIB}, box("mine"), [box("other", "datasets/a/b")]) is None
    mine = box("mine", "lerobot/pi0")
    assert affinity.better(READS | {"datasets/me/grab": 3 * GIB}, mine, [box("all", *READS)]) is None


def test_larger_cards_are_not_taken_for_a_download() -> None:
    assert affinity.better(READS, box("mine", gib=24), [box("large", *READS)]) is None
    assert affinity.better(READS, box("mine", gib=79), [box("as large", *READS)]) is not None
    assert affinity.better(READS, box("mine"), [box("small", *READS, gib=24)]) is not None


def test_what_no_box_can_have_announced_counts_as_none() -> None:
    assert affinity.announced("a", None, None) is None
    assert affinity.announced("a", '[{"total_mib": "x"}]', "[]") is None
    assert affinity.announced("a", '[{"total_mib": 10}]', "{}") is None
    assert affinity.announced("a", '[{"total_mib": 10}, {"total_mib": 20}]', '["x/y"]') == WarmBox(
        name="a", card_mib=20, warm=frozenset(["x/y"])
    )

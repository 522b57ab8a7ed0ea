"""Which cards of a box a job takes, on made-up machines."""

from __future__ import annotations

import pytest

from pi0q.workers.claims.card_choice import choose
from pi0q.workers.host.card_links import NVLINK, Distances


def wired(*groups: tuple[int, ...], near: int, far: int = 50) -> Distances:
    """A machine whose cards are near inside a group and far from those of others."""
    group_of = {card: at for at, group in enumerate(groups) for card in group}
    cards = range(len(group_of))
    return tuple(tuple(0 if a == b else near if group_of[a] == group_of[b] else far for b in cards) for a in cards)


#: Eight cards on two NUMA nodes of four.
NODES = wired((0, 1, 2, 3), (4, 5, 6, 7), near=40)
#: The same with pairs on one PCIe switch.
PAIRS = tuple(
    tuple(10 if a != b and a // 2 == b // 2 else distance for b, distance in enumerate(row))
    for a, row in enumerate(NODES)
)
#: Eight cards that all reach each other through NVSwitch.
SWITCHED = wired(tuple(range(8)), near=NVLINK)
#: Four cards with bridges between 0 and 2, and between 1 and 3.
BRIDGED = wired((0, 2), (1, 3), near=NVLINK, far=30)


@pytest.mark.parametrize(
    ("machine", "free", "count", "taken"),
    [
        # All on one node, also where the first cards by number are not.
        (NODES, (0, 1, 2, 3, 4, 5, 6, 7), 4, (0, 1, 2, 3)),
        (NODES, (3, 4, 5, 6, 7), 4, (4, 5, 6, 7)),
        (NODES, (2, 3, 4, 5, 6, 7), 3, (4, 5, 6)),
        # The node that is used already, so that four stay together.
        (NODES, (0, 1, 2, 3, 6, 7), 2, (6, 7)),
        (NODES, (0, 1, 2, 3, 7), 1, (7,)),
        # More than one node has: most of them on one.
        (NODES, (0, 1, 2, 4, 5, 6, 7), 5, (0, 4, 5, 6, 7)),
        (NODES, tuple(range(8)), 8, tuple(range(8))),
        # One switch rather than one node; the rest of a pair rather than half of a whole one.
        (PAIRS, (1, 2, 3, 6, 7), 2, (6, 7)),
        (PAIRS, (0, 1, 3, 4, 5), 1, (3,)),
        (PAIRS, (1, 2, 4, 5, 6), 3, (4, 5, 6)),
        # NVLink rather than anything of PCIe.
        (BRIDGED, (0, 1, 2, 3), 2, (0, 2)),
        (BRIDGED, (0, 1, 3), 2, (1, 3)),
        # Where all are alike, and where nobody tells, the first.
        (SWITCHED, (2, 3, 5, 7), 2, (2, 3)),
        ((), (5, 1, 3), 2, (1, 5)),
        (wired((0, 1), near=10), (0, 1, 2), 2, (0, 1)),
        (NODES, (1, 2), 0, ()),
    ],
)
def test_the_cards_nearest_to_one_another_are_taken(
    machine: Distances, free: tuple[int, ...], count: int, taken: tuple[int, ...]
) -> None:
    assert choose(free, count, machine) == taken


def test_of_cards_as_near_the_preferred_are_taken() -> None:
    assert choose((6, 2, 7, 5), 2, SWITCHED) == (2, 6)

"""Which of the GPUs that a job could have it takes: those that are nearest to one another.

Gradients travel between the cards of a job at every step, as fast as the slowest of their connections. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from pi0q.workers.host.card_links import Distances


def choose(able: Sequence[int], count: int, distances: Distances) -> tuple[int, ...]:
    """Return `count` of these cards, by their numbers.

    The longest distance between two of them is as short as can be, then the sum of all; of equals those that leave the
    fewest free neighbours behind, so that the next job of several cards finds near ones; then the first in `able`.

    Args:
        able: Numbers of the cards that the job may have, the preferred first; at least `count`.
        count: Cards that the job needs.
        distances: As `card_links.measured` has them; empty or of another machine: the first cards are taken.
    """
    first = tuple(sorted(able[:count]))
    known = len(distances) > max(able, default=0)
    if not known or not count or count == len(able):
        return first
    sets = {tuple(sorted(_grown(seed, able, count, distances))) for seed in able}
    return min(sets, key=lambda cards: _cost(cards, able, distances))


def _grown(seed: int, able: Sequence[int], count: int, distances: Distances) -> list[int]:
    """Return the cards that are nearest to a first one, one by one."""
    chosen, left = [seed], [card for card in able if card != seed]
    while len(chosen) < count:
        near = min(left, key=lambda card: sorted((distances[card][one] for one in chosen), reverse=True))
        chosen.append(near)
        left.remove(near)
    return chosen


def _spread(cards: Sequence[int], distances: Distances) -> tuple[int, int]:
    """Return the longest distance between two of these cards, and the sum of all."""
    found = [distances[one][other] for one in cards for other in cards if one != other]
    return max(found, default=0), sum(found)


def _cost(cards: Sequence[int], able: Sequence[int], distances: Distances) -> tuple[object, ...]:
    longest, together = _spread(cards, distances)
    nearest = [min(distances[card][one] for one in cards) for card in able if card not in cards]
    # How many cards that stay free are how near, the nearest first.
    levels = sorted({distance for row in distances for distance in row})
    left_behind = [sum(distance <= level for distance in nearest) for level in levels]
    return longest, together, left_behind, sorted(able.index(card) for card in cards)

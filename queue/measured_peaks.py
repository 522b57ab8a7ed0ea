"""Measured VRAM, and shapes, of earlier jobs: looked up by one rule at submit and by each box, so that both agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from pi0q.jobs.dataset import Images
from pi0q.jobs.estimates import shape
from pi0q.jobs.schema.lerobot_tables import RELEASES
from pi0q.jobs.spec import Spec
from pi0q.jobs.vram_peak import Peak, worst
from pi0q.queue.digests import sha256

#: Hexadecimal digits of a shape's key.
DIGITS = 32


class Peaks(Protocol):
    """What reads peaks: the store, or a box's memory of it."""

    def peaks(self, keys: list[str], /) -> Mapping[str, Peak]:
        """Return the peaks that are known, by the shape's key."""


class PeaksIfReachable:
    """Peaks of a store that may not be there."""

    def __init__(self, connect: Callable[[], Peaks]) -> None:
        self._connect = connect

    def peaks(self, keys: list[str]) -> Mapping[str, Peak]:
        """Return the peaks that are known; none where the store can't be asked, for whatever reason."""
        try:
            return self._connect().peaks(keys)
        except Exception:
            return {}


def key(spec: Spec, images: Images, lerobot_line: str) -> str:
    """Return the key of a job's shape."""
    gpus = spec.resources.gpus or 1
    return sha256(shape.text(shape.of(spec, images, lerobot_line=lerobot_line, gpus=gpus)))[:DIGITS]


def shapes(spec: Spec, images: Images | None) -> list[str]:
    """Return the keys under which the pace of a job's like is known; none for one whose length says nothing.

    That is a rehearsal, a job without a GPU or beside others on a card, a sweep, and one whose images are not known.
    """
    unlike = spec.rehearsal or spec.resources.gpus == 0 or spec.resources.share or spec.sweep is not None
    return [] if images is None or unlike else [key(spec, images, line) for line in RELEASES]


def find(store: Peaks, spec: Spec, images: Images | None) -> Peak | None:
    """Return the peak that a job's VRAM is set by, of whichever LeRobot it is known; None where none was measured.

    None as well where its file states the VRAM, it needs no GPU, or its dataset's images are not known.
    """
    if images is None or spec.rehearsal or spec.resources.vram_mib is not None or spec.resources.gpus == 0:
        return None
    # Which LeRobot its box will have nobody knows yet: the largest counts, for the box as well.
    return worst(list(store.peaks([key(spec, images, line) for line in RELEASES]).values()))

"""One flag of `lerobot-train`: what it takes, and which LeRobot and which policies know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from pi0q.jobs.kinds import Float, Int, Kind, Many, Text

Policies: TypeAlias = frozenset[str]

#: Policies a job may train.
POLICIES = ("pi0", "pi05", "pi0_fast", "smolvla", "act", "diffusion")
#: LeRobot releases that the table was read from, by the line they stand for.
VERSIONS = {"0.4": "0.4.4", "0.6": "0.6.1"}

NONE: Policies = frozenset()
ALL: Policies = frozenset(POLICIES)

COUNT = Int(low=1)
RATE = Float(low=0.0, high=10.0)
UNIT = Float(low=0.0, high=1.0)
PAIR = Many(UNIT, size=2)
PIXELS = Many(Int(low=1, high=8192), size=2)
WORDS = Many(Text())


class Flag(NamedTuple):
    """One flag of the trainer."""

    #: As `lerobot-train` spells it, without the dashes.
    name: str
    #: Reads and bounds its value.
    kind: Kind
    #: Policies that know it, by LeRobot line; none where that line doesn't have it.
    known: Mapping[str, Policies]
    #: One sentence for people.
    says: str


def both(name: str, kind: Kind, says: str, of: Policies = ALL) -> Flag:
    return Flag(name=name, kind=kind, says=says, known={"0.4": of, "0.6": of})


def new(name: str, kind: Kind, says: str, of: Policies = ALL, before: Policies = NONE) -> Flag:
    """A flag that 0.6 brought, or brought to more policies."""
    return Flag(name=name, kind=kind, says=says, known={"0.4": before, "0.6": of})

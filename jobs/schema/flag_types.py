"""One flag of `lerobot-train`: what it takes, and which LeRobot and which policies know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from pi0q.jobs.schema.value_types import Float, Int, ListOf, Text, ValueType

#: Names of policies (or reward models, optimizers, schedulers), or lerobot_tables.ALL alone.
Owners: TypeAlias = frozenset[str]

COUNT = Int(low=1)
RATE = Float(low=0.0, high=10.0)
UNIT = Float(low=0.0, high=1.0)
PAIR = ListOf(UNIT, size=2)
PIXELS = ListOf(Int(low=1, high=8192), size=2)
WORDS = ListOf(Text())


class Note(NamedTuple):
    """What pi0q says of a flag by hand, over what LeRobot's own argument class says."""

    #: As `lerobot-train` spells it, without the dashes.
    name: str
    #: Reads and bounds its value; None: as LeRobot's type has it.
    kind: ValueType | None
    #: One sentence for people.
    says: str
    #: Policies whose flag it bounds; None: all that have a flag of this name.
    only: Owners | None = None


class Flag(NamedTuple):
    """One flag of the trainer."""

    #: As `lerobot-train` spells it, without the dashes.
    name: str
    #: Reads and bounds its value, whoever has the flag.
    kind: ValueType
    #: Who has it, by LeRobot line; a line without the flag is left out.
    known: Mapping[str, Owners]
    #: One sentence for people.
    says: str


class Explanation(NamedTuple):
    """What there is to say of a flag, as values."""

    name: str
    #: One sentence: what it does.
    says: str
    #: What a value must be, to stand after "must be".
    wants: str
    #: The values it can have, where these are few names.
    choices: tuple[str, ...]
    #: What LeRobot takes where it is left out, as JSON, by who has the flag ("-": all), in the newest line that has it.
    defaults: Mapping[str, str]
    #: Who has it, by LeRobot line ("0.6"): policies, reward models, optimizers or schedulers, or "-" for all.
    known: Mapping[str, Owners]
    #: Why pi0q refuses it; "" if it is taken.
    refused: str


class WandbProject(Text):
    """A project of WandB, which refuses these signs and more than 128 characters (wandb_settings.py)."""

    BARRED = "/\\#?%:"

    def __init__(self) -> None:
        super().__init__(limit=128)

    @property
    def wants(self) -> str:
        return "a name of a WandB project"

    def fault(self, text: str) -> str | None:
        if bad := next((char for char in text if char in self.BARRED), ""):
            return f"must not hold `{bad}`: WandB takes none of {' '.join(self.BARRED)} in the name of a project"
        return super().fault(text)

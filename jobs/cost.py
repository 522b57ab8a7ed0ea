"""What jobs took of their boxes: card-hours, money, and the part that interruptions lost. Pure arithmetic.

A hold is the time from a claim to its end. Its money is the price of its box an hour, by the share of the box's cards
that the job had; a job without a card pays for the whole box, and jobs that share a card pay for it each. Of a hold
that was interrupted (its job went back into the queue, or waits) the time since its last checkpoint is lost, all of it
where there was none; of a hold after that, the time to the start of its trainer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from math import isfinite
from typing import Any

from pi0q.jobs.printable import printable

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
#: Who tells prices, as people read it; days after which such a price may have changed (it is asked each day).
SOURCES: Mapping[str, str] = {"autodl": "AutoDL"}
STALE_DAYS = 2
#: Currencies of a price, and how many an hour at the most.
CURRENCY, MOST = re.compile(r"[A-Z]{3}"), 1_000_000.0
_PRICE = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,6})?) ?([A-Z]{3})")
#: An amount of money in the store that is believed.
MOST_MONEY = 1e12
#: States of a job whose hold was interrupted.
INTERRUPTED = frozenset({"queued", "waiting"})


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a box costs an hour."""

    per_hour: float
    #: Three letters: CNY, USD, EUR.
    currency: str
    #: Who told it, one of SOURCES, and when, in milliseconds since 1970; "" and 0 for one that was set by hand.
    source: str = ""
    at_ms: int = 0

    def __str__(self) -> str:
        return f"{self.per_hour:g} {self.currency}"

    def origin(self, now_ms: int) -> str:
        """Return `AutoDL, 2026-11-30`, and how old that is where it may be wrong by now; "" for one set by hand."""
        if not self.source:
            return ""
        told = f"{SOURCES[self.source]}, {datetime.fromtimestamp(self.at_ms / 1000, timezone.utc).date()}"
        days = (now_ms - self.at_ms) // DAY_MS
        return f"{told}: {days} days old, it may have changed" if self.is_stale(now_ms) else told

    def is_stale(self, now_ms: int) -> bool:
        """Return whether nobody told it anew for so long that it may have changed."""
        return bool(self.source) and now_ms - self.at_ms > STALE_DAYS * DAY_MS

    def to_json(self) -> dict[str, Any]:
        """Return what the server keeps."""
        origin = {"source": self.source, "at_ms": self.at_ms} if self.source else {}
        return {"per_hour": self.per_hour, "currency": self.currency, **origin}

    @classmethod
    def parse(cls, text: str) -> Price | None:
        """Read `5.98CNY` or `2 USD`; None for anything else: `30min` is no money."""
        found = _PRICE.fullmatch(text.strip())
        return cls(per_hour=float(found[1]), currency=found[2]) if found else None

    @classmethod
    def of_json(cls, value: object) -> Price | None:
        """Read what `to_json` gave; None for anything else."""
        found = value if isinstance(value, Mapping) else {}
        per_hour, currency = found.get("per_hour"), found.get("currency")
        if not isinstance(per_hour, (int, float)) or isinstance(per_hour, bool) or not isinstance(currency, str):
            return None
        if not (isfinite(per_hour) and 0 <= per_hour <= MOST and CURRENCY.fullmatch(currency)):
            return None
        source, at_ms = found.get("source"), found.get("at_ms")
        if not isinstance(source, str) or source not in SOURCES or type(at_ms) is not int or not 0 <= at_ms <= 2**42:
            source, at_ms = "", 0
        return cls(per_hour=float(per_hour), currency=currency, source=source, at_ms=at_ms)


@dataclass(frozen=True, kw_only=True)
class Money:
    """An amount of one currency: what a job may cost."""

    amount: float
    currency: str

    def __str__(self) -> str:
        return f"{self.amount:g}{self.currency}"

    def to_json(self) -> dict[str, Any]:
        """Return what the record keeps, as common.lua reads it (`over_budget`)."""
        return {"amount": self.amount, "currency": self.currency}

    @classmethod
    def parse(cls, text: str) -> Money | None:
        """Read `50CNY`; None for anything else, and for nothing."""
        found = Price.parse(text)
        return cls(amount=found.per_hour, currency=found.currency) if found and found.per_hour > 0 else None


@dataclass(frozen=True, kw_only=True)
class UserBudget:
    """What the jobs of a user may cost, and have cost since it was set."""

    limit: Money
    spent: float
    since_ms: int

    def __str__(self) -> str:
        day = datetime.fromtimestamp(self.since_ms / 1000, timezone.utc).date()
        return f"{self.spent:.2f} of {self.limit.amount:.2f} {self.limit.currency} since {day}"

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {**self.limit.to_json(), "spent": round(self.spent, 4), "since_ms": self.since_ms}

    @classmethod
    def of_json(cls, value: object) -> UserBudget | None:
        """Read what budget.lua wrote; None for anything else."""
        found = value if isinstance(value, Mapping) else {}
        currency, since_ms = found.get("currency"), found.get("since_ms")
        amounts = [found.get("amount"), found.get("spent")]
        numbers = [float(one) for one in amounts if isinstance(one, (int, float)) and not isinstance(one, bool)]
        good = len(numbers) == 2 and all(isfinite(one) and 0 <= one <= MOST_MONEY for one in numbers)
        if not good or not isinstance(currency, str) or not CURRENCY.fullmatch(currency):
            return None
        if type(since_ms) is not int or not 0 <= since_ms <= 2**42:
            return None
        return cls(limit=Money(amount=numbers[0], currency=currency), spent=numbers[1], since_ms=since_ms)


@dataclass(frozen=True, kw_only=True)
class Hold:
    """One claim of one job, from its begin to its end; times are milliseconds since 1970 on the server's clock."""

    job: str
    name: str
    user: str
    box: str
    #: GPUs of the job, and of its box.
    cards: int
    box_cards: int
    #: The claim, the start of the trainer, the last checkpoint of this claim; 0 for none.
    from_ms: int
    ran_ms: int
    saved_ms: int
    to_ms: int
    #: Claims of the job before this one.
    before: int
    #: The state that the job was in after it: an interruption where that is one of INTERRUPTED.
    after: str
    price: Price | None = None

    @property
    def hours(self) -> float:
        """Return how long it took."""
        return max(0, self.to_ms - self.from_ms) / HOUR_MS

    @property
    def card_hours(self) -> float:
        """Return the hours of its cards together."""
        return self.hours * self.cards

    @property
    def share(self) -> float:
        """Return its part of the box, 0 to 1."""
        return min(1.0, self.cards / self.box_cards) if self.cards and self.box_cards else 1.0

    @property
    def lost_hours(self) -> float:
        """Return how much of it an interruption lost: this one's, and the start after the one before."""
        if self.after in INTERRUPTED and not self.saved_ms:
            return self.hours
        start = max(0, (self.ran_ms or self.to_ms) - self.from_ms) if self.before else 0
        end = max(0, self.to_ms - max(self.saved_ms, self.from_ms)) if self.after in INTERRUPTED else 0
        return min(self.hours, (start + end) / HOUR_MS)

    @classmethod
    def of_json(cls, text: str) -> Hold | None:
        """Read an entry that common.lua wrote (`account`); None for anything else."""
        try:
            raw = json.loads(text)
            values: dict[str, Any] = {name: _whole(raw[name]) for name in _NUMBERS}
            values |= {name: printable(str(raw[name]), lines=False)[:200] for name in _TEXTS}
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return cls(**values, price=Price.of_json(raw.get("price")))


_NUMBERS = ("cards", "box_cards", "from_ms", "ran_ms", "saved_ms", "to_ms", "before")
_TEXTS = ("job", "name", "user", "box", "after")


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 2**53:
        raise ValueError
    return int(value)


@dataclass(kw_only=True)
class Spent:
    """The sum of some holds."""

    hours: float = 0.0
    card_hours: float = 0.0
    lost_hours: float = 0.0
    #: Claims, and those that were interrupted.
    holds: int = 0
    interruptions: int = 0
    #: By currency: all, and the lost part.
    money: dict[str, float] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    #: Hours of boxes without a price.
    unpriced_hours: float = 0.0

    def add(self, hold: Hold) -> None:
        """Count a hold."""
        self.hours += hold.hours
        self.card_hours += hold.card_hours
        self.lost_hours += hold.lost_hours
        self.holds += 1
        self.interruptions += hold.after in INTERRUPTED
        if hold.price is None:
            self.unpriced_hours += hold.hours
            return
        rate, currency = hold.price.per_hour * hold.share, hold.price.currency
        self.money[currency] = self.money.get(currency, 0.0) + rate * hold.hours
        self.lost[currency] = self.lost.get(currency, 0.0) + rate * hold.lost_hours

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints; hours to the second, money to a hundredth of a cent."""
        amounts = {name: {key: round(value, 4) for key, value in getattr(self, name).items()} for name in _MONEY}
        hours = {name: round(getattr(self, name), 4) for name in _HOURS}
        return {**hours, "holds": self.holds, "interruptions": self.interruptions, **amounts}


_MONEY = ("money", "lost")
_HOURS = ("hours", "card_hours", "lost_hours", "unpriced_hours")


def total(holds: Iterable[Hold]) -> Spent:
    """Return the sum of these holds."""
    found = Spent()
    for hold in holds:
        found.add(hold)
    return found


#: What `pi0q cost --by` takes -> the attributes of a hold that it groups by.
BY: Mapping[str, tuple[str, ...]] = {"user": ("user",), "job": ("job", "name"), "box": ("box",)}


def grouped(holds: Iterable[Hold], by: str) -> dict[tuple[str, ...], Spent]:
    """Return the sums by one of BY, the dearest first, then the longest."""
    found: dict[tuple[str, ...], Spent] = {}
    for hold in holds:
        found.setdefault(tuple(str(getattr(hold, name)) for name in BY[by]), Spent()).add(hold)
    return dict(sorted(found.items(), key=lambda item: (-sum(item[1].money.values()), -item[1].hours, item[0])))


def amount(money: Mapping[str, float]) -> str:
    """Return `21.40 CNY`, or `21.40 CNY + 3.00 USD`; "" for none."""
    return " + ".join(f"{value:.2f} {currency}" for currency, value in sorted(money.items()))


def words(spent: Spent) -> str:
    """Return `21.40 CNY for 3.6 card-hours, of it 0.90 CNY lost to 2 interruptions`; "" for nothing."""
    if not spent.holds:
        return ""
    hours = f"{spent.card_hours:.2f} card-hours" if spent.card_hours else f"{spent.hours:.2f} hours without a GPU"
    text = f"{amount(spent.money)} for {hours}" if spent.money else hours
    if not spent.interruptions:
        return text
    count = f"{spent.interruptions} interruption{'s' * (spent.interruptions != 1)}"
    return f"{text}, of it {amount(spent.lost) or f'{spent.lost_hours:.2f} hours'} lost to {count}"

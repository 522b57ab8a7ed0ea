"""Forecast of a job: the hours and the money that it takes, by the pace of earlier jobs of its shape. Pure.

Reckoned are its steps alone. Downloads, the start of the trainer and a compile come before the first of them; saves by
time take 2 % of the time at the most.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from pi0q.jobs.cost import HOUR_MS, Money, Price
from pi0q.jobs.printable import printable

#: Offers and paces that are read, characters of them, and seconds that no step takes.
MOST_OFFERS, MOST_PACES, MOST_TEXT, MOST_SECONDS = 40, 5, 256 * 1024, 86_400.0
HOUR = HOUR_MS / 1000


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a job takes on one box."""

    hours: float
    box: str
    #: The kind of its cards: `NVIDIA GeForce RTX 4090 24 GiB`.
    card: str
    #: How many jobs of this shape trained on such cards.
    jobs: int
    #: Of the whole box; None where nobody said it.
    price: Price | None = None
    #: The part of the box that the job has, 0 to 1.
    share: float = 1.0

    @property
    def money(self) -> Money | None:
        """Return what the job costs; None where its box has no price."""
        if self.price is None:
            return None
        return Money(amount=self.hours * self.share * self.price.per_hour, currency=self.price.currency)

    def sentence(self, budget: Money | None = None) -> str:
        """Return `about 6.2 h on box-a (… 24 GiB) at 2.98 CNY an hour: 18.48 CNY (from 3 jobs of this shape)`."""
        jobs = f"from {self.jobs} job{'s' * (self.jobs != 1)} of this shape"
        long = f"{self.hours:.1f} h" if self.hours >= 0.95 else f"{max(1.0, self.hours * 60):.0f} min"
        text = f"about {long} on {self.box} ({self.card})"
        money = self.money
        if money is None or self.price is None:
            return f"{text} ({jobs}); its price is not known: pi0q box price PRICE --box {self.box}"
        part = f", of which it has {self.share:.0%}" if self.share < 1 else ""
        text += f" at {self.price} an hour{part}: {money.amount:.2f} {money.currency} ({jobs})"
        if budget and budget.currency == money.currency and budget.amount < money.amount:
            text += f"; its budget of {budget} holds it before its end"
        return text

    def to_json(self) -> dict[str, Any]:
        """Return what `pi0q submit --json` prints."""
        money = self.money
        return {
            "hours": round(self.hours, 4),
            "box": self.box,
            "card": self.card,
            "jobs": self.jobs,
            "price": self.price and self.price.to_json(),
            "money": money and {**money.to_json(), "amount": round(money.amount, 4)},
        }


def cheapest(offers: str, *, steps: int, gpus: int) -> Forecast | None:
    """Return the job on the box where it costs least, else where it ends first; None where nothing is known.

    `offers`: as placement.lua answers them; whatever pi0q does not write is left out.
    """
    return min(_forecasts(offers, steps, gpus), key=_order, default=None)


def _order(one: Forecast) -> tuple[bool, float, float, str]:
    money = one.money
    return money is None, money.amount if money else 0.0, one.hours, one.box


def _forecasts(offers: str, steps: int, gpus: int) -> Iterator[Forecast]:
    try:
        listed = json.loads(offers) if len(offers) <= MOST_TEXT else []
    except (ValueError, RecursionError):
        return
    for offer in listed[:MOST_OFFERS] if isinstance(listed, list) else ():
        pace = offer.get("pace") if isinstance(offer, Mapping) else None
        if not isinstance(pace, Mapping) or (seconds := _seconds(pace.get("seconds"))) is None:
            continue
        cards = _whole(offer.get("box_cards"))
        yield Forecast(
            hours=steps * seconds / HOUR,
            box=_line(offer.get("box")),
            card=_line(offer.get("card")),
            jobs=max(1, _whole(pace.get("jobs"))),
            price=Price.of_json(offer.get("price")),
            share=min(1.0, gpus / cards) if cards else 1.0,
        )


def _seconds(value: object) -> float | None:
    """Return the median of the seconds a step; None for none."""
    listed = value[:MOST_PACES] if isinstance(value, list) else []
    good = [float(one) for one in listed if isinstance(one, (int, float)) and not isinstance(one, bool)]
    good = [one for one in good if isfinite(one) and 0 < one <= MOST_SECONDS]
    # `statistics` takes 10 ms to load, and every submit would.
    return sorted(good)[len(good) // 2] if good else None


def _whole(value: object) -> int:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 2**53
    return int(value) if good and isinstance(value, (int, float)) else 0


def _line(value: object) -> str:
    return printable(str(value), lines=False)[:120]

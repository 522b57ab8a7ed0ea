"""Forecasts of hours and money from what the server answers, which is not trusted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pi0q.jobs.cost import Money
from pi0q.jobs.forecast import Forecast, cheapest

CARD = "NVIDIA GeForce RTX 4090 48 GiB"
PRICE = {"per_hour": 2.98, "currency": "CNY"}


def offer(seconds: Any = (0.4, 0.45, 0.5), **other: Any) -> dict[str, Any]:
    pace = {"seconds": list(seconds) if isinstance(seconds, tuple) else seconds, "jobs": 3, "box": "box-a", "at_ms": 5}
    return {"box": "box-a", "card": CARD, "box_cards": 1, "price": PRICE, "pace": pace} | other


def found(*offers: Any, steps: int = 50_000, gpus: int = 1) -> Forecast | None:
    return cheapest(json.dumps(offers), steps=steps, gpus=gpus)


def test_hours_are_steps_by_the_median_pace_and_money_by_the_price() -> None:
    one = found(offer())
    assert one and one.money
    assert (round(one.hours, 2), round(one.money.amount, 2), one.money.currency) == (6.25, 18.62, "CNY")
    assert one.sentence() == f"about 6.2 h on box-a ({CARD}) at 2.98 CNY an hour: 18.62 CNY (from 3 jobs of this shape)"
    assert one.to_json()["money"] == {"amount": 18.625, "currency": "CNY"}


def test_a_job_pays_for_its_part_of_the_box() -> None:
    one = found(offer(box_cards=4), gpus=2)
    assert one and one.money and one.money.amount == pytest.approx(9.3125)
    assert "at 2.98 CNY an hour, of which it has 50%: 9.31 CNY" in one.sentence()


def test_the_cheapest_box_counts_then_the_fastest() -> None:
    fast = offer((0.1,), box="fast", price={"per_hour": 20, "currency": "CNY"})
    slow = offer((0.4,), box="slow")
    unpriced = offer((0.05,), box="unpriced", price={})
    assert [one.box for one in (found(fast, slow, unpriced), found(unpriced, offer(price=[]))) if one] == [
        "slow",
        "unpriced",
    ]
    one = found(unpriced, steps=60)
    assert one and one.money is None
    assert one.sentence() == (
        f"about 1 min on unpriced ({CARD}) (from 3 jobs of this shape); "
        "its price is not known: pi0q box price PRICE --box unpriced"
    )


def test_a_budget_that_does_not_suffice_is_said_before() -> None:
    one = found(offer())
    assert one and "its budget of 10CNY holds it before its end" in one.sentence(Money(amount=10, currency="CNY"))
    assert "budget" not in one.sentence(Money(amount=100, currency="CNY"))
    assert "budget" not in one.sentence(Money(amount=1, currency="USD"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "{}", "[5]", "[" * 5000),
        json.dumps([offer("many"), offer((True, -1, 1e300)), offer(pace=[])]),
        "[" + json.dumps(offer(box="x" * 300_000)) + "]",
    ],
)
def test_what_pi0q_does_not_write_is_no_forecast(text: str) -> None:
    assert cheapest(text, steps=10, gpus=1) is None


def test_names_that_would_steer_a_terminal_are_shown_plainly() -> None:
    one = found(offer(box="\x1b[2Jbox\nb", box_cards="x"))
    assert one and "\x1b" not in one.sentence() and "\n" not in one.sentence() and one.share == 1.0

"""Card-hours, money and what interruptions lost: the arithmetic alone."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from pi0q.jobs import cost
from pi0q.jobs.cost import HOUR_MS, Hold, Price, UserBudget

CNY = Price(per_hour=6.0, currency="CNY")
HOLD = Hold(
    job="0" * 12, name="a", user="ada@lab", box="box-a", cards=1, box_cards=2, from_ms=HOUR_MS,
    ran_ms=HOUR_MS + 360_000, saved_ms=0, to_ms=3 * HOUR_MS, before=0, after="succeeded", price=CNY,
)  # fmt: skip


def test_a_job_pays_for_its_share_of_the_cards() -> None:
    spent = cost.total([HOLD, replace(HOLD, cards=2), replace(HOLD, cards=0)])
    assert (spent.hours, spent.card_hours) == (6.0, 6.0)
    assert spent.money == {"CNY": pytest.approx(6.0 + 12.0 + 12.0)} and spent.lost == {"CNY": 0.0}


@pytest.mark.parametrize(
    ("changed", "hours"),
    [
        ({}, 0.0),
        ({"after": "failed"}, 0.0),
        # Nothing saved: all of it is lost.
        ({"after": "queued"}, 2.0),
        ({"after": "queued", "saved_ms": 2 * HOUR_MS}, 1.0),
        ({"after": "waiting", "saved_ms": 3 * HOUR_MS}, 0.0),
        # After an interruption the start comes again.
        ({"before": 1}, 0.1),
        ({"before": 1, "after": "queued", "saved_ms": 2 * HOUR_MS}, 1.1),
        ({"before": 1, "after": "queued", "saved_ms": 2 * HOUR_MS, "ran_ms": 0}, 2.0),
    ],
)
def test_what_an_interruption_loses(changed: dict[str, object], hours: float) -> None:
    hold = replace(HOLD, **changed)  # type: ignore[arg-type]
    assert hold.lost_hours == pytest.approx(hours)
    assert cost.total([hold]).lost == {"CNY": pytest.approx(hours * 3.0)}


def test_sums_by_user_job_and_box() -> None:
    holds = [
        HOLD,
        replace(HOLD, user="bob@lab", price=Price(per_hour=4, currency="USD")),
        replace(HOLD, box="b", price=None),
    ]
    assert {key: cost.amount(spent.money) for key, spent in cost.grouped(holds, "user").items()} == {
        ("ada@lab",): "6.00 CNY", ("bob@lab",): "4.00 USD",
    }  # fmt: skip
    assert cost.amount(cost.total(holds).money) == "6.00 CNY + 4.00 USD"
    assert cost.total(holds).unpriced_hours == 2.0
    assert list(cost.grouped(holds, "box")) == [("box-a",), ("b",)] and len(cost.grouped(holds, "job")) == 1


def test_words() -> None:
    lost = replace(HOLD, after="queued", saved_ms=3 * HOUR_MS - 600_000)
    assert cost.words(cost.total([HOLD])) == "6.00 CNY for 2.00 card-hours"
    told = "12.00 CNY for 4.00 card-hours, of it 0.50 CNY lost to 1 interruption"
    assert cost.words(cost.total([HOLD, lost])) == told
    assert cost.words(cost.total([replace(lost, price=None, cards=0)])) == (
        "2.00 hours without a GPU, of it 0.17 hours lost to 1 interruption"
    )
    assert cost.words(cost.total([])) == ""


@pytest.mark.parametrize("text", ["5.98CNY", "5.98 CNY", " 2USD "])
def test_a_price_is_read(text: str) -> None:
    found = Price.parse(text)
    assert found and Price.of_json(found.to_json()) == found


@pytest.mark.parametrize(
    "text", ["", "5.98", "CNY", "-1CNY", "1e5CNY", "5,98CNY", "5 YUAN", "30min", "5.98cny", "nanCNY", "99999999CNY"]
)
def test_what_is_no_price(text: str) -> None:
    assert Price.parse(text) is None


BAD_PRICES = [
    {"per_hour": True, "currency": "CNY"}, {"per_hour": 1, "currency": "¥"}, {"per_hour": -1, "currency": "CNY"},
    {"per_hour": float("inf"), "currency": "CNY"},
]  # fmt: skip


@pytest.mark.parametrize("value", [None, [], {}, *BAD_PRICES])
def test_what_is_no_price_on_the_server(value: object) -> None:
    assert Price.of_json(value) is None


def test_an_entry_of_the_server_is_read_and_a_damaged_one_is_left_out() -> None:
    assert Hold.of_json(json.dumps(asdict(HOLD))) == HOLD
    for text in ("", "[]", "{}", json.dumps({**asdict(HOLD), "cards": -1}), json.dumps({**asdict(HOLD), "to_ms": "x"})):
        assert Hold.of_json(text) is None


def test_a_users_budget_is_read_as_it_was_written_and_nothing_else_is() -> None:
    good = {"amount": 9_999_999, "currency": "CNY", "spent": 61.2, "since_ms": 1_796_000_000_000}
    found = UserBudget.of_json(good)
    assert found and str(found) == "61.20 of 9999999.00 CNY since 2026-11-30" and found.to_json() == good
    wrong = {"amount": True, "currency": "yuan", "spent": float("nan"), "since_ms": -1}
    assert [UserBudget.of_json(good | {key: value}) for key, value in wrong.items()] == [None] * 4
    assert UserBudget.of_json([]) is None

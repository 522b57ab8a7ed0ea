"""What a submit says that a job will take: kept by shape and card, and answered with the boxes that fit."""

from __future__ import annotations

import json

import pytest

from pi0q.jobs.cost import Price
from pi0q.jobs.forecast import Forecast, cheapest
from pi0q.queue import measured_peaks
from pi0q.queue.store import Store
from tests.conftest import Command
from tests.queue.test_measured_peaks import IMAGES, hub, spec, submit
from tests.queue.test_placement import GIB, SILENT, announce, box
from tests.standin_hub import StandInHub

__all__ = ["hub"]

JOB = "a1a1a1a1a1a1"
SHAPE = measured_peaks.key(spec(), IMAGES, "0.6")


def forecast(store: Store, shapes: tuple[str, ...] = (SHAPE,), vram_mib: int = 60 * GIB) -> Forecast | None:
    need = {"gpus": 1, "vram_mib": vram_mib}
    (found,) = store.placements([need], SILENT, shapes=[shapes])
    return cheapest(found.offers, steps=3600, gpus=1)


def test_a_job_is_forecast_on_a_box_that_fits(store: Store) -> None:
    announce(store, "a", box((80, 80)))
    announce(store, "b", box((48, 48)))
    assert forecast(store) is None
    store.keep_pace(SHAPE, (JOB, "a"), 0.5)
    assert forecast(store, ("other",)) is None and forecast(store, ()) is None
    one = forecast(store)
    assert one and (one.hours, one.box, one.card, one.jobs, one.price) == (0.5, "a", "A card 80 GiB", 1, None)
    store.set_price("a", Price(per_hour=4, currency="CNY"))
    one = forecast(store)
    assert one and one.money and one.money.amount == 2
    # The other box fits, but of its cards nothing is known.
    one = forecast(store, vram_mib=GIB)
    assert one and one.box == "a"


def test_a_box_that_is_away_is_named_where_no_other_fits(store: Store) -> None:
    announce(store, "a", box((80, 80)))
    store.keep_pace(SHAPE, (JOB, "a"), 0.5)
    announce(store, "a", {"status": "stopped"})
    one = forecast(store)
    assert one and (one.box, one.card) == ("a", "A card 80 GiB")


def test_the_newest_five_paces_of_eight_kinds_of_cards_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for gib in range(10, 20):
        announce(store, f"box-{gib}", box((gib, gib)))
        for number, seconds in enumerate((9.0, 1.0, 2.0, 3.0, 4.0, 5.0)):
            for told in (seconds + 1, seconds):  # a job that tells it again
                store.keep_pace(SHAPE, (f"{number:012d}", f"box-{gib}"), told)
    kinds = json.loads(store.client.hget(store.prefix + "paces", SHAPE) or "")
    assert len(kinds) == 8 and "A card 19 GiB" in kinds
    assert kinds["A card 19 GiB"]["seconds"] == [5, 4, 3, 2, 1] and kinds["A card 19 GiB"]["jobs"] == 6
    monkeypatch.setattr("pi0q.queue.store.MOST_SHAPES", 2)
    for shape in ("x", "y"):
        store.keep_pace(shape, (JOB, "box-10"), 1.0)
    assert store.client.hlen(store.prefix + "paces") == store.client.zcard(store.prefix + "paces:age") == 2


@pytest.mark.parametrize("text", ["", "[]", "{", "5", '{"a": 5}', '{"a": {"seconds": "x"}}'])
def test_a_pace_that_pi0q_did_not_write_is_none(store: Store, text: str) -> None:
    announce(store, "a", box((80, 80)))
    store.client.hset(store.prefix + "paces", SHAPE, text)
    assert forecast(store) is None
    store.keep_pace(SHAPE, (JOB, "a"), 0.5)
    assert forecast(store)


def test_a_box_without_a_card_has_no_pace(store: Store) -> None:
    announce(store, "a", box())
    for seconds in (0.5, 0.0):
        store.keep_pace(SHAPE, (JOB, "a"), seconds)
    assert store.client.hlen(store.prefix + "paces") == 0


def test_a_submit_says_hours_and_money(call: Command, hub: StandInHub, store: Store) -> None:
    out, err = submit(call, hub, "--json")
    assert json.loads(out)["forecast"] is None and err == ""
    announce(store, "a", box((80, 80)))
    store.keep_pace(SHAPE, (JOB, "a"), 3600.0)
    store.set_price("a", Price(per_hour=4, currency="CNY"))
    out, err = submit(call, hub, "--json", "--again", "--set", "budget=9CNY")
    assert json.loads(out)["forecast"]["money"] == {"amount": 20, "currency": "CNY"}
    assert (
        "about 5.0 h on a (A card 80 GiB) at 4 CNY an hour: 20.00 CNY (from 1 job of this shape); "
        "its budget of 9CNY holds it before its end" in err
    )
    told = [json.loads(submit(call, hub, "--json", "--name", "twin")[0]) for _ in range(2)]
    assert [one["forecast"] is None for one in told] == [False, True], "the same file within 30 s is no new job"


def test_a_dry_run_says_it_too_and_needs_no_server(call: Command, hub: StandInHub, store: Store) -> None:
    announce(store, "a", box((80, 80)))
    store.keep_pace(SHAPE, (JOB, "a"), 3600.0)
    out, err = submit(call, hub, "--dry-run", "--json")
    assert json.loads(out)["forecast"]["hours"] == 5 and "about 5.0 h on a (A card 80 GiB)" in err
    out, err = submit(call, hub, "--dry-run", "--json", PI0Q_REDIS_URL="redis://127.0.0.1:1/0")
    assert json.loads(out)["forecast"] is None and err == ""

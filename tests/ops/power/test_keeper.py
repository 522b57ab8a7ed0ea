"""The keeper against a stand-in of AutoDL's API, on the real queue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.jobs.notices import Message
from pi0q.ops.power import autodl_api, plan, state_file
from pi0q.ops.power.autodl_api import ApiError, AutoDlApi, Refused
from pi0q.ops.power.keeper import Outlets, PowerKeeper, waiting
from pi0q.queue.idle_outlook import Outlook
from pi0q.queue.idle_policy import Phase
from pi0q.queue.reading import views
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver
from tests.standin_autodl import Account, serve

BOX, INSTANCE = "box-a", "pro-76576c61fdf1"


def days_ago(days: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(days=days)).isoformat()


@pytest.fixture
def account() -> Account:
    return Account(containers={INSTANCE: ("shutdown", 5980, days_ago(1))})


@pytest.fixture
def address(account: Account) -> Iterator[str]:
    with serve(account) as url:
        yield url


class Told:
    """What the keeper said, and to whom."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.messages: list[Message] = []
        self.prices: list[tuple[str, float]] = []


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def keeper(store: Store, account: Account, address: str, told: Told, tmp_path: Path) -> PowerKeeper:
    state_file.State(boxes={BOX: state_file.Linked(INSTANCE)}, start_command="bash boot.sh").write(tmp_path)
    return PowerKeeper(
        AutoDlApi(account.token, base_url=address),
        lambda: views.read(store, 60.0),
        tmp_path,
        Outlets(
            say=told.lines.append,
            tell=told.messages.append,
            price=lambda box, cny: told.prices.append((box, cny)),
        ),
    )


@pytest.fixture
def waits(store: Store, driver: JobDriver, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job that has waited long enough, and the box that stopped after it told its card."""
    monkeypatch.setattr(plan, "START_AFTER", 0.0)
    cards = [{"name": "RTX PRO 6000", "uuid": "GPU-1", "total_mib": 98304, "free_mib": 98304}]
    store.announce_box(BOX, BOX, {"status": "stopped", "gpus": json.dumps(cards), "free_mib": "[98304]", "slots": "1"})
    return driver.submit()


def test_look_starts_the_box_and_tells(
    keeper: PowerKeeper, account: Account, told: Told, waits: str, tmp_path: Path
) -> None:
    keeper.look()
    assert account.started == [{"instance_uuid": INSTANCE, "payload": "gpu", "start_command": "bash boot.sh"}]
    assert told.lines == [f"{BOX} is started for job {waits}, 5.98 CNY an hour."]
    assert [message.title for message in told.messages] == [f"{BOX} is started"]
    keeper.look()
    assert len(account.started) == 1, "it is coming up"
    kept = (tmp_path / state_file.STATE_FILE).read_text()
    assert "secret" not in kept and account.token not in kept


def test_look_starts_a_box_that_was_last_on_without_its_card(
    keeper: PowerKeeper, account: Account, waits: str, store: Store
) -> None:
    """It fetched what the job reads, and switched itself off."""
    known = {"no_gpu_mode": True, "fetches": True, "cards": [{"name": "RTX PRO 6000", "total_mib": 98304}]}
    store.announce_box(BOX, BOX, {"status": "stopped", "gpus": "[]", "free_mib": "[]", "staging": json.dumps(known)})
    keeper.look()
    assert [one["payload"] for one in account.started] == ["gpu"]


def test_look_asks_each_day_what_a_box_costs(keeper: PowerKeeper, account: Account, told: Told, tmp_path: Path) -> None:
    keeper.look()
    account.containers[INSTANCE] = ("running", 4980, "")
    for expected in ([(BOX, 5.98)], [(BOX, 5.98), (BOX, 4.98)]):
        keeper._quiet = 10_000
        keeper.look()
        assert told.prices == expected
        state = state_file.read(tmp_path)
        state.boxes[BOX].price_ms -= plan.DAY_MS + 1
        state.write(tmp_path)


def test_look_backs_off_when_out_of_stock(
    keeper: PowerKeeper, account: Account, told: Told, waits: str, tmp_path: Path
) -> None:
    account.no_stock = True
    keeper.look()
    account.no_stock = False
    keeper.look()
    assert account.started == [] and "tried again in 60 s" in told.lines[0]
    state = state_file.read(tmp_path)
    linked = state.boxes[BOX]
    assert [linked.fail(0) for _ in range(5)] == [120, 240, 480, 900, 900]
    linked.not_before_ms = 0
    state.write(tmp_path)
    keeper.look()
    assert len(account.started) == 1


def test_look_refuses_when_the_balance_is_too_small_and_says_so_once(
    keeper: PowerKeeper, account: Account, told: Told, waits: str
) -> None:
    account.assets = 1000
    keeper.look()
    keeper.look()
    assert account.started == [] and len(told.lines) == 1
    assert f"for job {waits}" in told.lines[0] and "the account has 1.00" in told.lines[0]


def test_look_warns_of_a_release_once_a_day(keeper: PowerKeeper, account: Account, told: Told) -> None:
    account.containers[INSTANCE] = ("shutdown", 5980, days_ago(12.5))
    keeper.look()
    keeper._quiet = 10_000
    keeper.look()
    assert told.lines == [f"AutoDL releases {BOX} ({INSTANCE}) in 3 days, with its disks: it has been off too long."]


def test_look_asks_nothing_of_autodl_while_nothing_waits(keeper: PowerKeeper, account: Account) -> None:
    keeper.look()
    first = len(account.asked)
    keeper.look()
    assert len(account.asked) == first


def test_a_wrong_token_starts_nothing_and_ends_nothing(
    keeper: PowerKeeper, account: Account, waits: str, caplog: pytest.LogCaptureFixture
) -> None:
    account.token = "another"
    keeper.look()
    assert account.started == [] and "No box is started" in caplog.text
    assert "token-of-the-account" not in caplog.text


@pytest.mark.parametrize("address_", ["http://127.0.0.1:9", "http://[bad"])
def test_an_api_that_does_not_answer_is_told_without_the_token(address_: str) -> None:
    with pytest.raises(ApiError) as caught:
        AutoDlApi("token-of-mine", base_url=address_).balance()
    assert caught.value.kind is Refused.UNREACHABLE and "token-of-mine" not in str(caught.value)


def test_power_says_what_is_linked_costs_and_is_left(
    call: Command, account: Account, address: str, monkeypatch: pytest.MonkeyPatch, env: dict[str, str]
) -> None:
    monkeypatch.setattr(autodl_api, "BASE_URL", address)
    none = call("power", "status")
    assert none.returncode == 2 and "Fix: pi0q power token" in none.stderr
    assert call("power", "token", stdin=account.token + "\n").returncode == 0
    assert (Path(env["PI0Q_HOME"]) / "autodl.token").stat().st_mode & 0o777 == 0o600
    assert call("power", "link", BOX, "bdd444a38d-68f13754").returncode == 2
    assert call("power", "link", BOX, INSTANCE).returncode == 0
    assert call("power", "link", "other", INSTANCE).returncode == 2
    said = call("power", "status")
    assert said.stdout == f"{BOX}  {INSTANCE}  off  5.98 CNY an hour\nBalance: 50.00 CNY\n"
    as_json = json.loads(call("power", "status", "--json").stdout)
    assert as_json["boxes"][0]["cny_per_hour"] == 5.98
    assert call("power", "unlink", "nobody").returncode == 3
    assert call("power", "unlink", BOX).returncode == 0


def test_a_price_of_autodl_replaces_none_that_was_set_by_hand(
    call: Command, account: Account, address: str, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setattr(autodl_api, "BASE_URL", address)
    none = call("box", "price", "--from-autodl")
    assert none.returncode == 2 and "Fix: pi0q power token" in none.stderr
    call("power", "token", stdin=account.token + "\n")
    assert "Fix: pi0q power link BOX" in call("box", "price", "--from-autodl").stderr
    call("power", "link", BOX, INSTANCE)
    assert "the queue knows no box of that name" in call("box", "price", "--from-autodl").stdout
    store.announce_box(BOX, BOX, {"status": "ready"})
    assert call("box", "price", "--from-autodl").stdout == f"{BOX}  5.98 CNY an hour, as AutoDL says.\n"
    assert f"{BOX}  5.98 CNY an hour  (AutoDL, 20" in call("box", "price").stdout
    assert json.loads(call("box", "price", "--json").stdout)[BOX]["stale"] is False
    old = {"per_hour": 5.98, "currency": "CNY", "source": "autodl", "at_ms": store.now_ms() - 3 * plan.DAY_MS}
    store.client.hset(store.prefix + "prices", BOX, json.dumps(old))
    assert "3 days old, it may have changed)" in call("box", "price").stdout
    call("box", "price", "4CNY", "--box", BOX)
    told = json.loads(call("box", "price", "--from-autodl", "--box", BOX, "--json").stdout)
    assert told == {BOX: {"cny_per_hour": 5.98, "result": "by_hand"}}
    assert call("box", "price").stdout == f"{BOX}  4 CNY an hour\n"
    assert call("box", "price", "--from-autodl", "--box", "nobody").returncode == 3
    assert call("box", "price", "4CNY", "--from-autodl").returncode == 2
    account.token = "another"
    assert "Fix: check the token" in call("box", "price", "--from-autodl").stderr


def test_a_token_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    state_file.write_token(tmp_path, "12345678")
    (tmp_path / state_file.TOKEN_FILE).chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        state_file.read_token(tmp_path)


@pytest.mark.parametrize("pace", [float("nan"), float("inf"), -1.0, 0.0])
def test_waiting_takes_a_pace_that_is_none_for_unknown(store: Store, driver: JobDriver, pace: float) -> None:
    driver.submit()
    view = views.read(store, 60.0)
    (job,) = view.queue
    odd = replace(view, queue=(replace(job, steps=100, step_seconds=pace),))
    assert [need.seconds for need in waiting(odd)] == [None]


def test_look_starts_a_box_that_switched_itself_off(
    keeper: PowerKeeper, account: Account, store: Store, waits: str
) -> None:
    told = Outlook(phase=Phase.OFF).to_json()
    store.announce_box(BOX, BOX, {"status": "stopped", "idle": json.dumps(told)})
    (box,) = views.read(store, 60.0).boxes
    assert box.note.startswith("off by itself since ")
    keeper.look()
    assert [one["instance_uuid"] for one in account.started] == [INSTANCE]

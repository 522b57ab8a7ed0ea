"""The SwanLab key of a box: where it lies, and what a stand-in of SwanLab says of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pi0q.ops.checks import hub
from pi0q.ops.checks.finding import Status, check_target
from pi0q.ops.machine import Machine
from pi0q.queue.settings import Settings
from pi0q.workers.network import swanlab_key
from pi0q.workers.network.swanlab_key import SwanLab
from pi0q.workers.runs.redaction import known_secrets
from tests.workers.standin_swanlab import StandInSwanLab

KEY = "k" * 22


def login(home: Path, host: str, key: str = KEY) -> None:
    """As `swanlab login` leaves it."""
    file = home / ".swanlab" / ".netrc"
    file.parent.mkdir(parents=True)
    file.write_text(f"machine {host}\n\tlogin https://swanlab.cn\n\tpassword {key}\n")
    file.chmod(0o600)


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, (KEY, "https://my.server:8000")),
        ({"SWANLAB_API_HOST": "my.server:8000"}, (KEY, "https://my.server:8000")),
        ({"SWANLAB_API_HOST": "https://elsewhere"}, ("", "https://elsewhere")),
        ({"SWANLAB_API_KEY": "other"}, ("other", "https://api.swanlab.cn")),
        ({"SWANLAB_API_KEY": "other", "SWANLAB_API_HOST": "http://h/api/"}, ("other", "http://h")),
    ],
)
def test_key_of_a_login_goes_to_its_own_server_alone(
    tmp_path: Path, env: dict[str, str], found: tuple[str, str]
) -> None:
    login(tmp_path, "https://my.server:8000")
    assert swanlab_key.find(env, user_home=tmp_path) == found


def test_no_login_or_a_damaged_one_is_no_key(tmp_path: Path) -> None:
    assert swanlab_key.find({}, user_home=tmp_path) == ("", "https://api.swanlab.cn")
    login(tmp_path, "https://h")
    (tmp_path / ".swanlab/.netrc").write_text("machine \x00 pass")
    assert swanlab_key.check(Settings(home=tmp_path), {}, user_home=tmp_path).state == "none"


def test_swanlab_says_whose_key_it_is(tmp_path: Path) -> None:
    with StandInSwanLab() as standin:
        standin.keys[KEY] = "ada"
        login(tmp_path, standin.url)
        settings = Settings(home=tmp_path)
        assert swanlab_key.check(settings, {}, user_home=tmp_path) == SwanLab(state="ok", user="ada", host="127.0.0.1")
        wrong = {"SWANLAB_API_HOST": standin.url, "SWANLAB_API_KEY": "wrong"}
        assert swanlab_key.check(settings, wrong, user_home=tmp_path).state == "refused"
    assert swanlab_key.check(settings, {}, user_home=tmp_path).state == "away"


def test_key_of_a_login_is_a_secret_of_the_box(tmp_path: Path) -> None:
    login(tmp_path, "https://h")
    assert KEY in known_secrets({}, user_home=tmp_path)


def test_doctor_says_nothing_where_there_is_no_key(tmp_path: Path) -> None:
    shell = {"HOME": str(tmp_path), "PI0Q_HOME": str(tmp_path / "data"), "PATH": os.environ["PATH"]}
    assert list(hub.swanlab(check_target(Machine(env=shell), box=True))) == []
    with StandInSwanLab() as standin:
        standin.keys[KEY] = "ada"
        shell |= {"SWANLAB_API_HOST": standin.url, "SWANLAB_API_KEY": KEY}
        (good,) = hub.swanlab(check_target(Machine(env=shell), box=True))
        (bad,) = hub.swanlab(check_target(Machine(env=shell | {"SWANLAB_API_KEY": "bad"}), box=True))
    assert (good.status, good.detail) == (Status.OK, "SwanLab knows it as ada")
    assert bad.status is Status.WARNING and bad.cure.startswith("swanlab login")

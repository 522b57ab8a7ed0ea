"""The look at the Hub while a job is submitted, before a stand-in Hub."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.jobs.dataset import DatasetInfo
from pi0q.queue import hub_lookup
from pi0q.queue.hub_lookup import RememberedAnswers
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from tests.conftest import Command
from tests.standin_hub import TOKEN, Fault, StandInHub

INFO = {"codebase_version": "v3.0", "total_episodes": 4, "features": {}}
JOB = "train: {{dataset: {{repo_id: you/box{more}}}, policy: {{type: act}}, steps: 5}}"


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        yield hub


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub that is slow to answer is this machine's."""
    monkeypatch.setattr(hub_lookup, "PATIENCE_SECONDS", 60.0)


def submit(call: Command, hub: StandInHub, more: str = "", *args: str, **env: str) -> tuple[int, str, str]:
    asked = {"HF_HUB_OFFLINE": "", "PI0Q_HF_ENDPOINT": hub.url, **env}
    answer = call("submit", "-", *args, stdin=JOB.format(more=more), **asked)
    return answer.returncode, answer.stdout, answer.stderr


def commit(hub: StandInHub, version: str) -> None:
    told = json.dumps({**INFO, "codebase_version": version}).encode()
    hub.commit("dataset", "you/box", {"meta/info.json": told}, refs=("main",))


def test_a_good_dataset_is_worth_no_word(call: Command, hub: StandInHub) -> None:
    commit(hub, "v3.0")
    code, out, err = submit(call, hub)
    assert (code, err) == (0, "") and out.startswith("Queued ")
    assert [one.path for one in hub.requests] == [
        "/datasets/you/box/resolve/v3.0/meta/info.json",
        "/datasets/you/box/resolve/main/meta/info.json",
    ]


def test_what_no_box_could_train_is_not_queued(call: Command, hub: StandInHub, store: Store) -> None:
    commit(hub, "v2.1")
    code, _, err = submit(call, hub)
    assert code == 2 and "nothing was queued" in err and "convert_dataset_v21_to_v30 --repo-id=you/box" in err
    assert submit(call, hub, ", episodes: [9]", "--dry-run")[0] == 2
    assert store.waiting() == []


def test_a_dataset_that_is_not_there_for_us_may_be_for_a_box(call: Command, hub: StandInHub) -> None:
    code, out, err = submit(call, hub)
    assert code == 0 and out.startswith("Queued ")
    assert "shows this machine no dataset you/box (HTTP 401)" in err


def test_our_own_token_is_shown_to_the_hub_alone(call: Command, hub: StandInHub) -> None:
    commit(hub, "v3.0")
    assert submit(call, hub, HF_TOKEN=TOKEN)[0] == 0
    assert hub.tokens() == {f"Bearer {TOKEN}"}


def test_a_mirror_is_asked_instead_and_never_shown_the_token(call: Command, hub: StandInHub) -> None:
    commit(hub, "v2.1")
    with hub.mirror() as mirror:
        assert submit(call, hub, PI0Q_HF_MIRROR=mirror.url, HF_TOKEN=TOKEN)[0] == 2
        assert mirror.requests and mirror.tokens() == set() and hub.requests == []


def test_a_hub_that_is_silent_or_ill_holds_nothing_up(
    call: Command, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(hub, "v2.1")
    monkeypatch.setattr(hub_lookup, "PATIENCE_SECONDS", 0.2)
    hub.faults.append(Fault(path="/resolve/", part=0.5, halfway=threading.Event()))
    assert submit(call, hub)[::2] == (0, "")
    hub.faults[0].resume.set()
    hub.faults[:] = [Fault(path="/resolve/", status=503)]
    assert submit(call, hub, "", "--again")[::2] == (0, "")


@pytest.mark.parametrize("odd", [b"[" * 100_000, b'{"features": {"a": {"dtype": []}}}', b"<html>"])
def test_whatever_the_hub_says_of_a_dataset_ends_in_no_traceback(odd: bytes, call: Command, hub: StandInHub) -> None:
    hub.commit("dataset", "you/box", {"meta/info.json": odd}, refs=("main",))
    assert submit(call, hub)[::2] == (0, "")


def test_what_answers_may_be_no_web_server(call: Command, hub: StandInHub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=greet, args=(other,), daemon=True).start()
        address = f"http://127.0.0.1:{other.getsockname()[1]}"
        assert submit(call, hub, PI0Q_HF_ENDPOINT=address)[::2] == (0, "")


def greet(listening: socket.socket) -> None:
    """As a mail server does."""
    with listening.accept()[0] as caller:
        caller.recv(4096)
        caller.sendall(b"220 mail.example ESMTP\r\n")


def test_a_dataset_of_the_box_is_not_asked_for(call: Command, hub: StandInHub) -> None:
    assert submit(call, hub, ", root: datasets/d")[0] == 0
    assert hub.requests == []


# -- what is remembered -------------------------------------------------------------------------------


def test_a_good_answer_is_asked_for_once(call: Command, hub: StandInHub, chosen: Settings) -> None:
    commit(hub, "v3.0")
    assert [submit(call, hub, "", "--again")[0] for _ in range(3)] == [0, 0, 0]
    assert len(hub.requests) == 2
    (remembered,) = chosen.home.glob("hub_answers.json")
    assert remembered.stat().st_mode & 0o777 == 0o600


def test_another_revision_or_hub_is_asked_anew(call: Command, hub: StandInHub) -> None:
    commit(hub, "v3.0")
    submit(call, hub)
    submit(call, hub, ", revision: main", "--again")
    assert len(hub.requests) == 3
    with hub.mirror() as mirror:
        submit(call, hub, "", "--again", PI0Q_HF_MIRROR=mirror.url)
        assert mirror.requests


def test_a_fault_is_never_remembered_and_a_remembered_answer_makes_none(call: Command, hub: StandInHub) -> None:
    commit(hub, "v2.1")
    assert submit(call, hub)[0] == 2
    commit(hub, "v3.0")
    assert submit(call, hub)[0] == 0
    # By the remembered answer it has four episodes; it has grown since.
    grown = json.dumps({**INFO, "total_episodes": 20}).encode()
    hub.commit("dataset", "you/box", {"meta/info.json": grown}, refs=("main",))
    assert submit(call, hub, ", episodes: [9]")[0] == 0


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', '{"x": [1e12, {}]}', "[" * 10_000])
def test_a_damaged_memory_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "hub_answers.json"
    path.write_text(text)
    answers = RememberedAnswers(path, now=1e9)
    assert answers.get("x") is None
    info = DatasetInfo(format="v3.0", episodes=4, videos=False, frame_bytes=0)
    answers.keep({"y": info})
    assert RememberedAnswers(path, now=1e9 + 599).get("y") == info
    assert RememberedAnswers(path, now=1e9 + 600).get("y") is None


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answers = RememberedAnswers(tmp_path / "file" / "hub_answers.json", now=1e9)
    answers.keep({"y": DatasetInfo(format="v3.0", episodes=4, videos=False, frame_bytes=0)})

"""The look at the Hub while a job is submitted, before a stand-in Hub."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from pi0q.queue import look
from pi0q.queue.store import Store

from ..conftest import Command
from ..standin_hub import TOKEN, Fault, StandInHub

INFO = {"codebase_version": "v3.0", "total_episodes": 4, "features": {}}
JOB = "train: {{dataset: {{repo_id: you/box{more}}}, policy: {{type: act}}, steps: 5}}"


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        yield hub


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub that is slow to answer is this machine's."""
    monkeypatch.setattr(look, "PATIENCE_SECONDS", 60.0)


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
    monkeypatch.setattr(look, "PATIENCE_SECONDS", 0.2)
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

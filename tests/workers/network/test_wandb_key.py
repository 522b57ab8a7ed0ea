"""WandB's key goes to WandB, and to nobody that it is sent on to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pi0q.queue.settings import Settings
from pi0q.workers.network import wandb_key
from pi0q.workers.network.wandb_key import WandB
from tests.standin_hub import StandInProxy
from tests.workers.standin_wandb import StandInWandB

Asked = list[tuple[str, str | None]]


@pytest.fixture
def portal() -> Iterator[tuple[str, Asked]]:
    """A server that sends everyone on to another path of its own, and whom it saw: path and key."""
    asked: Asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(302 if self.path == "/graphql" else 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_whoever_answers_in_wandbs_place_gets_the_key_no_further(portal: tuple[str, Asked], tmp_path: Path) -> None:
    url, asked = portal
    env = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "k" * 40}
    assert wandb_key.wandb(Settings(home=tmp_path), env, user_home=tmp_path).state == "away"
    assert [path for path, _ in asked] == ["/graphql"]


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "http_proxy"])
def test_the_key_check_goes_through_the_boxs_proxy(name: str, tmp_path: Path) -> None:
    # 127.0.0.1 is in every `no_proxy`.
    with StandInWandB(host="127.0.0.3") as wandb, StandInProxy() as proxy:
        wandb.keys["k" * 40] = "ada"
        env = {"WANDB_BASE_URL": wandb.url, "WANDB_API_KEY": "k" * 40, name: proxy.url}
        answer = wandb_key.wandb(Settings(home=tmp_path), env, user_home=tmp_path)
        assert answer == WandB(state="ok", user="ada", host="127.0.0.3")
        assert proxy.asked == [f"{wandb.url}/graphql"]


def test_the_key_check_goes_past_a_proxy_that_no_proxy_excepts(tmp_path: Path) -> None:
    with StandInWandB(host="127.0.0.3") as wandb, StandInProxy() as proxy:
        wandb.keys["k" * 40] = "ada"
        env = {"WANDB_BASE_URL": wandb.url, "WANDB_API_KEY": "k" * 40, "ALL_PROXY": proxy.url, "NO_PROXY": "127.0.0.3"}
        assert wandb_key.wandb(Settings(home=tmp_path), env, user_home=tmp_path).state == "ok"
        assert proxy.asked == []

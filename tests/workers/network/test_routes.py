"""Ways to the Hub: what the turbo file says, what goes where, and which way is taken."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pi0q.queue.settings import Settings
from pi0q.workers.network import roads
from pi0q.workers.network import routes as network
from pi0q.workers.network.routes import Route, Ways, completed, environment, hub_routes, own, parse_turbo, read_turbo
from tests.conftest import PATIENCE

#: As three people dumped it from their boxes.
TURBO = """export no_proxy=localhost,127.0.0.1,modelscope.com,aliyuncs.com,tencentyun.com,wisemodel.cn
export http_proxy=http://172.20.0.113:12798 && export https_proxy=http://172.20.0.113:12798
export REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
"""
PROXY = "http://172.20.0.113:12798"
TURBOED = {"http_proxy": PROXY, "https_proxy": PROXY, "no_proxy": "localhost,127.0.0.1,modelscope.com"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        hf_mirror="https://mirror.example",
        redis_url="rediss://:secret@queue.example:6380/0",
        network_turbo=tmp_path / "network_turbo",
    )


def test_the_turbo_file_is_read() -> None:
    assert parse_turbo(TURBO) == {
        "no_proxy": "localhost,127.0.0.1,modelscope.com,aliyuncs.com,tencentyun.com,wisemodel.cn",
        "http_proxy": PROXY,
        "https_proxy": PROXY,
        "REQUESTS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt",
        "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('export http_proxy="http://10.0.0.1:12798"; echo done', {"http_proxy": "http://10.0.0.1:12798"}),
        ("export http_proxy=http://p:1 https_proxy=http://p:1", {"http_proxy": "http://p:1", "https_proxy": "http://p:1"}),
        ("export http_proxy=http://p:1\nexport HTTPS_PROXY=$http_proxy", {"http_proxy": "http://p:1", "https_proxy": "http://p:1"}),
        ("  export\tall_proxy=socks5h://p:1 # why", {"all_proxy": "socks5h://p:1"}),
        ("export http_proxy=http://$(curl evil)", {}),
        ("export http_proxy=`id`", {}),
        ("export PATH=/tmp LD_PRELOAD=/tmp/x.so HF_TOKEN=x PYTHONPATH=/tmp", {}),
        ("http_proxy=http://p:1", {}),
        ("echo export http_proxy=http://p:1", {}),
        ("source /elsewhere && unset http_proxy", {}),
        ("export http_proxy='unclosed", {}),
        ("export SSL_CERT_FILE=relative.crt", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_only_exports_of_proxies_and_certificates_count(text: str, found: dict[str, str]) -> None:
    assert parse_turbo(text) == found


def test_the_file_is_never_run(tmp_path: Path) -> None:
    file = tmp_path / "turbo"
    file.write_text(f"touch {tmp_path}/ran\nexport http_proxy=$(touch {tmp_path}/ran)\nexport https_proxy=http://p:1\n")
    assert read_turbo(file) == {"https_proxy": "http://p:1"}
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_absent_binary_or_names_no_certificate_does_no_harm(tmp_path: Path) -> None:
    assert read_turbo(tmp_path / "absent") == {} == read_turbo(tmp_path)
    file = tmp_path / "turbo"
    file.write_bytes(b"\xff\x00" * 10 + b"\nexport http_proxy=http://p:1\nexport SSL_CERT_FILE=/no/such.crt\n")
    assert read_turbo(file) == {"http_proxy": "http://p:1"}


def test_no_proxy_is_completed_and_nothing_stands_there_twice() -> None:
    assert completed("localhost, a.example", ["a.example", "b.example", ""]) == (
        "localhost,a.example,127.0.0.1,::1,b.example"
    )


def test_what_a_shell_took_from_the_turbo_file_is_not_the_boxs_own() -> None:
    sourced = {"http_proxy": PROXY, "https_proxy": PROXY, "HTTPS_PROXY": "http://firm:8080"}
    assert own(sourced, {"http_proxy": PROXY}) == {"https_proxy": PROXY}
    assert own({"HTTPS_PROXY": "http://firm:8080"}, {}) == {"https_proxy": "http://firm:8080"}


def test_roads_are_taken_in_the_owners_order_and_no_token_goes_astray(settings: Settings) -> None:
    base = {"HF_TOKEN": "hf_x", "MODELSCOPE_API_TOKEN": "ms-x"}
    pytest.importorskip("modelscope_hub")
    chosen = replace(settings, roads=("modelscope", "hub", "mirror"))
    found = roads.roads(chosen, base, TURBOED)
    assert [route.name for route in found] == ["modelscope", "direct", "mirror"]
    envs = {route.name: route.environment(base) for route in found}
    assert [name for name, env in envs.items() if "hf_x" in env.values()] == ["direct"]
    assert [name for name, env in envs.items() if "ms-x" in env.values()] == ["modelscope"]
    # Where its client is not installed there is no such road.
    assert {route.name for route in roads.roads(settings, base, TURBOED)} >= {"mirror", "turbo", "direct"}


def test_the_mirror_is_reached_without_the_turbo_and_without_the_token(settings: Settings) -> None:
    base = {"HF_TOKEN": "hf_x", "HUGGING_FACE_HUB_TOKEN": "hf_x", "HF_TOKEN_PATH": "/t", "http_proxy": PROXY, "A": "b"}
    mirror, turbo, direct = hub_routes(settings, base, TURBOED)
    assert [route.name for route in (mirror, turbo, direct)] == ["mirror", "turbo", "direct"]

    env = mirror.environment(base)
    assert env["HF_ENDPOINT"] == "https://mirror.example"
    assert "hf_x" not in env.values() and env["HF_TOKEN_PATH"] == "/dev/null"
    assert (env["HF_HUB_DISABLE_IMPLICIT_TOKEN"], env["HF_HUB_DISABLE_XET"], env["A"]) == ("1", "1", "b")
    assert "http_proxy" not in env

    env = turbo.environment(base)
    assert (env["HF_ENDPOINT"], env["HF_TOKEN"]) == ("https://huggingface.co", "hf_x")
    assert env["http_proxy"] == env["HTTPS_PROXY"] == PROXY
    assert env["no_proxy"] == env["NO_PROXY"]
    assert env["no_proxy"].split(",")[-2:] == ["queue.example", "mirror.example"]

    assert "http_proxy" not in direct.environment(base) and direct.environment(base)["HF_TOKEN"] == "hf_x"


def test_the_boxs_own_proxy_serves_every_other_way(settings: Settings) -> None:
    base = {"https_proxy": "http://firm:8080"}
    mirror, direct = hub_routes(settings, base, {})
    assert mirror.environment(base)["https_proxy"] == direct.environment(base)["https_proxy"] == "http://firm:8080"
    assert "queue.example" in mirror.environment(base)["no_proxy"]
    assert "mirror.example" not in mirror.environment(base)["no_proxy"]


class Place:
    """Something that answers with one status, and counts."""

    def __init__(self, status: int = 200) -> None:
        self.asked: list[str] = []
        place = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                place.asked.append(self.path)
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Place]]:
    # They live in this very process, which may be kept waiting.
    monkeypatch.setattr(network, "PROBE_SECONDS", PATIENCE)
    opened: list[Place] = []
    yield opened
    for place in opened:
        place.close()


def place(places: list[Place], status: int = 200) -> Place:
    places.append(Place(status))
    return places[-1]


@pytest.fixture
def dead() -> Iterator[str]:
    """An address at which nothing answers, nor will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize(
    ("status", "good"), [(200, True), (401, True), (404, True), (302, True), (503, False), (407, False)]
)
def test_any_answer_but_a_broken_one_shows_a_way(places: list[Place], status: int, good: bool) -> None:
    assert network.answers_at(Route(name="direct", endpoint=place(places, status).url)) is good


def test_silence_is_no_answer(dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not network.answers_at(Route(name="direct", endpoint=dead))
    monkeypatch.setattr(network, "PROBE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert not network.answers_at(Route(name="direct", endpoint=f"http://127.0.0.1:{mute.getsockname()[1]}"))


def test_a_way_over_a_proxy_is_asked_over_it(places: list[Place], dead: str) -> None:
    proxy = place(places)
    over = Route(name="turbo", endpoint="http://hub.example", variables={"http_proxy": proxy.url})
    assert network.answers_at(over) and proxy.asked == ["http://hub.example/"]
    past = replace(over, endpoint=dead, variables={**over.variables, "no_proxy": "127.0.0.1"})
    assert not network.answers_at(past) and len(proxy.asked) == 1


@pytest.mark.parametrize("name", ["all_proxy", "http_proxy"])
def test_a_probe_takes_any_http_proxy_and_goes_past_socks(places: list[Place], dead: str, name: str) -> None:
    proxy, hub = place(places), place(places)
    over = Route(name="direct", endpoint="http://hub.example", variables={name: proxy.url})
    assert network.answers_at(over) and proxy.asked == ["http://hub.example/"]
    # urllib speaks no SOCKS; whether the host answers without it is all that can be known.
    past = Route(name="direct", endpoint=hub.url, variables={name: dead.replace("http", "socks5h")})
    assert network.answers_at(past) and hub.asked == ["/"]


def test_the_way_that_worked_is_remembered_until_it_fails(places: list[Place], dead: str, tmp_path: Path) -> None:
    a, b = place(places), place(places)
    ends = {"mirror": dead, "turbo": a.url, "direct": b.url}
    routes = [Route(name=name, endpoint=end) for name, end in ends.items()]
    here = Ways("hub", routes, tmp_path)
    assert [route.name for route in here.order()] == ["turbo", "direct"]
    here.remember(routes[2])

    anew = Ways("hub", routes, tmp_path)
    asked = len(a.asked), len(b.asked)
    assert [route.name for route in anew.order()] == ["direct", "mirror", "turbo"]
    assert (len(a.asked), len(b.asked)) == asked, "a known way is not probed before it is taken"

    anew.forget(routes[0])
    assert anew.order()[0].name == "direct", "another way's failure says nothing of this one"
    anew.forget(routes[2])
    assert [route.name for route in anew.order()] == ["turbo", "direct"]


def test_the_remembered_way_is_left_when_it_no_longer_answers(places: list[Place], dead: str, tmp_path: Path) -> None:
    routes = [Route(name="turbo", endpoint=dead), Route(name="direct", endpoint=place(places).url)]
    here = Ways("wandb", routes, tmp_path)
    here.remember(routes[0])
    assert here.best().name == "direct"
    assert here.order()[0].name == "direct"


def test_a_damaged_memory_is_none(tmp_path: Path, places: list[Place], dead: str) -> None:
    (tmp_path / "network.json").write_text("[")
    routes = [Route(name="turbo", endpoint=dead), Route(name="direct", endpoint=place(places).url)]
    assert Ways("hub", routes, tmp_path).best().name == "direct"


def test_where_there_is_one_way_nothing_is_asked_or_written(tmp_path: Path, places: list[Place]) -> None:
    only = place(places)
    here = Ways("hub", [Route(name="direct", endpoint=only.url)], tmp_path)
    here.remember(here.best())
    assert not only.asked and not list(tmp_path.iterdir())


def in_reach(monkeypatch: pytest.MonkeyPatch, settings: Settings, **reach: bool) -> None:
    """As if just these pairs `place_way` answered."""
    hosts = {"hub": settings.hf_endpoint, "mirror": settings.hf_mirror, "wandb": network.WANDB}
    good = {(hosts[pair.partition("_")[0]], pair.partition("_")[2]) for pair, here in reach.items() if here}

    def answers(route: Route) -> bool:
        return (route.endpoint, route.name) in good

    monkeypatch.setattr(network, "answers_at", answers)


def env_for(settings: Settings, *places: str, base: Mapping[str, str] = {}) -> dict[str, str]:
    return environment(places, {"HF_TOKEN": "hf_x", **base}, settings)


def test_a_trainer_gets_the_proxy_for_just_what_needs_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.network_turbo.write_text(TURBO)
    in_reach(monkeypatch, settings, hub_turbo=True, wandb_direct=True)
    env = env_for(settings, "hub", "wandb")
    assert env["https_proxy"] == PROXY and env["HF_TOKEN"] == "hf_x"
    assert {"api.wandb.ai", "queue.example", "mirror.example"} <= set(env["NO_PROXY"].split(","))
    assert "https_proxy" not in env_for(settings, "wandb")
    assert "https_proxy" not in env_for(settings, base={"https_proxy": PROXY})


def test_a_child_of_the_hub_asks_the_hub_itself_whatever_hf_endpoint_says(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_reach(monkeypatch, settings, hub_direct=True, mirror_mirror=True)
    env = env_for(settings, "hub", base={"HF_ENDPOINT": settings.hf_mirror})
    assert (env["HF_ENDPOINT"], env["HF_TOKEN"]) == (settings.hf_endpoint, "hf_x")


def test_where_only_the_mirror_answers_it_is_asked_without_the_token(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_reach(monkeypatch, settings, mirror_mirror=True)
    env = env_for(settings, "files")
    assert env["HF_ENDPOINT"] == settings.hf_mirror and "hf_x" not in env.values()
    # What is pushed after a day goes to the Hub, which may be back by then.
    env = env_for(settings, "hub")
    assert (env["HF_ENDPOINT"], env["HF_TOKEN"]) == (settings.hf_endpoint, "hf_x")

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from pi0q.jobs.errors import UsageError
from pi0q.ops.local import server as servers
from pi0q.queue import connection, resp_client, resp_protocol
from pi0q.queue.resp_client import Address, RespClient
from pi0q.queue.resp_protocol import CommandRefused, ConnectionLost, NoAnswer, RespError
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.store_reads import StoreReads
from pi0q.queue.user_store import UserStore

from ..conftest import JobDriver


@pytest.fixture
def small(server: servers.Server) -> Iterator[RespClient]:
    client = connection.connect_briefly(Settings(redis_url=server.url))
    assert isinstance(client, RespClient)
    with contextlib.closing(client):
        yield client


@pytest.fixture
def reader(small: RespClient, store: Store) -> StoreReads:
    return StoreReads(small, store.prefix)


class Impostor:
    """A server that says to each connection what it was given, and hears whatever comes."""

    def __init__(self, *answers: bytes) -> None:
        self.answers, self.connections = list(answers), 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        for answer in self.answers:
            with self.listening.accept()[0] as connection:
                self.connections += 1
                connection.recv(1 << 16)
                with contextlib.suppress(OSError):
                    connection.sendall(answer)
        self.listening.close()

    def client(self) -> RespClient:
        port = self.listening.getsockname()[1]
        return RespClient(Address(b"127.0.0.1", port, "", "", "", 0), timeout=2.0)


@pytest.fixture
def impostor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Impostor]]:
    monkeypatch.setattr(resp_client, "PAUSES", (0.0,))
    made: list[Impostor] = []

    def start(*answers: bytes) -> Impostor:
        made.append(Impostor(*answers))
        return made[-1]

    yield start
    for one in made:
        one.thread.join(10)
        assert not one.thread.is_alive()


# -- the same answers as redis-py's ---------------------------------------------------------------


def test_reads_answer_what_they_answer_with_redis_py(store: Store, reader: StoreReads, driver: JobDriver) -> None:
    running, queued = driver.submit("抓盒子"), driver.submit("other", priority="high")
    epoch = driver.run(running)
    driver.report(running, epoch, log="step 1\nstep 2 é\n", step=2)
    store.announce_box("box-a", "id-a", {"gpus": "[]", "status": "ready"})
    assert reader.get(running) == store.get(running)
    assert reader.raw(queued) == store.raw(queued)
    assert reader.page().jobs == store.page().jobs and reader.page(live=1).counts == store.page().counts
    assert reader.waiting() == store.waiting()
    assert reader.owned("box-a") == store.owned("box-a") != []
    assert reader.tail(running) == store.tail(running)
    assert [reader.resolve(word) for word in ("抓盒子", queued[:5])] == [running, queued]
    driver.submit("other")
    with pytest.raises(UsageError, match="could mean 2 jobs"):
        reader.resolve("other")
    (box,), (same,) = store.boxes(), reader.boxes()
    assert box | {"seen_seconds": ""} == same | {"seen_seconds": ""}
    assert abs(reader.now_ms() - store.now_ms()) < 10_000
    assert reader.claim_holdoff_seconds() == 0.0


def test_a_submit_through_it_is_the_same_submit(store: Store, small: RespClient) -> None:
    fields = {"id": "abc123abc123", "name": "n", "priority": "normal", "queue": "jobs", "message": "{}", "spec": {}}
    through = UserStore(small, store.prefix)
    assert through.submit("abc123abc123", fields, text="submitted") == "abc123abc123"
    assert through.submit("abc123abc123", fields, text="sent twice") == "abc123abc123"
    assert [event.text for event in store.get("abc123abc123").history] == ["submitted"]
    assert through.durable()


def test_a_script_that_the_server_does_not_know_is_sent(small: RespClient, store: Store) -> None:
    text = f"return {{ARGV[1], '{store.prefix}'}}"
    run = small.register_script(text)
    assert run(keys=[], args=["é"]) == ["é", store.prefix] == run(keys=[], args=["é"])


def test_text_that_is_no_utf8_does_not_end_us(small: RespClient, store: Store) -> None:
    store.client.set(store.prefix + "x", b"a\xffb")
    assert small.get(store.prefix + "x") == "a\ufffdb"
    assert small.get(store.prefix + "nothing") is None


def test_the_first_refusal_of_a_pipeline_is_raised_and_the_connection_stays_usable(
    small: RespClient, store: Store
) -> None:
    store.client.set(store.prefix + "x", "text")
    pipe = small.pipeline(transaction=False)
    pipe.get(store.prefix + "x")
    pipe.hgetall(store.prefix + "x")
    pipe.time()
    with pytest.raises(CommandRefused, match="wrong kind of value") as refused:
        pipe.execute()
    assert refused.value.code == "WRONGTYPE" and not refused.value.midway
    assert small.get(store.prefix + "x") == "text"


def test_a_server_closes_the_connection_between_two_commands(small: RespClient, store: Store) -> None:
    assert small.info("server")["redis_version"]
    store.client.client_kill_filter(_id=str(small.execute_command("CLIENT", "ID")))
    assert small.time()[0] > 0


# -- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address(b"localhost", 6379, "", "", "", 0)),
        ("redis://ada:p%40ss@host:7000/3", Address(b"host", 7000, "", "ada", "p@ss", 3)),
        ("redis://:only@[::1]:7000/?db=2", Address(b"::1", 7000, "", "", "only", 2)),
        ("redis://köln.example/0", Address(b"xn--kln-sna.example", 6379, "", "", "", 0)),
        ("unix:///run/a%20b.sock?db=1", Address(b"", 6379, "/run/a b.sock", "", "", 1)),
    ],
)
def test_an_address_is_read(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize("url", ["rediss://host/0", "redis://host/0?socket_timeout=3", "redis://host/0?protocol=3"])
def test_tls_and_options_are_left_to_redis_py(url: str) -> None:
    assert Address.parse(url) is None
    client = connection.connect_briefly(Settings(redis_url=url))
    assert isinstance(client, redis.Redis)
    client.close()


def test_user_password_and_database_are_told_to_the_server(server: servers.Server, store: Store) -> None:
    store.client.acl_setuser("small", enabled=True, passwords=["+p w"], keys=["*"], commands=["+get", "+select"])
    store.client.set(store.prefix + "x", "in database 0")
    try:
        client = connection.connect_briefly(Settings(redis_url=f"redis://small:p%20w@127.0.0.1:{server.port}/1"))
        assert isinstance(client, RespClient)
        with contextlib.closing(client):
            assert client.get(store.prefix + "x") is None
    finally:
        store.client.acl_deluser("small")


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        client = RespClient(Address(b"", 0, str(path), "", "", 0), timeout=2.0)
        answered = threading.Thread(target=lambda: _answer(listening, b"+PONG\r\n"))
        answered.start()
        with contextlib.closing(client):
            assert client.execute_command("PING") == "PONG"
        answered.join(10)


def _answer(listening: socket.socket, reply: bytes) -> None:
    with listening.accept()[0] as connection:
        connection.recv(1 << 16)
        connection.sendall(reply)


def test_no_socket_at_that_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resp_client, "PAUSES", (0.0,))
    with pytest.raises(ConnectionLost, match="No such file") as lost:
        RespClient(Address(b"", 0, str(tmp_path / "none"), "", "", 0), timeout=2.0).time()
    assert not lost.value.midway


# -- servers that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$99999999999\r\n",
        b"$5\r\nab",
        b"$x\r\n",
        b"*999999999\r\n",
        b"*1\r\n" * 50,
        b"+" + b"x" * (70 << 10),
        b"",
    ],
    ids=["http", "too-large", "cut-off", "no-number", "too-many", "too-deep", "endless-line", "closed"],
)
def test_a_reply_that_is_none_ends_in_an_error_that_teaches(impostor: Callable[..., Impostor], answer: bytes) -> None:
    served = impostor(answer, answer)
    with pytest.raises(ConnectionLost) as lost, contextlib.closing(served.client()) as client:
        client.get("x")
    assert lost.value.midway and served.connections == 2
    word = "is a web server or an HTTP proxy" if answer.startswith(b"HTTP") else "can't be reached"
    assert word in str(connection.explain(lost.value, Settings()))


def test_replies_have_a_limit_in_all(impostor: Callable[..., Impostor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resp_protocol, "MOST_BYTES", 1000)
    many = b"*50\r\n" + (b"$100\r\n" + b"x" * 100 + b"\r\n") * 50
    with pytest.raises(ConnectionLost, match="too large"), contextlib.closing(impostor(many, many).client()) as client:
        client.get("x")


def test_an_answer_of_another_form_is_an_error_and_no_traceback(impostor: Callable[..., Impostor]) -> None:
    served = impostor(b"*1\r\n:1\r\n")
    with pytest.raises(RespError, match="another form"), contextlib.closing(served.client()) as client:
        client.hgetall("x")


def test_a_command_is_sent_again_after_a_lost_connection(impostor: Callable[..., Impostor]) -> None:
    with contextlib.closing(impostor(b"", b"$1\r\ny\r\n").client()) as client:
        assert client.get("x") == "y"


def test_a_silent_server_is_not_asked_twice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = RespClient(Address(b"127.0.0.1", deaf.getsockname()[1], "", "", "", 0), timeout=0.2)
        with pytest.raises(NoAnswer), contextlib.closing(client):
            client.time()
        deaf.accept()[0].close()
        deaf.setblocking(False)
        with pytest.raises(BlockingIOError):
            deaf.accept()

"""A link that is hurt in each of its ways, between a client and an echo that remembers what came."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.rig.cluster import wait
from tests.rig.link import Link

Dial = Callable[[], socket.socket]


class Echo:
    """Answers each byte with itself; a marked line tells who answers."""

    def __init__(self, mark: bytes = b"") -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.mark, self.came, self.closed = mark, bytearray(), 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=(self.listener.accept()[0],), daemon=True).start()

    def _answer(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError), line:
            while data := line.recv(65536):
                self.came += data
                line.sendall(self.mark + data)
        self.closed += 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.listener.close()


@pytest.fixture
def link(echo: Echo) -> Iterator[Link]:
    made = Link(f"redis://:secret@127.0.0.1:{echo.port}/0")
    yield made
    made.close()


@pytest.fixture
def dial(link: Link) -> Iterator[Dial]:
    lines: list[socket.socket] = []

    def dial() -> socket.socket:
        lines.append(socket.create_connection(("127.0.0.1", link.port), timeout=30))
        return lines[-1]

    yield dial
    for line in lines:
        line.close()


def answers(line: socket.socket, word: bytes) -> bytes:
    line.sendall(word)
    got = b""
    while len(got) < len(word):
        got += line.recv(65536)
    return got


def silent(line: socket.socket) -> bool:
    line.settimeout(0.2)
    try:
        return bool(line.recv(1)) and False
    except TimeoutError:
        return True
    finally:
        line.settimeout(30)


def test_it_passes_everything_on_under_its_own_address(link: Link, dial: Dial) -> None:
    assert link.url == f"redis://:secret@127.0.0.1:{link.port}/0"
    line = dial()
    assert answers(line, b"hello") == b"hello"
    much = bytes(range(256)) * 20000
    sender = threading.Thread(target=line.sendall, args=(much,))
    sender.start()
    got = b""
    while len(got) < len(much):
        got += line.recv(1 << 20)
    sender.join()
    assert got == much


def test_the_end_of_one_side_is_told_to_the_other(link: Link, echo: Echo, dial: Dial) -> None:
    dial().close()
    wait(lambda: echo.closed == 1, "the end of the connection")


def test_cut(link: Link, dial: Dial) -> None:
    line = dial()
    answers(line, b"a")
    link.cut()
    with pytest.raises(ConnectionResetError):
        line.recv(1)
    assert answers(dial(), b"b") == b"b"


def test_refuse(link: Link, dial: Dial) -> None:
    line = dial()
    answers(line, b"a")
    link.refuse()
    with pytest.raises(ConnectionResetError):
        line.recv(1)
    with pytest.raises(ConnectionRefusedError):
        dial()
    link.accept()
    assert answers(dial(), b"b") == b"b"


def test_hold_delays_and_loses_nothing(link: Link, echo: Echo, dial: Dial) -> None:
    line = dial()
    answers(line, b"a")
    link.hold()
    line.sendall(b"late")
    fresh = dial()
    fresh.sendall(b"new")
    assert silent(line) and silent(fresh) and bytes(echo.came) == b"a"
    link.heal()
    assert line.recv(4) == b"late" and fresh.recv(3) == b"new"


def test_swallow_is_half_open_and_what_lost_bytes_stays_dead(link: Link, echo: Echo, dial: Dial) -> None:
    line, idle = dial(), dial()
    answers(line, b"a")
    answers(idle, b"b")
    link.swallow()
    line.sendall(b"lost")
    fresh = dial()
    fresh.sendall(b"lost too")
    assert silent(line) and silent(fresh)
    fresh.close()
    link.heal()
    line.sendall(b"still")
    assert silent(line), "a stream with a hole must not go on"
    assert bytes(echo.came) == b"ab"
    assert answers(idle, b"c") == b"c", "who was silent meanwhile lost nothing"
    assert answers(dial(), b"d") == b"d"


def test_swallow_hides_the_end_of_a_connection(link: Link, echo: Echo, dial: Dial) -> None:
    line = dial()
    answers(line, b"a")
    link.swallow()
    line.close()
    other = dial()
    other.sendall(b"x")
    assert silent(other) and echo.closed == 0
    link.heal()
    wait(lambda: echo.closed >= 1, "the end, once the line is well")


def test_retarget(link: Link, dial: Dial) -> None:
    answers(line := dial(), b"a")
    second = Echo(mark=b"second:")
    link.retarget(second.port)
    with pytest.raises(ConnectionResetError):
        line.recv(1)
    assert answers(dial(), b"b").startswith(b"second:")
    second.listener.close()


def test_a_target_that_is_down_is_seen_as_a_broken_connection(link: Link, echo: Echo, dial: Dial) -> None:
    echo.listener.shutdown(socket.SHUT_RDWR)
    echo.listener.close()
    with pytest.raises(ConnectionResetError):
        dial().recv(1)

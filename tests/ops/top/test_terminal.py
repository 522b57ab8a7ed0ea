"""`pi0q top` as a process of its own on a real terminal: what it draws, hears and leaves behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from pi0q.jobs.state import State
from pi0q.ops.top import cli
from pi0q.queue.store import Store
from tests.conftest import AsRole, JobDriver
from tests.ops.top import top_fleet
from tests.rig.terminal import Terminal

Open = Callable[..., Terminal]


@pytest.fixture
def open_top(as_role: AsRole) -> Iterator[Open]:
    """Opens the page on a terminal of its own."""
    opened: list[Terminal] = []

    def open_top(columns: int, rows: int, **env: str) -> Terminal:
        # As somebody who may cancel: to a viewer the server refuses that.
        known = as_role(("cancel",), {}) | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | env
        opened.append(Terminal("top", env=known, columns=columns, rows=rows))
        return opened[-1]

    yield open_top
    for one in opened:
        one.close()


def test_page_is_read_resized_acted_on_and_left(open_top: Open, store: Store, driver: JobDriver) -> None:
    ids = top_fleet.build(store, driver)
    terminal = open_top(80, 24)
    page = terminal.until(lambda text: "act_urgent" in text and "0.312" in text)
    # Cards would be cut off on so few lines: a line a box.
    assert "autodl-1  ready" in page and "H100" not in page and "BOX" not in page
    terminal.press("b")
    terminal.until(lambda text: "0 H100 80GB HBM3" in text)
    terminal.resize(130, 50)
    wanted = ("BOX", "autodl-1:0", "spare  draining", "72/80 GiB", "no dataset")
    terminal.until(lambda text: all(words in text for words in wanted))
    terminal.press("/act_urg\r")
    terminal.until(lambda text: "filter: act_urg" in text and "pour_water" not in text.partition("STATE")[2])
    terminal.press("c")
    terminal.until(lambda text: "y cancels it" in text)
    terminal.press("y")
    terminal.until(lambda text: "cancelled" in text.partition("STATE")[2])
    assert store.get(ids["act_urgent"]).state is State.CANCELLED
    terminal.press("q")
    assert terminal.ended() == 0 and terminal.is_restored


@pytest.mark.parametrize(("leave", "code"), [("ctrl-c", 0), ("kill", 128 + signal.SIGTERM), ("hang up", 129)])
def test_terminal_is_as_before_however_the_page_ends(open_top: Open, leave: str, code: int) -> None:
    terminal = open_top(100, 30, NO_COLOR="1")
    terminal.until(lambda text: "no jobs" in text and "Quit" in text)
    if leave == "ctrl-c":
        terminal.press("/")
        terminal.until(lambda text: "Enter keeps it" in text)
        terminal.press("\x03")
    else:
        terminal.process.send_signal(signal.SIGTERM if leave == "kill" else signal.SIGHUP)
    assert terminal.ended() == code
    assert terminal.is_restored
    # Without colours: greys alone.
    assert b"\x1b[32m" not in terminal.written and b"38;5;2m" not in terminal.written


@pytest.mark.parametrize(
    ("term", "encoding", "lack"),
    [
        ("xterm-256color", "utf-8", ""),
        ("linux", "utf-8", ""),
        ("", "UTF-8", ""),
        ("dumb", "utf-8", "TERM=dumb"),
        ("xterm", "ascii", "ascii"),
        ("xterm", "iso8859-1", "iso8859-1"),
        ("xterm", "no_such", "no_such"),
    ],
)
def test_a_terminal_that_cannot_show_it_is_told_what_can(term: str, encoding: str, lack: str) -> None:
    told = cli.lack_of(term, encoding)
    assert lack in told and bool(told) is bool(lack) and ("Fix: " in told) is bool(lack)

"""`pi0q top`, by keys on a screen of text."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from pi0q.jobs.state import State
from pi0q.ops.top import panels
from pi0q.ops.top.app import Top
from pi0q.ops.top.dialogs import Confirm, JobScreen
from pi0q.queue.reading import views
from pi0q.queue.reading.values import CardView
from pi0q.queue.reading.watcher import StoreSource, Watcher
from pi0q.queue.store import Store
from tests.conftest import PATIENCE, Command, JobDriver
from tests.event_loop import run_apart
from tests.ops.top import top_fleet as fleet

Look = Callable[[Pilot[None]], Awaitable[None]]


@pytest.fixture
def ids(store: Store, driver: JobDriver) -> dict[str, str]:
    return fleet.build(store, driver)


@pytest.fixture
def watcher(store: Store) -> Iterator[Watcher]:
    one = Watcher(StoreSource(store, store, 60.0, live=50, ended=20))
    one.start()
    assert one.newer(0, PATIENCE).view is not None
    yield one
    one.stop()
    one.join(PATIENCE)


def played(watcher: Watcher, store: Store, look: Look, size: tuple[int, int] = (130, 40)) -> None:
    """Open the page, do something with it, and close it."""

    async def play() -> None:
        async with Top(watcher, store, user="ada@laptop").run_test(size=size) as pilot:
            await pilot.pause()
            await look(pilot)

    run_apart(play())


def text_of(pilot: Pilot[None]) -> str:
    """Return what the screen shows, as lines of text."""
    lines = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in lines)


async def until(pilot: Pilot[None], shown: Callable[[], object]) -> None:
    """Wait until the page shows something."""
    give_up = asyncio.get_running_loop().time() + PATIENCE
    while not shown():
        assert asyncio.get_running_loop().time() < give_up, text_of(pilot)
        await pilot.pause(0.02)


async def until_shown(pilot: Pilot[None], *words: str) -> None:
    """Wait until the page shows each of some texts: its parts are laid out one after the other."""
    await until(pilot, lambda: all(word in text_of(pilot) for word in words))


@pytest.mark.parametrize("size", [(80, 40), (130, 50)])
def test_page_shows_cards_jobs_and_reasons(
    watcher: Watcher, store: Store, ids: dict[str, str], size: tuple[int, int]
) -> None:
    async def look(pilot: Pilot[None]) -> None:
        await until_shown(pilot, "72/80 GiB", "74°C", "  3/80 GiB", "running", "act_urgent", "no_dataset", "62%")
        await until_shown(pilot, "saving", "5 running · 3 queued · 1 held", "3/4 boxes up")
        assert all(len(line) <= size[0] for line in text_of(pilot).splitlines())

    played(watcher, store, look, size)


def test_cursor_stays_on_its_job_while_the_queue_changes(
    watcher: Watcher, store: Store, ids: dict[str, str], driver: JobDriver
) -> None:
    async def look(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, Top)
        await until_shown(pilot, "act_urgent")
        await pilot.press(*["down"] * 6)
        chosen = app.selected
        assert chosen
        more = driver.submit("another", priority="urgent")
        await until(pilot, lambda: app.view and app.view.job(more) and "another" in text_of(pilot))
        assert app.selected == chosen

    played(watcher, store, look)


def test_filter_narrows_the_list_and_escape_ends_it(watcher: Watcher, store: Store, ids: dict[str, str]) -> None:
    async def look(pilot: Pilot[None]) -> None:
        table = pilot.app.screen.query_one("#jobs", DataTable)
        await until(pilot, lambda: table.row_count == len(ids))
        everything = table.row_count
        await pilot.press("slash", *"run lab", "enter")
        await until(pilot, lambda: table.row_count == 2)
        await until_shown(pilot, "filter: run lab")
        await pilot.press("escape")
        await until(pilot, lambda: table.row_count == everything)

    played(watcher, store, look)


def test_cancel_asks_first(watcher: Watcher, store: Store, ids: dict[str, str]) -> None:
    async def look(pilot: Pilot[None]) -> None:
        await until_shown(pilot, "act_urgent")
        await pilot.press("slash", *"act_urgent", "enter", "c")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await until_shown(pilot, ids["act_urgent"])
        await pilot.press("n")
        assert store.get(ids["act_urgent"]).state is State.QUEUED
        await pilot.press("c")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: store.get(ids["act_urgent"]).state is State.CANCELLED)

    played(watcher, store, look)
    assert store.get(ids["act_urgent"]).history[-1].text == "cancelled by ada@laptop"


def test_job_page_follows_its_log(watcher: Watcher, store: Store, ids: dict[str, str], driver: JobDriver) -> None:
    job = ids["grab_box_pi0_fmc3"]

    async def look(pilot: Pilot[None]) -> None:
        await until_shown(pilot, "grab_box")
        await pilot.press("slash", *"grab_box", "enter", "l")
        await until_shown(pilot, "step 31250 loss 0.312", "https://wandb.ai/lab/grab", "▁")
        driver.report(job, store.get(job).epoch, log="step 31300 \x1b[2Jloss 0.3\n", step=31_300)
        await until_shown(pilot, "step 31300 \\x1b[2Jloss 0.3")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, JobScreen))

    played(watcher, store, look)


def test_lost_link_is_told_and_the_last_picture_stays(
    watcher: Watcher, store: Store, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(pilot: Pilot[None]) -> None:
        def away(*_: object, **__: object) -> None:
            raise OSError("refused")

        await until_shown(pilot, "grab_box")
        monkeypatch.setattr(views, "read", away)
        await until_shown(pilot, "link away since", "grab_box")

    played(watcher, store, look)


def test_empty_queue_says_what_to_do(store: Store, watcher: Watcher) -> None:
    async def look(pilot: Pilot[None]) -> None:
        await until_shown(pilot, "No boxes yet")
        await pilot.press("c", "l", "q")
        assert pilot.app.query_one("#totals", Static)

    played(watcher, store, look)


def test_top_into_a_pipe_is_refused_with_a_fix(call: Command) -> None:
    answer = call("top")
    assert answer.returncode == 2 and "Fix: pi0q ls" in answer.stderr


# -- pictures ---------------------------------------------------------------------------------------


def test_bar_has_its_width_whatever_the_shares() -> None:
    for parts in ([], [2.0], [-1.0], [0.5, 0.7], [0.004], [0.2, 0.2, 0.2]):
        assert len(panels.bar([(share, "█", "") for share in parts], 12).plain) == 12
    assert panels.bar([(0.5, "█", ""), (0.25, "▒", "")], 8).plain == "████▒▒░░"


def test_sparkline_shows_gaps_and_bears_one_value() -> None:
    assert panels.sparkline([1.0, None, 2.0, float("nan")], 8) == "▁ █ "
    assert panels.sparkline([float(10 - at) for at in range(10)], 4)[0] == "█", "it shows the whole curve"
    assert panels.sparkline([3.0], 8) == "▁" and panels.sparkline([], 8) == "" == panels.sparkline([None], 8)


def test_columns_fit_their_screen() -> None:
    for width in (60, 80, 130, 200):
        assert sum(cells + panels.GAP for cells in panels.columns(width).values()) <= max(width, 74)


@pytest.mark.parametrize(("width", "told"), [(80, "0 H100 80G (sim)"), (130, "0 H100 80GB (simulated) ")])
def test_a_simulated_card_is_told_as_such(width: int, told: str) -> None:
    card = CardView(
        box="a", number=0, uuid="", name="NVIDIA H100 80GB", total_mib=81920, used_mib=0, promised_mib=0,
        free_mib=81920, utilisation=None, temperature=None, simulated=True, jobs=(),
    )  # fmt: skip
    assert told in panels.card_line(card, {}, width).plain

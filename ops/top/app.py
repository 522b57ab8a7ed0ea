"""`pi0q top`: the fleet on one live page of a terminal."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, cast

from rich.console import Group
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import DataTable, Footer, Input, Static

from pi0q.jobs.errors import NotFound
from pi0q.jobs.printable import printable
from pi0q.jobs.state import ENDED
from pi0q.ops.top import panels
from pi0q.ops.top.dialogs import Confirm, JobScreen
from pi0q.ops.top.panels import Losses
from pi0q.queue import stored_curves
from pi0q.queue.reading.values import FleetView, JobView
from pi0q.queue.reading.watcher import Watcher

if TYPE_CHECKING:
    from pi0q.queue.store import Store

#: Points of a loss curve that are read for a list, and for a job's own page.
SMALL, LARGE = 8, 120
#: Seconds between two reads of the curves in the list.
CURVE_SECONDS = 5.0
#: How much of the screen the boxes take at most, as #fleet below says.
FLEET_SHARE = 0.45


class FleetChanged(Message):
    """The watcher has a newer state."""


class Top(App[None]):
    """The page. Reads come from the watcher and from threads; nothing here waits for the server."""

    TITLE = "pi0q top"
    CSS = """
    #totals { height: 1; padding: 0 1; background: $primary-background; }
    #fleet { height: auto; max-height: 45%; padding: 0 1; border-bottom: solid $primary; }
    #jobs { height: 1fr; }
    #selected { height: 3; padding: 0 1; border-top: solid $primary; }
    #filter { display: none; dock: bottom; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        # Before whatever has the focus: the letters that are typed after it are no keys of the list.
        Binding("slash", "filter", "Filter", priority=True),
        Binding("escape", "all", "All jobs", show=False),
        Binding("enter,l", "job", "Job and log"),
        Binding("c", "cancel", "Cancel job"),
        Binding("b", "boxes", "Cards"),
        Binding("q", "quit", "Quit"),
        # A terminal's own key; also where a question is open or a filter is typed.
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, watcher: Watcher, store: Store, *, user: str) -> None:
        """`user`: who cancels, for the job's history."""
        super().__init__()
        self._watcher, self._store, self._user = watcher, store, user
        self._pattern = ""
        #: A few losses of each running job, by id.
        self.losses: Mapping[str, Losses] = {}
        self._losses_at = -CURVE_SECONDS
        #: Whether each box shows its cards, and what its user asked: None for where they fit.
        self._cards, self._asked_cards = True, cast("bool | None", None)
        #: Titles of the table's columns.
        self._shown: dict[str, int] = {}

    def compose(self) -> ComposeResult:
        yield Static(id="totals")
        with VerticalScroll(id="fleet", can_focus=False):
            yield Static(id="boxes")
        yield DataTable[Text](id="jobs", cursor_type="row", zebra_stripes=False)
        yield Static(id="selected")
        yield Input(id="filter", placeholder="words: name, user, box, state; Enter keeps it, Escape shows all jobs")
        yield Footer()

    def on_mount(self) -> None:
        """Listen to the watcher; each second the age of everything has changed, too."""
        self._leave = self._watcher.listen(self._tell)
        # Killed, or its terminal closed: leave the terminal as it was. Only the main thread hears signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, self.exit, None, 128 + number)
        self.query_one("#jobs", DataTable).focus()
        self.set_interval(1.0, self.refresh_page)
        self.refresh_page()

    def _tell(self) -> None:
        """Tell the page of a new state; called in the watcher's thread."""
        self.post_message(FleetChanged())

    def on_unmount(self) -> None:
        self._leave()

    def on_fleet_changed(self) -> None:
        """Show the newest state; whatever came before it is passed over."""
        self.refresh_page()
        self._read_curves()

    def on_resize(self) -> None:
        self.refresh_page()

    @property
    def _is_open(self) -> bool:
        """Return whether the page has its parts: a last message may come while it closes."""
        return bool(self.screen_stack) and bool(self.screen_stack[0].query("#selected"))

    # -- the picture ------------------------------------------------------------------------------

    @property
    def view(self) -> FleetView | None:
        """Return the newest view of the fleet; None before the first."""
        return self._watcher.state.view

    def refresh_page(self) -> None:
        """Draw everything from the newest view."""
        if not self._is_open:
            return
        base, state = self.screen_stack[0], self._watcher.state
        away = None if state.away_since is None else max(0.0, time.monotonic() - state.away_since)
        base.query_one("#totals", Static).update(panels.totals(state.view, away, self._pattern))
        if state.view is None:
            return
        width = self.size.width
        base.query_one("#boxes", Static).update(Group(*self._boxes(state.view, width - 4)))
        self._fill(base.query_one("#jobs", DataTable), state.view, width)
        if isinstance(self.screen, JobScreen):
            self._read_job(self.screen.job_id)

    def _boxes(self, view: FleetView, width: int) -> list[Text]:
        """Return the boxes with their cards, or a line a box where these would be cut off and nobody asked for them."""
        lines = panels.fleet_lines(view, width)
        if self._asked_cards is None:
            self._cards = len(lines) <= FLEET_SHARE * self.size.height
        return lines if self._cards else panels.fleet_lines(view, width, cards=False)

    def _fill(self, table: DataTable[Text], view: FleetView, width: int) -> None:
        """Fill the table anew; cursor and scroll stay where they are."""
        chosen, at, scroll = self.selected, table.cursor_row, table.scroll_y
        columns = panels.columns(width)
        if columns != self._shown:
            table.clear(columns=True)
            for title, cells in columns.items():
                table.add_column(title, width=cells)
            self._shown = columns
        jobs = [job for job in view.jobs if panels.matches(job, self._pattern)]
        table.clear()
        for job in jobs:
            table.add_row(*panels.cells(job, view.now_ms, self.losses.get(job.id, ()), width), key=job.id)
        places = {job.id: place for place, job in enumerate(jobs)}
        if jobs:
            table.move_cursor(row=places.get(chosen or "", min(at, len(jobs) - 1)), scroll=False)
            table.scroll_to(y=scroll, animate=False)
        self._show_selected()

    def _show_selected(self) -> None:
        if not self._is_open:
            return
        job = self.view.job(self.selected or "") if self.view else None
        line = panels.selected_line(job, self.view.now_ms, 2 * self.size.width - 12) if job and self.view else Text("")
        self.screen_stack[0].query_one("#selected", Static).update(line)

    @property
    def selected(self) -> str | None:
        """Return the id of the job under the cursor, or whose page is open."""
        if isinstance(self.screen, JobScreen):
            return self.screen.job_id
        table = self.screen_stack[0].query_one("#jobs", DataTable)
        if not table.is_valid_row_index(table.cursor_row):
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    # -- what is read besides the view ------------------------------------------------------------

    @work(thread=True, exclusive=True, group="curves", exit_on_error=False)
    def _read_curves(self) -> None:
        now = time.monotonic()
        if self.view is None or now - self._losses_at < CURVE_SECONDS:
            return
        self._losses_at = now
        ids = [job.id for job in self.view.running]
        self.losses = stored_curves.losses(self._store, ids, SMALL)

    @work(thread=True, exclusive=True, group="job", exit_on_error=False)
    def _read_job(self, job_id: str) -> None:
        view = self.view
        job = view.job(job_id) if view else None
        if view is None or job is None:
            return
        losses = stored_curves.losses(self._store, [job_id], LARGE).get(job_id, ())
        text = printable(self._store.tail(job_id)[0])
        self.call_from_thread(self._show_job, job, view.now_ms, losses, text)

    def _show_job(self, job: JobView, now_ms: int, losses: Losses, text: str) -> None:
        if isinstance(self.screen, JobScreen) and self.screen.job_id == job.id and self.screen.query("#text"):
            self.screen.show(job, now_ms, losses, text)

    @work(thread=True, group="cancel", exit_on_error=False)
    def _cancel(self, job: JobView) -> None:
        try:
            state = self._store.cancel(job.id, text=f"cancelled by {self._user}")
        except NotFound:
            self.notify(f"{job.name} is gone.", severity="warning")
        except Exception as error:  # redis-py's, while the server is away
            self.notify(f"Nothing was changed: {error}", severity="error", markup=False)
        else:
            told = "is cancelled" if state in ENDED else "is stopping"
            self.notify(f"{job.name} {told}.", markup=False)

    # -- keys -------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Ask for a filter."""
        asked = self.query_one("#filter", Input)
        asked.value, asked.display = self._pattern, True
        self.screen.set_focus(asked)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Return whether a key acts now: in the filter and on a job's page `/` is a sign like others."""
        return action != "filter" or (len(self.screen_stack) == 1 and not isinstance(self.focused, Input))

    def action_boxes(self) -> None:
        """Show the cards of each box, or a line a box."""
        self._cards = self._asked_cards = not self._cards
        self.refresh_page()

    def action_all(self) -> None:
        """Show all jobs again."""
        self._filtered("")

    def on_input_changed(self, event: Input.Changed) -> None:
        self._pattern = event.value
        self.refresh_page()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._filtered(event.value)

    def _filtered(self, pattern: str) -> None:
        self._pattern = pattern
        asked = self.query_one("#filter", Input)
        asked.value, asked.display = pattern, False
        self.screen.set_focus(self.query_one("#jobs", DataTable))
        self.refresh_page()

    def on_data_table_row_highlighted(self) -> None:
        self._show_selected()

    def on_data_table_row_selected(self) -> None:
        """Open the job's page: Enter is the table's own key."""
        self.action_job()

    def action_job(self) -> None:
        """Open the page of the job under the cursor."""
        if (job_id := self.selected) and not isinstance(self.screen, JobScreen):
            self.push_screen(JobScreen(job_id))
            self.call_after_refresh(self.refresh_page)

    def action_cancel(self) -> None:
        """Ask, then cancel the job under the cursor."""
        job = self.view.job(self.selected or "") if self.view else None
        if job is None:
            return
        if job.state in ENDED:
            self.notify(f"{job.name} has ended; nothing was changed.", markup=False)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._cancel(job)

        self.push_screen(Confirm(job), answered)

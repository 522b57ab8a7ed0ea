"""`pi0q top`: the fleet on one live page of a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from rich.console import Group
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from pi0q.jobs.errors import NotFound
from pi0q.jobs.printable import printable
from pi0q.jobs.state import ENDED
from pi0q.ops.top import panels
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
#: Lines of log on a job's own page.
LOG_LINES = 200


class FleetChanged(Message):
    """The watcher has a newer state."""


class Confirm(ModalScreen[bool]):
    """Asks before a job is cancelled."""

    DEFAULT_CSS = """
    Confirm { align: center middle; }
    Confirm > Static { width: 60; height: auto; border: round $error; padding: 1 2; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Cancel it"),
        Binding("n,escape,q", "answer(False)", "Leave it"),
    ]

    def __init__(self, job: JobView) -> None:
        super().__init__()
        self._job = job

    def compose(self) -> ComposeResult:
        job = self._job
        stops = "its box stops it and frees its cards; what it saved stays." if job.box else "it leaves the queue."
        yield Static(
            Text.assemble("Cancel ", (job.name, "bold"), f" ({job.id}) for good?\n\n{stops}\n\n", ("y", "bold red"),
                          " cancels it   ", ("n", "bold"), " leaves it")
        )  # fmt: skip

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class JobScreen(ModalScreen[None]):
    """One job: how far it is, its loss, the end of its log; it follows both."""

    DEFAULT_CSS = """
    JobScreen { background: $surface; }
    JobScreen #facts { height: auto; padding: 0 1; border-bottom: solid $primary; }
    JobScreen #log { padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,l,enter", "close", "Back"),
        Binding("c", "app.cancel", "Cancel job"),
    ]

    def __init__(self, job_id: str) -> None:
        super().__init__()
        self.job_id = job_id

    def compose(self) -> ComposeResult:
        yield Static(id="facts")
        with VerticalScroll(id="log"):
            yield Static(id="text")
        yield Footer()

    def show(self, job: JobView, now_ms: int, losses: Losses, log: str) -> None:
        """Show the job as it is now; the log's view stays at its end unless its user scrolled up."""
        self.query_one("#facts", Static).update(Group(*panels.facts(job, now_ms, losses, self.size.width)))
        place = self.query_one("#log", VerticalScroll)
        follows = place.scroll_offset.y >= place.max_scroll_y - 1
        lines = log.splitlines()[-LOG_LINES:]
        self.query_one("#text", Static).update(Text("\n".join(lines) or "No log yet."))
        if follows:
            place.scroll_end(animate=False)

    def action_close(self) -> None:
        self.dismiss()


class Top(App[None]):
    """The page. Reads come from the watcher and from threads; nothing here waits for the server."""

    TITLE = "pi0q top"
    CSS = """
    #totals { height: 1; padding: 0 1; background: $primary-background; }
    #fleet { height: auto; max-height: 45%; padding: 0 1; border-bottom: solid $primary; }
    #jobs { height: 1fr; }
    #selected { height: 2; padding: 0 1; border-top: solid $primary; }
    #filter { display: none; dock: bottom; }
    #filter.shown { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter"),
        Binding("escape", "all", "All jobs", show=False),
        Binding("enter,l", "job", "Job and log"),
        Binding("c", "cancel", "Cancel job"),
        Binding("q", "quit", "Quit"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, watcher: Watcher, store: Store, *, user: str) -> None:
        """`user`: who cancels, for the job's history."""
        super().__init__()
        self._watcher, self._store, self._user = watcher, store, user
        self._pattern = ""
        self._losses: Mapping[str, Losses] = {}
        self._losses_at = -CURVE_SECONDS
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
        base.query_one("#boxes", Static).update(Group(*panels.fleet_lines(state.view, width - 4)))
        self._fill(base.query_one("#jobs", DataTable), state.view, width)
        if isinstance(self.screen, JobScreen):
            self._read_job(self.screen.job_id)

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
            table.add_row(*panels.cells(job, view.now_ms, self._losses.get(job.id, ()), width), key=job.id)
        places = {job.id: place for place, job in enumerate(jobs)}
        if jobs:
            table.move_cursor(row=places.get(chosen or "", min(at, len(jobs) - 1)), scroll=False)
            table.scroll_to(y=scroll, animate=False)
        self._show_selected()

    def _show_selected(self) -> None:
        if not self._is_open:
            return
        job = self.view.job(self.selected or "") if self.view else None
        line = panels.selected_line(job, self.view.now_ms, self.size.width - 2) if job and self.view else Text("")
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
        self._losses = stored_curves.losses(self._store, ids, SMALL)

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
        asked.add_class("shown")
        asked.value = self._pattern
        asked.focus()

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
        asked.value = pattern
        asked.remove_class("shown")
        self.query_one("#jobs", DataTable).focus()
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

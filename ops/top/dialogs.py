"""What opens over the page of `pi0q top`: the question before a job is cancelled, and one job with its log."""

from __future__ import annotations

from typing import ClassVar

from rich.console import Group
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from pi0q.ops.top import panels
from pi0q.ops.top.panels import Losses
from pi0q.queue.reading.values import JobView

#: Lines of log on a job's own page.
LOG_LINES = 200


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

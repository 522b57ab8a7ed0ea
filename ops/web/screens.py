"""The pages as HTML: from the values of the reading layer to what a browser shows. No page asks the server itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.ops.web import curves, words
from pi0q.ops.web.words import Words
from pi0q.queue.reading.values import BoxStatus, BoxView, FleetView

#: Running jobs that the fleet page shows; jobs that a list shows.
RUNNING_SHOWN, LISTED = 40, 200
#: Boxes that do not answer come last.
_AWAY = (BoxStatus.UNREACHABLE, BoxStatus.STOPPED)
_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What every page has around its own content."""

    language: str
    #: The path of the page, and what a change of the language comes back to.
    here: str
    back: str
    #: The version of the fleet's state that it shows.
    version: int = 0
    #: Seconds for which the queue's server has not answered; None while it does.
    away_seconds: float | None = None
    #: Only what changes, for a page that is open already.
    part: bool = False
    #: Whether it does not update itself: a question, an error.
    still: bool = False


class Screens:
    """Makes pages of values. Safe to use from several threads."""

    def __init__(self) -> None:
        self._pages = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=words.shown,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._pages.filters |= {"short": words.short, "card_name": words.card_name}
        self._pages.globals |= {
            "bar": curves.bar,
            "spark": curves.spark,
            "gib": words.gib,
            "share": words.share,
            "number": words.number,
            "clock": words.clock,
        }

    def fleet(self, frame: Frame, fleet: FleetView, losses: Mapping[str, Sequence[float | None]]) -> str:
        """Return the page that a lab hangs on its wall. `losses`: the last losses of running jobs, by id."""
        _ = Words(frame.language)
        return self._page(
            "fleet.html",
            frame,
            now_ms=fleet.now_ms,
            fleet=fleet,
            totals=_totals(_, fleet),
            jobs={job.id: job for job in fleet.running},
            boxes=_in_order(fleet.boxes),
            curves=losses,
            lost={box.name for box in fleet.boxes if box.status in _AWAY},
            running_shown=RUNNING_SHOWN,
        )

    def queue(self, frame: Frame, fleet: FleetView) -> str:
        """Return the page of waiting jobs, in the order in which boxes take them, and of held ones."""
        return self._page("queue.html", frame, now_ms=fleet.now_ms, fleet=fleet, shown=LISTED)

    def jobs(self, frame: Frame, fleet: FleetView, *, state: str, text: str) -> str:
        """Return the list of jobs; `state` is a label of a state, `text` a part of name, id, user or box."""
        wanted = text.casefold()
        found = [
            job
            for job in fleet.jobs
            if (not state or job.label == state or (state == "running" and job.state in OWNED))
            and any(wanted in part.casefold() for part in (job.name, job.id, job.user, job.box))
        ]
        return self._page(
            "jobs.html", frame, now_ms=fleet.now_ms, fleet=fleet, found=found, state=state, text=text, shown=LISTED
        )

    def boxes(self, frame: Frame, fleet: FleetView) -> str:
        """Return the page of boxes with all that they announce."""
        return self._page(
            "boxes.html",
            frame,
            now_ms=fleet.now_ms,
            fleet=fleet,
            jobs={job.id: job for job in fleet.running},
            boxes=_in_order(fleet.boxes),
        )

    def job(self, frame: Frame, content: Mapping[str, Any], *, now_ms: int) -> str:
        """Return the page of one job; `content` is that of job_screen.py."""
        return self._page("job.html", frame, now_ms=now_ms, **content)

    def confirm(self, frame: Frame, content: Mapping[str, Any]) -> str:
        """Return the question before an act."""
        return self._page("confirm.html", frame, now_ms=0, **content)

    def message(self, frame: Frame, heading: str, text: str) -> str:
        """Return a page that says one thing; both texts are translated here."""
        _ = Words(frame.language)
        return self._page("message.html", frame, now_ms=0, heading=_(heading), text=_(text))

    def _page(self, template: str, frame: Frame, *, now_ms: int, **values: Any) -> str:
        _ = Words(frame.language)
        helpers = {
            "_": _,
            "lang": "zh-CN" if frame.language == "zh" else "en",
            "span": _.span,
            "ago": partial(_.ago, now_ms=now_ms),
            "since": partial(_.since, now_ms=now_ms),
            "time": partial(_.time_of, now_ms=now_ms),
            "needs": _.needs,
            "doing": _.doing,
            "why": _.why,
            "note": _.note,
            "refusal": _.refusal,
            "staging": _.staging,
        }
        shape = {name: getattr(frame, name) for name in ("here", "back", "version", "away_seconds", "part", "still")}
        return self._pages.get_template(template).render(**helpers, **shape, **values)


def _in_order(boxes: Sequence[BoxView]) -> list[BoxView]:
    """Return the boxes: those that answer first, each group by name as the view has them."""
    return sorted(boxes, key=lambda box: box.status in _AWAY)


def _totals(_: Words, fleet: FleetView) -> list[tuple[str, str, str, str]]:
    """Return the numbers on top: value, of how many, what it counts, and its colour where that is to be seen."""
    cards, up = fleet.cards, [box for box in fleet.boxes if box.status not in _AWAY]
    taken = sum(bool(card.jobs) for card in cards)
    used, total = sum(card.used_mib for card in cards), sum(card.total_mib for card in cards)
    failed = sum(
        job.state is State.FAILED and (job.ended_ms or 0) > fleet.now_ms - _DAY_MS
        for job in fleet.ended
        if job.state in ENDED
    )
    return [
        (str(fleet.counts.active), "", _("jobs running"), ""),
        (str(fleet.counts.queued), "", _("waiting"), ""),
        (str(fleet.counts.held), "", _("jobs held"), ""),
        (str(failed), "", _("failed in 24 h"), "red" if failed else ""),
        (str(taken), f" / {len(cards)}", _("cards in use"), ""),
        (f"{used / 1024:.0f}", f" / {total / 1024:.0f}", _("GiB of VRAM in use"), ""),
        (str(len(up)), f" / {len(fleet.boxes)}", _("boxes up"), "red" if len(up) < len(fleet.boxes) else ""),
    ]

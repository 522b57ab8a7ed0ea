"""What `pi0q top` shows, as lines and cells of text. Pure: a fleet's view comes in, styled text comes out."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from math import isfinite
from typing import NamedTuple

from rich.text import Text

from pi0q.jobs.curve import sampled
from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.queue.job_text import ago, span
from pi0q.queue.reading.values import BoxStatus, BoxView, CardView, FleetView, JobView
from pi0q.queue.render import COLOURS

#: Columns from which a screen is wide: it has longer bars, and more of each job.
WIDE = 110
LEVELS = "▁▂▃▄▅▆▇█"
#: Degrees Celsius from which a card is warm, and hot: data-centre cards slow down from 85 to 90 on.
WARM, HOT = 75, 85
BOXES = {
    BoxStatus.READY: "green",
    BoxStatus.DRAINING: "yellow",
    BoxStatus.DRAINED: "yellow",
    BoxStatus.STOPPED: "dim",
    BoxStatus.UNREACHABLE: "bold red",
    BoxStatus.UNKNOWN: "dim",
}
#: Boxes whose last announcement tells nothing of now.
GONE = (BoxStatus.STOPPED, BoxStatus.UNREACHABLE)

Losses = Sequence[float | None]


class Column(NamedTuple):
    """One column of the list of jobs."""

    title: str
    #: Cells on a wide screen and on a narrow one, which has not those of 0.
    wide: int
    narrow: int


COLUMNS = (
    Column("STATE", 10, 9),
    Column("NAME", 22, 17),
    Column("DONE", 14, 9),
    Column("LEFT", 8, 7),
    Column("LOSS", 15, 6),
    Column("BOX", 14, 0),
)
#: Cells between two columns, and of the scroll bar.
GAP, SCROLL_BAR = 2, 2


def columns(width: int) -> dict[str, int]:
    """Return the columns of a screen of this width with their own widths; NOTE takes what is left."""
    chosen = {one.title: one.wide if width >= WIDE else one.narrow for one in COLUMNS}
    shown = {title: cells for title, cells in chosen.items() if cells}
    left = width - sum(cells + GAP for cells in shown.values()) - GAP - SCROLL_BAR
    return {**shown, "NOTE": max(8, left)}


# -- small pictures ---------------------------------------------------------------------------------


def bar(shares: Sequence[tuple[float, str, str]], width: int) -> Text:
    """Return a bar of `width` cells: each part is a share from 0 to 1, its sign and its style; the rest is `░`."""
    told, full, before = Text(), 0.0, 0
    for share, sign, style in shares:
        full = min(1.0, full + max(0.0, share))
        here = round(full * width)
        told.append(sign * (here - before), style)
        before = max(before, here)
    return told.append("░" * (width - before), "dim")


def sparkline(values: Losses, width: int) -> str:
    """Return the values as a row of blocks, the lowest lowest; what is no number is a gap."""
    known = [value for value in values if value is not None and isfinite(value)]
    if not known or width < 1:
        return ""
    low, high = min(known), max(known)
    step = (high - low) / (len(LEVELS) - 1)
    shown = sampled(values, width)
    return "".join(
        " " if value is None or not isfinite(value) else LEVELS[round((value - low) / step) if step else 0]
        for value in shown
    )


# -- the head ---------------------------------------------------------------------------------------


def totals(view: FleetView | None, away_seconds: float | None, shown: str = "") -> Text:
    """Return the first line: how much of everything there is, and whether the server answers.

    `shown`: the filter, where there is one.
    """
    told = Text("pi0q ", "bold")
    if view:
        counts, cards = view.counts, view.cards
        busy = sum(bool(card.jobs) for card in cards)
        up = sum(box.status not in GONE for box in view.boxes)
        outside = counts.live - counts.active - counts.queued
        numbers = {"running": counts.active, "queued": counts.queued, "held": outside, "ended": counts.ended}
        parts = [f"{number} {what}" for what, number in numbers.items() if number] or ["no jobs"]
        parts += [f"{up}/{len(view.boxes)} boxes up", f"{busy}/{len(cards)} cards taken"]
        told.append(" · ".join(parts))
    else:
        told.append("asks the queue's server …")
    if shown:
        told.append(f"  filter: {shown}", "cyan")
    if away_seconds is not None:
        told.append(f"  link away since {away_seconds:.0f} s, trying again", "bold yellow")
    return told


# -- boxes and cards --------------------------------------------------------------------------------


def fleet_lines(view: FleetView, width: int, *, cards: bool = True) -> list[Text]:
    """Return the boxes; `cards`: each with a line a card."""
    if not view.boxes:
        return [Text("No boxes yet. `pi0q worker` on a GPU machine makes it one.", "dim")]
    names = {job.id: job.name for job in view.running}
    lines = []
    for box in view.boxes:
        lines.append(box_line(box, width))
        if cards and box.status not in GONE:
            lines += [card_line(card, names, width) for card in box.cards]
    return lines


def box_line(box: BoxView, width: int) -> Text:
    """Return a box's own line: how it is, its slots, its disk."""
    line = Text.assemble((box.name, "bold"), "  ", (box.status.value, BOXES[box.status]))
    if box.status in GONE:
        line.append(f"  last heartbeat {span(box.seen_seconds)} ago", "dim")
        line.append(f", {len(box.cards)} card{'s' * (len(box.cards) != 1)}" if box.cards else "", "dim")
    else:
        line.append(f"  {box.used_slots} of {box.slots} slots  disk ")
        if box.disk_mib:
            used = 1 - box.disk_free_mib / box.disk_mib
            line.append_text(bar([(used, "█", "red" if used > 0.95 else "blue")], 10 if width >= WIDE else 6))
            line.append(" ")
        line.append(f"{box.disk_free_mib / 1024:.0f} GiB free")
        note = " · ".join(filter(None, [box.drain_text, str(box.blocked) if box.blocked else "", box.note]))
        line.append(f"  {note}" if note else "", "yellow")
    line.truncate(width, overflow="ellipsis")
    return line


def card_line(card: CardView, names: dict[str, str], width: int) -> Text:
    """Return a card's line: VRAM used, promised and free, how busy and how hot it is, and who has it."""
    wide, total = width >= WIDE, max(1, card.total_mib)
    kind = card.name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    room, mark = 24 if wide else 14, (" (simulated)" if wide else " (sim)") if card.simulated else ""
    line = Text(f" {card.number:>2} {kind[: room - len(mark)] + mark:<{room}} ")
    parts = [(card.used_mib / total, "█", "green"), (card.promised_mib / total, "▒", "cyan")]
    line.append_text(bar(parts, 20 if wide else 10))
    line.append(f" {card.used_mib / 1024:>3.0f}/{card.total_mib / 1024:.0f} GiB  ")
    if card.utilisation is None:
        line.append(f"{'use ?':<{15 if wide else 5}}", "dim")
    else:
        line.append_text(bar([(card.utilisation, "█", "magenta")], 10) if wide else Text())
        line.append(f" {card.utilisation:>4.0%}"[-5:])
    style = "" if card.temperature is None or card.temperature < WARM else "yellow" if card.temperature < HOT else "red"
    line.append("   ?°C " if card.temperature is None else f" {card.temperature:>3}°C ", style or "dim")
    line.append(" " + ", ".join(names.get(job, job) for job in card.jobs), "bold")
    line.truncate(width, overflow="ellipsis")
    return line


# -- jobs -------------------------------------------------------------------------------------------


def matches(job: JobView, pattern: str) -> bool:
    """Return whether a filter takes the job: words, each a part of, or a glob for, its name, user, box, state or id."""
    texts = [text.lower() for text in (job.name, job.user, job.box, job.label, job.id, job.priority)]
    return all(any(word in text or fnmatchcase(text, word) for text in texts) for word in pattern.lower().split())


def cells(job: JobView, now_ms: int, losses: Losses, width: int) -> list[Text]:
    """Return what stands in each of `columns(width)` in a job's line."""
    room = columns(width)
    texts = {
        "STATE": Text("cancelling" if job.wish == "cancel" else job.label, COLOURS[job.state]),
        "NAME": Text(job.name),
        "DONE": _done(job, room["DONE"]),
        "LEFT": Text(span(job.eta_seconds) if job.eta_seconds is not None else ""),
        "LOSS": _loss(job, losses, room["LOSS"]),
        "BOX": Text(where(job)),
        "NOTE": Text(note(job, now_ms)),
    }
    for title, cells_of in room.items():
        texts[title].truncate(cells_of, overflow="ellipsis")
    return [texts[title] for title in room]


def _done(job: JobView, width: int) -> Text:
    if job.progress is None or (job.state not in OWNED and not job.step):
        return Text("")
    style = "green" if job.state in OWNED else "dim"
    return bar([(job.progress, "█", style)], width - 5).append(f" {_percent(job.progress):>4}")


def _percent(share: float) -> str:
    """Return a share as the other pages tell it: 99 % are not 100 before the end."""
    return f"{int(100 * share)}%"


def _loss(job: JobView, losses: Losses, width: int) -> Text:
    # A narrow screen has the number alone.
    room = width - 7
    if job.loss is None:
        return Text(sparkline(losses, room))
    value = f"{job.loss:.3g}"
    shown = f"{sparkline(losses, room):<{room}} " if room > 0 else ""
    return Text.assemble((shown, "cyan"), (value, "" if isfinite(job.loss) else "bold red"))


def where(job: JobView) -> str:
    """Return `box-a:0,1`: the box of a job and its cards there."""
    return job.box + (f":{','.join(map(str, job.cards))}" if job.cards and job.state in OWNED else "")


def note(job: JobView, now_ms: int) -> str:
    """Return the one thing that a person asks next about this job."""
    if job.wait is not None:
        return str(job.wait)
    if job.state in OWNED:
        saved = job.checkpoint
        age = f"saved {saved.step} {ago(saved.saved_ms, now_ms)}" if saved and saved.saved_ms else ""
        return " · ".join(filter(None, [job.phase, age])) or "nothing saved yet"
    when = ago(job.ended_ms, now_ms) if job.state in ENDED and job.ended_ms else ""
    return " · ".join(filter(None, [when, "" if job.state is State.SUCCEEDED else job.detail]))


def selected_line(job: JobView, now_ms: int, most: int) -> Text:
    """Return the whole note of the job under the cursor, for which a row has no room; `most` cells."""
    parts = [job.id, where(job), note(job, now_ms), job.next_step]
    line = Text.assemble((job.name, "bold"), "  ", "  ".join(filter(None, parts)))
    line.truncate(most, overflow="ellipsis")
    return line


def facts(job: JobView, now_ms: int, losses: Losses, width: int) -> list[Text]:
    """Return the head of one job's own page."""
    parts = [job.id, job.user, job.priority, where(job), note(job, now_ms)]
    lines = [
        Text.assemble((job.name, "bold"), "  ", (job.label, COLOURS[job.state])),
        Text("  ".join(filter(None, parts)), "dim"),
    ]
    if job.progress is not None:
        done = bar([(job.progress, "█", "green")], max(10, min(40, width - 40)))
        done.append(f" {job.step or 0}/{job.steps} {_percent(job.progress)}")
        done.append(f"  {span(job.eta_seconds)} left" if job.eta_seconds is not None else "")
        done.append(f"  {job.step_seconds:.2f} s a step" if job.step_seconds else "")
        lines.append(done)
    if losses:
        rate = f"  lr {job.lr:.2e}" if job.lr else ""
        value = "" if job.loss is None else f" {job.loss:.4g}{rate}"
        lines.append(Text.assemble("loss ", (sparkline(losses, max(10, width - 40)), "cyan"), value))
    lines += [Text(f"{link.kind.value}  {link.url}", "blue") for link in job.links]
    if job.next_step:
        lines.append(Text(job.next_step, "yellow"))
    return lines

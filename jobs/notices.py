"""What is worth a message to a person: values and their text, made of records. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pi0q.jobs.notice_kinds import OF_JOBS
from pi0q.jobs.outcome import NOT_HELD, Reason
from pi0q.jobs.record import Event, Record
from pi0q.jobs.state import ENDED, OWNED, State

#: Notices that one message tells; the others are counted.
MOST_IN_ONE = 10


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One thing that happened."""

    #: One of KINDS (notice_kinds.py).
    kind: str
    #: Milliseconds since 1970 on the server's clock.
    at_ms: int
    #: One line: `grab_box failed on box-a`.
    title: str
    #: More lines: cause, cure, link; "" for none.
    body: str = ""
    #: The job, or "" where it is about a box or the queue.
    job_id: str = ""

    @property
    def key(self) -> str:
        """Return what tells it from any other of its moment."""
        return f"{self.at_ms}:{self.kind}:{self.job_id or self.title}"


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is sent at one time."""

    title: str
    body: str


def of_job(job: Record, *, after_ms: int, saved_before: int | None) -> Iterator[Notice]:
    """Yield what happened to a job after a moment; `saved_before` is its newest checkpoint's step as of then."""
    previous: State | None = None
    for event in job.history:
        if event.at_ms > after_ms and (kind := _kind(event, previous)):
            yield Notice(
                kind=kind, at_ms=event.at_ms, title=_title(job, event, kind), body=_body(job, kind), job_id=job.id
            )
        previous = event.state
    step = job.checkpoint.step if job.checkpoint else None
    if step is not None and step != saved_before and job.updated_ms > after_ms and job.state not in ENDED:
        title = f"{job.name} saved step {step} of {job.steps or '?'}"
        yield Notice(kind="saved", at_ms=job.updated_ms, title=title, job_id=job.id)


def _kind(event: Event, previous: State | None) -> str:
    if event.state is State.RUNNING and previous is not State.RUNNING:
        return "started"
    if event.state is State.QUEUED and previous in OWNED:
        return "interrupted"
    if event.state is State.WAITING and event.reason is Reason.AFTER_FAILED:
        return "held"
    if event.state is State.WAITING and previous is not State.WAITING:
        return "" if event.reason in NOT_HELD else "held"
    ends = {State.SUCCEEDED: "finished", State.FAILED: "failed", State.CANCELLED: "cancelled"}
    return ends.get(event.state, "")


def _title(job: Record, event: Event, kind: str) -> str:
    where = f" on {event.box}" if event.box else ""
    words = {
        "started": f"training started{where}",
        "interrupted": f"was interrupted{where} and is queued again",
        "held": "cannot start" if event.reason is Reason.AFTER_FAILED else "is held",
        "finished": f"finished{where}",
        "failed": f"failed{where}",
        "cancelled": "was cancelled",
    }
    return f"{job.name} {words[kind]}"


def _body(job: Record, kind: str) -> str:
    cause = " ".join(job.detail.split()) if kind in ("failed", "interrupted", "held") else ""
    cure = job.next_step if kind in ("failed", "held") else ""
    loss = f"loss {job.loss:.4f} at step {job.step}" if kind == "finished" and job.loss is not None else ""
    lines = [
        cause,
        f"Fix: {cure}" if cure else "",
        loss,
        job.wandb_url or "",
        job.swanlab_url or "",
        f"pi0q show {job.id}",
    ]
    return "\n".join(line for line in lines if line)


def box_lost(name: str, jobs: Sequence[str], at_ms: int) -> Notice:
    """Return the notice of a box whose heartbeats ended; `jobs`: names of what it trained."""
    trained = f"It trained {', '.join(jobs)}; another box goes on where there is a copy.\n" if jobs else ""
    return Notice(kind="box_lost", at_ms=at_ms, title=f"Box {name} is lost", body=f"{trained}pi0q boxes show {name}")


def box_back(name: str, at_ms: int) -> Notice:
    """Return the notice of a box that is heard of again."""
    return Notice(kind="box_back", at_ms=at_ms, title=f"Box {name} is back")


def box_leaves(name: str, when: str, at_ms: int) -> Notice:
    """Return the notice of a box that switches itself off in a moment. `when`: `5 min`."""
    body = f"Nothing needs it. To keep it on: pi0q box keep-on 2h --box {name}"
    return Notice(kind="box_off", at_ms=at_ms, title=f"Box {name} switches itself off in {when}", body=body)


def box_off(name: str, at_ms: int) -> Notice:
    """Return the notice of a box that has switched itself off."""
    body = f"Nothing needed it. Its disks stay.\npi0q boxes show {name}"
    return Notice(kind="box_off", at_ms=at_ms, title=f"Box {name} has switched itself off", body=body)


def box_stays(name: str, why: str, at_ms: int) -> Notice:
    """Return the notice of a box whose leave was told, and that stays on."""
    return Notice(kind="box_off", at_ms=at_ms, title=f"Box {name} stays on", body=why or f"pi0q boxes show {name}")


def queue_empty(at_ms: int) -> Notice:
    """Return the notice of a queue in which nothing waits or runs any more."""
    title = "Nothing waits and nothing runs any more"
    return Notice(kind="queue_empty", at_ms=at_ms, title=title, body="Boxes may be switched off: pi0q boxes")


def chosen(job: Record) -> tuple[str, ...] | None:
    """Return the kinds that the job's file chose (`notify.on`); None where it says nothing."""
    section = job.spec.get("notify")
    kinds = section.get("on") if isinstance(section, Mapping) else None
    return tuple(str(kind) for kind in kinds) if isinstance(kinds, list) else None


def wanted(notice: Notice, usual: Collection[str], of_job: Collection[str] | None) -> bool:
    """Return whether a notice is sent: a job's own choice counts before the settings'."""
    chosen = of_job if of_job is not None and notice.kind in OF_JOBS else usual
    return notice.kind in chosen


def message(notices: Iterable[Notice]) -> Message:
    """Return one message for several notices, so that a burst does not become a flood."""
    told = list(notices)
    if len(told) == 1:
        return Message(title=told[0].title, body=told[0].body or told[0].title)
    lines = [notice.title for notice in told[:MOST_IN_ONE]]
    more = len(told) - len(lines)
    first = next((notice for notice in told if notice.kind == "failed"), told[0])
    body = "\n".join([*lines, *([f"… and {more} more: pi0q ls"] if more else []), "", first.title + ":", first.body])
    return Message(title=f"pi0q: {len(told)} events", body=body.rstrip())

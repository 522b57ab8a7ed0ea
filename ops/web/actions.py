"""What an operator may do to a job by the page: which acts its state allows, what the page asks before, and the act."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pi0q.jobs.record import Record
from pi0q.jobs.spec import Priority
from pi0q.jobs.state import ENDED, State
from pi0q.queue.store import Store


@dataclass(frozen=True, kw_only=True)
class Action:
    """One act: the words of its button, of the question before it and of its effect; `words.py` translates them."""

    button: str
    question: str
    effect: str
    answer: str
    allowed: Callable[[Record], bool]


ACTIONS: dict[str, Action] = {
    "checkpoint": Action(
        button="Save now",
        question="Save a checkpoint of {} now?",
        effect="The training goes on.",
        answer="Save now",
        allowed=lambda job: job.state is State.RUNNING and not job.wish,
    ),
    "bump": Action(
        button="Priority …",
        question="Change the priority of {}?",
        effect="No running job is stopped for it.",
        answer="Change",
        allowed=lambda job: job.state not in ENDED,
    ),
    "hold": Action(
        button="Hold",
        question="Hold {}?",
        effect="It saves a checkpoint, stops and leaves the queue until it is released.",
        answer="Hold",
        allowed=lambda job: job.state not in ENDED and not job.held and job.wish != "cancel",
    ),
    "release": Action(
        button="Release",
        question="Release {}?",
        effect="It waits in the queue again, in its old place.",
        answer="Release",
        allowed=lambda job: job.state not in ENDED and bool(job.held) and job.wish != "cancel",
    ),
    "cancel": Action(
        button="Cancel",
        question="Cancel {}?",
        effect="It ends for good; what it saved stays.",
        answer="Yes, cancel it",
        allowed=lambda job: job.state not in ENDED and job.wish != "cancel",
    ),
}
#: What the page says after an act, by a word of its address.
SAID = {
    "done": "Done.",
    "asked": "It is asked to; its box answers in a moment.",
    "late": "Nothing was changed: its state no longer allows that.",
}


def perform(store: Store, act: str, job_id: str, *, priority: str, user: str) -> str:
    """Do it, unless the job's state no longer allows it; return a word of SAID.

    Raises NotFound, BadRecord, ValueError for a priority that there is none of, and the client's error.
    """
    job = store.get(job_id)
    if not ACTIONS[act].allowed(job):
        return "late"
    by = f"by {user} on the web page"
    if act == "cancel":
        store.cancel(job_id, text=f"cancelled {by}")
    elif act == "hold":
        store.hold(job_id, text=by)
    elif act == "release":
        store.release(job_id)
    elif act == "bump":
        chosen = Priority(priority)
        store.bump(job_id, chosen, text=f"made {chosen.value} {by} (was {job.priority})")
    else:
        store.request_checkpoint(job_id, text=f"asked for a checkpoint {by}")
    return "done" if job.state not in (State.CLAIMED, State.PREPARING, State.RUNNING) or act == "bump" else "asked"

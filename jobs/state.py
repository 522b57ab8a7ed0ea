"""The life of a job, on one screen."""

from __future__ import annotations

from enum import Enum


class State(str, Enum):
    """Where a job is in its life."""

    #: A user holds it, or it waits for another job or a time. Not in the queue.
    WAITING = "waiting"
    #: In the shared queue; any box that it fits may claim it.
    QUEUED = "queued"
    #: A box owns it and has promised it VRAM and disk.
    CLAIMED = "claimed"
    #: Its runner fetches what the trainer will need.
    PREPARING = "preparing"
    #: Its trainer lives. A crash of the box leaves this behind; recovery or the sweep corrects it.
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def label(self) -> str:
        """The word that people read; JSON and records keep the value. `Record.label` knows jobs that nobody holds."""
        return "held" if self is State.WAITING else self.value

    def __str__(self) -> str:
        return self.value


#: States in which a box owns the job and its lease counts.
OWNED = frozenset({State.CLAIMED, State.PREPARING, State.RUNNING})
#: States that nothing ever leaves.
ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})

#: Everything that may happen to a job. `queued` after an owned state is an interruption or a retry, `waiting` one of
#: a job that is held: it keeps its id, its place, its checkpoint and its WandB run.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.QUEUED, State.FAILED, State.CANCELLED}),
    State.QUEUED: frozenset({State.CLAIMED, State.WAITING, State.CANCELLED, State.FAILED}),
    State.CLAIMED: frozenset({State.PREPARING, State.QUEUED, State.WAITING, State.FAILED, State.CANCELLED}),
    State.PREPARING: frozenset({State.RUNNING, State.QUEUED, State.WAITING, State.FAILED, State.CANCELLED}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.QUEUED, State.WAITING, State.FAILED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


def sources(target: State) -> frozenset[State]:
    """The states from which `target` may be entered."""
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)

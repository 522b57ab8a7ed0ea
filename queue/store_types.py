"""Values that go into the store and come out of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Claimant:
    """A box that takes or holds a job, and for how long without a renewal."""

    box: str
    #: Start of the box, see workers/host/identity.py.
    boot: str
    lease_seconds: float


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """What a claim promises to its job."""

    #: (resource, changes seen, MiB): the claim fails where a resource has changed since.
    promises: Sequence[tuple[str, int, int]] = ()
    #: UUIDs of the GPUs.
    gpus: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A job that a box would take, and on which terms."""

    job_id: str
    reservation: Reservation
    #: What the job's history will say of the claim.
    text: str
    #: One more than the last epoch in the box's ledger.
    at_least: int = 0
    #: Seconds after which the job has ended for sure; None where nobody knows.
    at_most: float | None = None

    def to_json(self) -> list[Any]:
        """Return the offer as claim_first.lua reads it."""
        promised = [list(promise) for promise in self.reservation.promises]
        at_most = -1 if self.at_most is None else round(self.at_most * 1000)
        return [self.job_id, promised, json.dumps(list(self.reservation.gpus)), self.text, self.at_least, at_most]


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A claim that succeeded."""

    epoch: int
    #: Which of the offered jobs.
    job_id: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class LogChunk:
    """New text of the trainer's log."""

    text: str
    #: Bytes of the job's log before it, so that a report sent twice appends it once; None: all that the server has.
    at: int | None = None


@dataclass(frozen=True, kw_only=True)
class PostrunStatus:
    """How a post-run task stands."""

    #: The record's field: push, copy, wandb_sync or swanlab_sync.
    field: str
    #: state, detail, tries and what else the task has to say.
    status: Mapping[str, Any]
    #: Only the reporting box's part; else the whole job's.
    own: bool = False


@dataclass(frozen=True, kw_only=True)
class ServerMemory:
    """What a box remembers of the server's last answer; a server with fewer heartbeats has older data."""

    heartbeats: int = 0
    drain: str = ""


@dataclass(frozen=True, kw_only=True)
class HeartbeatReply:
    """The server's answer to a box's heartbeat."""

    #: Heartbeats of all boxes so far; the box remembers the number, see `ServerMemory`.
    heartbeats: int
    #: The server's process; another one may have older data.
    server: str
    #: What a user wants of the box: "" nothing, `drain` no new jobs, `now` hand back its jobs too.
    drain: str
    #: These data count fewer heartbeats than the box remembers: they are an older copy.
    older: bool
    #: How long claims still wait for other boxes to come back.
    claim_holdoff_seconds: float
    #: Another boot of this box was heard a moment ago: this is a quick restart, or a copy of a box that runs.
    displaced: bool = False
    #: A copy of this box had taken its entry, and is refused from now on.
    copy_found: bool = False


class CopyRuns(Exception):
    """This boot is that of a copy: the box that it was copied from runs, with the same id and name."""


@dataclass(frozen=True, kw_only=True)
class UserRequests:
    """What a user asks of a job's owner, returned by each report."""

    #: How the run is to end: `cancel`, `stop` or nothing.
    end: str = ""
    #: The name of a checkpoint request that no checkpoint has answered yet (see `Record.save_wish`); 0 for none.
    save: int = 0
    #: Whether that checkpoint is to be pinned.
    pin: bool = False
    #: Steps whose checkpoints are kept: pinned, or the start of another job.
    pinned_steps: tuple[int, ...] = ()

    @classmethod
    def of(cls, answer: Sequence[Any]) -> UserRequests:
        """Read the answer of report.lua."""
        end, save, pin, pinned = answer
        return cls(end=str(end), save=int(save), pin=bool(pin), pinned_steps=tuple(json.loads(pinned or "[]")))

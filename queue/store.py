"""The store: every read and write of jobs and boxes in Redis. Each act that changes a job is one Lua script."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pi0q.jobs.errors import NotFound
from pi0q.jobs.outcome import MAX_FRUITLESS_RUNS
from pi0q.jobs.record import to_hash
from pi0q.jobs.state import State
from pi0q.jobs.transition import Transition
from pi0q.queue import message
from pi0q.queue.records import DEFAULT, Records
from pi0q.queue.timing import Timing
from pi0q.queue.wishes import SaveWishes, Wishes

if TYPE_CHECKING:
    from redis.client import PubSub

    from pi0q.jobs.spec import Priority

#: Seconds in which the same file of the same user counts as the same submit: a finger that slipped.
TWIN_SECONDS = 30
#: Milliseconds that the server has to write a new job to its disk before it is called accepted.
DURABLE_MS = 2000


class NotOwner(Exception):
    """A write of an owner that is none any more; its sender must stop."""


class ServerOlder(NotOwner):
    """The server knows less than its sender (it came back with older data): `Store.restore` mends that."""


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A claim that succeeded."""

    epoch: int


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """What the server answers to a box that says it lives."""

    #: Words of all boxes so far; the box remembers it and says it the next time.
    beats: int
    #: The server's process; another one may have older data.
    server: str
    #: What a user wants of the box: "" nothing, `drain` no new jobs, `now` hand back those it has too.
    drain: str
    #: These data count fewer beats than the box remembers: they are an older copy.
    older: bool
    #: How long claims still wait for other boxes to come back.
    regroup_seconds: float


#: The first word of an answer that means ServerOlder.
OLDER = 2


@cache
def _script(name: str) -> str:
    lua = files("pi0q.queue.lua")
    return (lua / "common.lua").read_text() + (lua / f"{name}.lua").read_text()


class Store(SaveWishes, Records):
    """Jobs and boxes below one prefix of one server. Raises redis.RedisError when that can't be reached."""

    # -- acts: each one script, each atomic ------------------------------------------------------

    def _run(self, script: str, *args: str | int) -> Any:
        return self._registered(script)(keys=[self.prefix], args=args)

    def _registered(self, name: str) -> Any:
        scripts = self.__dict__.setdefault("_scripts", {})
        if name not in scripts:
            scripts[name] = self.client.register_script(_script(name))
        return scripts[name]

    def load(self, *names: str) -> None:
        """Reads scripts that will be run later: the package may be upgraded in place meanwhile."""
        for name in names:
            self._registered(name)

    def submit(self, job_id: str, fields: Mapping[str, Any], *, text: str, key: str = "", continues: str = "") -> str:
        """Puts record and message down in one step; the id of the job that is there now.

        That is another than `job_id` where a job of the same `key` came in the last TWIN_SECONDS and lives, or one
        lives that continues the same job.
        """
        return str(self._run("submit", job_id, _json(to_hash(fields)), text, key, TWIN_SECONDS * 1000, continues))

    def durable(self) -> bool:
        """Whether all that this client wrote is on the server's disk; True where the server can't tell (before 7.2)."""
        import redis

        try:
            local, _ = self.client.execute_command("WAITAOF", 1, 0, DURABLE_MS)  # type: ignore[no-untyped-call]
        except redis.ResponseError:
            return True
        return int(local) >= 1

    def claim(
        self,
        job_id: str,
        *,
        box: str,
        boot: str,
        lease_seconds: float,
        promises: Sequence[tuple[str, int, int]],
        gpus: Sequence[str],
        text: str,
        at_least: int = 0,
    ) -> Claimed | str:
        """Takes a queued job for a box: (resource, changes seen, MiB) of each promise must still be current.

        Else `gone` (another box was faster), `stale` (something was promised meanwhile: judge again),
        `drained` (a user keeps this box from new jobs) or `regrouping` (the server came back a moment ago:
        boxes that hold jobs say so first). `at_least` is one more than the last epoch in the box's ledger.
        """
        lease = int(lease_seconds * 1000)
        promised = json.dumps([list(promise) for promise in promises])
        answer = self._run("claim", job_id, box, boot, lease, promised, json.dumps(list(gpus)), text, at_least)
        return Claimed(epoch=int(answer[1])) if answer[0] == "claimed" else str(answer[0])

    def move(self, job_id: str, transition: Transition, *, box: str = "") -> State | None:
        """Carries a transition out. None, and nothing changed, if state or owner are no longer as expected.

        `box` is the owner's where an owner moves the job. Raises ServerOlder.
        """
        fields = _json(to_hash(transition.fields))
        answer = self._run(
            "move",
            job_id,
            transition.to.value,
            json.dumps(sorted(state.value for state in transition.source)),
            "" if transition.epoch is None else transition.epoch,
            fields,
            transition.reason.value if transition.reason else "",
            transition.text,
            box,
        )
        if answer[0] == OLDER:
            raise ServerOlder(f"the server does not know of epoch {transition.epoch} of {job_id}")
        return State(answer[1]) if answer[0] else None

    def preflight(self, job_id: str, box: str, found: Mapping[str, Any]) -> bool:
        """Writes down what a box found out about a waiting job before any claim; False if it waits no longer."""
        return bool(self._run("preflight", job_id, box, json.dumps(found))[0])

    def report(
        self,
        job_id: str,
        epoch: int,
        *,
        box: str = "",
        lease_seconds: float,
        fields: Mapping[str, Any],
        log: str = "",
        log_at: int | None = None,
    ) -> Wishes:
        """Renews the lease, writes progress, appends to the log's tail; returns what the user wishes.

        `log_at` is how many bytes of the job's log came before `log`, so that a report whose answer was lost says
        nothing twice; None: all that is there. Raises NotOwner if the job is no longer this box's under
        this epoch, ServerOlder if the server never knew that it was.
        """
        written = _json(to_hash(fields))
        answer = self._run(
            "report", job_id, epoch, int(lease_seconds * 1000), written, log, box, "" if log_at is None else log_at
        )
        if answer[0] == OLDER:
            raise ServerOlder(f"the server does not know of epoch {epoch} of {job_id}")
        if not answer[0]:
            raise NotOwner(f"{job_id} is no longer ours under epoch {epoch}")
        return Wishes.of(answer[1:])

    def restore(
        self,
        job_id: str,
        epoch: int,
        *,
        box: str,
        boot: str,
        lease_seconds: float,
        fields: Mapping[str, str],
        text: str,
        runs: bool,
    ) -> bool:
        """Tells a server whose data are older that this box owns the job under this epoch; whether it does now.

        `fields` is the whole record as the box's ledger has it (`raw`); `runs`: its runner lives. False: the server
        knows as much or more, and the job is someone else's or over.
        """
        lease = int(lease_seconds * 1000)
        return bool(self._run("restore", job_id, epoch, box, boot, lease, _json(fields), text, int(runs)))

    def cancel(self, job_id: str, *, text: str) -> State:
        """Ends a waiting job, or asks the owner of a running one to; returns the state it is in now.

        Raises NotFound.
        """
        return self._state_after("wish", job_id, "cancel", text)

    def stop(self, job_id: str, *, text: str) -> State:
        """Asks the owner of a job to save it and hand it back to the queue; the state it is in now. Raises NotFound."""
        return self._state_after("wish", job_id, "stop", text)

    def _state_after(self, script: str, job_id: str, *args: str) -> State:
        state = self._run(script, job_id, *args)
        if not state:
            raise NotFound(f"There is no job {job_id}. `pi0q ls --all` lists every job.")
        return State(state)

    def hold(self, job_id: str, *, text: str) -> State:
        """Keeps a job out of the queue, until `release`; its owner saves it first. The state it is in now.

        `text` says who holds it. Raises NotFound.
        """
        return self._state_after("hold", job_id, text)

    def release(self, job_id: str) -> State:
        """Ends a hold; the state it is in now. Raises NotFound."""
        return self._state_after("hold", job_id, "")

    def bump(self, job_id: str, priority: Priority, *, text: str) -> State:
        """Gives a job another priority, where it waits and for whenever it waits again; its state. Raises NotFound."""
        return self._state_after("bump", job_id, priority.value, message.queue_key(priority.step), text)

    def after(
        self, job_id: str, epoch: int, *, box: str, field: str, told: Mapping[str, Any], own: bool = False, **more: Any
    ) -> int:
        """Writes down how a chore of a run stands (workers/aftercare.py); the ms of its user's last wish to try it.

        A chore of the whole job is told by the box where it ended, under the epoch of its end; with `own` a box says
        under its name what became of its own part. Raises NotOwner, or ServerOlder where the server does not know of
        that run. `more` are fields of the record besides.
        """
        written = _json(to_hash(more))
        answer = self._run("after", job_id, epoch, box, field, json.dumps(dict(told)), int(own), written)
        if answer[0] == OLDER:
            raise ServerOlder(f"the server does not know of epoch {epoch} of {job_id}")
        if not answer[0]:
            raise NotOwner(f"{job_id} did not end on {box} under epoch {epoch}")
        return int(answer[1])

    def retry(self, job_id: str, *, text: str) -> None:
        """Asks the boxes that have chores of this job left to try them now."""
        self._run("retry", job_id, text)

    def sweep(self, *, every_seconds: float = 30.0) -> list[str]:
        """Returns jobs of dead leases to the queue and lost messages to their place; the ids it mended.

        Anyone may call it at any time: it does its work once in `every_seconds`.
        """
        return list(self._run("sweep", max(1, int(every_seconds * 1000)), MAX_FRUITLESS_RUNS))

    def announce_box(
        self,
        name: str,
        box_id: str,
        fields: Mapping[str, Any],
        *,
        timing: Timing = DEFAULT,
        beats: int = 0,
        drain: str = "",
    ) -> Welcome | None:
        """Says that a box lives and what it has. None if another living box has this name.

        `beats` and `drain` are what the last Welcome said; more beats than the server knows of mean that its data
        are older, and then the box's drain is right.
        """
        spans = [int(seconds * 1000) for seconds in (timing.lease, timing.silent, timing.regroup)]
        answer = self._run("box", name, box_id, _json(to_hash(fields)), *spans, beats, drain)
        if not answer[0]:
            return None
        _, counted, server, drain, older, left = answer
        return Welcome(
            beats=int(counted),
            server=str(server),
            drain=str(drain),
            older=bool(older),
            regroup_seconds=int(left) / 1000,
        )

    def drain(self, box: str, mode: str, *, text: str) -> None:
        """Keeps a box from new jobs (`drain`), has it hand back those it has as well (`now`), or ends that ("").

        Raises NotFound.
        """
        if not self._run("drain", box, mode, text):
            known = ", ".join(known["name"] for known in self.boxes()) or "none so far"
            raise NotFound(f"There is no box {box}; nothing was changed. Known are: {known}.")

    def redeliver(self, job_id: str, box: str) -> None:
        """Puts the job's message into its box's own queue once more; a second copy starts nothing."""
        raw = self.client.hget(self.prefix + f"job:{job_id}", "message")
        if raw:
            self.client.lpush(self.prefix + message.box_key(box), str(raw))


def heard(pubsub: PubSub, timeout: float) -> Iterator[str]:
    """What was said on the channels: waits for the first word up to `timeout` seconds, then takes what is there."""
    while (said := pubsub.get_message(timeout=timeout)) is not None:
        timeout = 0.0
        yield str(said["data"])


def await_news(pubsub: PubSub, job_id: str | None, seconds: float) -> None:
    """Waits for a word on one job, or on any, `seconds` at the most.

    Who waits looks again in any case: where a connection breaks, words are lost with it.
    """
    import redis

    give_up = time.monotonic() + seconds
    # redis-py has reconnected when it tells that it had to.
    with suppress(redis.ConnectionError):
        while (left := give_up - time.monotonic()) > 0:
            words = list(heard(pubsub, left))
            if words and job_id in (None, *words):
                return


def _json(fields: Mapping[str, str]) -> str:
    return json.dumps(fields, ensure_ascii=False)

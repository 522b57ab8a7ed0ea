"""The store: every read and write of jobs and boxes in Redis. Each act that changes a job is one Lua script."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pi0q.jobs.errors import NotFound, UsageError
from pi0q.jobs.outcome import MAX_FRUITLESS_RUNS
from pi0q.jobs.record import Record, from_hash, to_hash
from pi0q.jobs.state import State
from pi0q.jobs.transition import Transition
from pi0q.queue import message

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import PubSub

#: Waiting messages of each priority that a scan looks at; those behind them come up as these leave.
SCAN_DEPTH = 200
#: Seconds that the server may take to say that it listens.
SUBSCRIBE_SECONDS = 5.0
#: Seconds after which a silent box no longer keeps its name from another.
BOX_SILENT_SECONDS = 60
#: Fields that `ls` needs; a spec can be long and is left out.
LISTED = ("id", "name", "state", "priority", "submitter", "created_ms", "updated_ms", "started_ms", "ended_ms",
          "reason", "detail", "epoch", "attempt", "box", "phase", "step", "steps", "loss", "step_seconds",
          "eta_seconds", "checkpoint", "wandb_url", "wandb_dir", "wish", "needs")  # fmt: skip


class NotOwner(Exception):
    """A write under an epoch that no longer counts; its sender must stop."""


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A claim that succeeded."""

    epoch: int


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some jobs, newest last, and how many there are in all."""

    jobs: tuple[Record, ...]
    live: int
    ended: int
    #: The server's clock, milliseconds since 1970.
    now_ms: int


@cache
def _script(name: str) -> str:
    lua = files("pi0q.queue.lua")
    return (lua / "common.lua").read_text() + (lua / f"{name}.lua").read_text()


class Store:
    """Jobs and boxes below one prefix of one server. Raises redis.RedisError when that can't be reached."""

    def __init__(self, client: Redis, prefix: str = "pi0q:") -> None:
        self.client = client
        self.prefix = prefix

    # -- acts: each one script, each atomic ------------------------------------------------------

    def _run(self, script: str, *args: str | int) -> Any:
        return self._registered(script)(keys=[self.prefix], args=args)

    def _registered(self, name: str) -> Any:
        scripts = self.__dict__.setdefault("_scripts", {})
        if name not in scripts:
            scripts[name] = self.client.register_script(_script(name))
        return scripts[name]

    def submit(self, job_id: str, fields: Mapping[str, Any], *, text: str) -> bool:
        """Puts record and message down in one step. False if this very submit has done so before."""
        return bool(self._run("submit", job_id, _json(to_hash(fields)), text))

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
    ) -> Claimed | str:
        """Takes a queued job for a box: (resource, changes seen, MiB) of each promise must still be current.

        Else `gone` (another box was faster) or `stale` (something was promised meanwhile: judge again).
        """
        lease = int(lease_seconds * 1000)
        promised = json.dumps([list(promise) for promise in promises])
        answer = self._run("claim", job_id, box, boot, lease, promised, json.dumps(list(gpus)), text)
        return Claimed(epoch=int(answer[1])) if answer[0] == "claimed" else str(answer[0])

    def move(self, job_id: str, transition: Transition) -> State | None:
        """Carries a transition out. None, and nothing changed, if state or epoch are no longer as expected."""
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
        )
        return State(answer[1]) if answer[0] else None

    def report(self, job_id: str, epoch: int, *, lease_seconds: float, fields: Mapping[str, Any], log: str = "") -> str:
        """Renews the lease, writes progress, appends to the log's tail; returns the wish of the user.

        Raises NotOwner if the epoch no longer counts.
        """
        answer = self._run("report", job_id, epoch, int(lease_seconds * 1000), _json(to_hash(fields)), log)
        if not answer[0]:
            raise NotOwner(f"{job_id} is no longer ours under epoch {epoch}")
        return str(answer[1])

    def cancel(self, job_id: str, *, text: str) -> State:
        """Ends a waiting job, or asks the owner of a running one to; returns the state it is in now.

        Raises NotFound.
        """
        state = self._run("cancel", job_id, text)
        if not state:
            raise NotFound(f"There is no job {job_id}. `pi0q ls --all` lists every job.")
        return State(state)

    def sweep(self, *, every_seconds: float = 30.0) -> list[str]:
        """Returns jobs of dead leases to the queue and lost messages to their place; the ids it mended."""
        return list(self._run("sweep", max(1, int(every_seconds * 1000)), MAX_FRUITLESS_RUNS))

    def announce_box(self, name: str, box_id: str, fields: Mapping[str, Any]) -> bool:
        """Says that a box lives and what it has. False if another living box has this name."""
        return bool(self._run("box", name, box_id, _json(to_hash(fields)), BOX_SILENT_SECONDS * 1000))

    def redeliver(self, job_id: str, box: str) -> None:
        """Puts the job's message into its box's own queue once more; a second copy starts nothing."""
        raw = self.client.hget(self.prefix + f"job:{job_id}", "message")
        if raw:
            self.client.lpush(self.prefix + message.box_key(box), str(raw))

    # -- reads ----------------------------------------------------------------------------------

    def waiting(self, depth: int = SCAN_DEPTH) -> list[Record]:
        """The jobs next in the queue, most urgent and oldest first, each with its needs but without its spec."""
        pipe = self.client.pipeline(transaction=False)
        for key in message.QUEUE_KEYS:
            pipe.lrange(self.prefix + key, -depth, -1)
        found = [message.job_of(raw) for part in pipe.execute() for raw in reversed(part)]
        ids = dict.fromkeys(job_id for job_id in found if job_id)
        return self._records(ids, extra=("fruitless", "queued_ms", "boot", "spec"))

    def get(self, job_id: str) -> Record:
        """One job with its history. Raises NotFound."""
        pipe = self.client.pipeline(transaction=False)
        pipe.hgetall(self.prefix + f"job:{job_id}")
        pipe.lrange(self.prefix + f"history:{job_id}", 0, -1)
        fields, history = pipe.execute()
        if not fields:
            raise NotFound(f"There is no job {job_id}. `pi0q ls --all` lists every job.")
        return from_hash(fields, history)

    def page(self, *, live: int = 50, ended: int = 20) -> Page:
        """The oldest `live` jobs that have not ended and the newest `ended` that have; -1 for all."""
        pipe = self.client.pipeline(transaction=False)
        pipe.zrange(self.prefix + "live", 0, live - 1 if live > 0 else -1)
        pipe.zrevrange(self.prefix + "ended", 0, ended - 1 if ended > 0 else -1)
        pipe.zcard(self.prefix + "live")
        pipe.zcard(self.prefix + "ended")
        pipe.time()
        living, over, n_living, n_over, now = pipe.execute()
        jobs = tuple(self._records([*reversed(over if ended else []), *living]))
        return Page(jobs=jobs, live=n_living, ended=n_over, now_ms=_ms(now))

    def owned(self, box: str) -> list[Record]:
        """The jobs that a box owns."""
        ids = map(str, self.client.smembers(self.prefix + f"owned:{box}"))
        return self._records(
            sorted(ids), extra=("fruitless", "vram_now_mib", "disk_now_mib", "gpus", "boot", "run_dir")
        )

    def promises(self, resources: Sequence[str]) -> dict[str, tuple[int, dict[str, int]]]:
        """What is promised of each resource: how often that changed, and job -> MiB."""
        pipe = self.client.pipeline(transaction=False)
        for resource in resources:
            pipe.hgetall(self.prefix + f"promises:{resource}")
        found = {}
        for resource, raw in zip(resources, pipe.execute(), strict=True):
            changes = int(raw.pop("#", 0))
            found[resource] = (changes, {job: int(mib) for job, mib in raw.items()})
        return found

    def boxes(self) -> list[dict[str, str]]:
        """What each box said of itself, with `name` and `seen_seconds` ago."""
        pipe = self.client.pipeline(transaction=False)
        pipe.zrange(self.prefix + "boxes", 0, -1, withscores=True)
        pipe.time()
        seen, now = pipe.execute()
        pipe = self.client.pipeline(transaction=False)
        for name, _ in seen:
            pipe.hgetall(self.prefix + f"box:{name}")
        return [
            {**fields, "name": name, "seen_seconds": str(max(0.0, (_ms(now) - at) / 1000))}
            for (name, at), fields in zip(seen, pipe.execute(), strict=True)
        ]

    def waits(self, job: Record) -> list[str]:
        """Why a queued job is not taken, box by box; empty for any other job."""
        if job.state is not State.QUEUED:
            return []
        living = [box for box in self.boxes() if float(box["seen_seconds"]) < BOX_SILENT_SECONDS]
        ready = [box for box in living if box.get("status") == "ready"]
        if not ready:
            return ["no box is up: `pi0q worker` on a GPU machine makes it one"]
        return [f"{box['name']}: {_refusal(box, job.id)}" for box in ready]

    def tail(self, job_id: str) -> tuple[str, int]:
        """The last bytes of the trainer's log and how many bytes it had in all."""
        # In one transaction: `pi0q logs -f` reckons from the total where in the text the new lines begin.
        pipe = self.client.pipeline(transaction=True)
        pipe.get(self.prefix + f"tail:{job_id}")
        pipe.hget(self.prefix + f"job:{job_id}", "log_bytes")
        text, total = pipe.execute()
        return text or "", int(total or 0)

    def resolve(self, reference: str) -> str:
        """The id of the job that a full id, a name, or a unique prefix of an id means. Raises NotFound, UsageError.

        Of several jobs of one name it is the one that has not ended, else the newest.
        """
        # Names are kept in this form; a terminal may type the other.
        reference = unicodedata.normalize("NFC", reference)
        lookup = self.prefix + "lookup"
        pipe = self.client.pipeline(transaction=False)
        pipe.zrange(lookup, f"[n:{reference}\0", f"[n:{reference}\0\xff", bylex=True)
        pipe.zrange(lookup, f"[i:{reference}", f"[i:{reference}\xff", bylex=True)
        named, started = pipe.execute()
        if f"i:{reference}" in started:
            return reference
        ids = [member.split("\0")[1] for member in named] or [member[2:] for member in started]
        if len(ids) > 1 and named:
            records = self._records(ids)
            living = [record for record in records if record.ended_ms is None]
            if len(living) <= 1:
                return living[0].id if living else max(records, key=lambda record: record.created_ms).id
        if not ids or not reference:
            raise NotFound(
                f"No job's id starts with {reference!r} and none has that name. `pi0q ls --all` lists every job."
            )
        if len(ids) > 1:
            shown = ", ".join(sorted(ids)[:5])
            raise UsageError(f"{reference!r} could mean {len(ids)} jobs: {shown}… Give more of the id.")
        return str(ids[0])

    def now_ms(self) -> int:
        """The server's clock, the only one that leases know."""
        return _ms(self.client.time())

    # -- waiting for changes ----------------------------------------------------------------------

    def subscribe(self, *channels: str) -> PubSub:
        """Listens to `changes` or `wake`: to all that is said from its return on. `heard` reads from it."""
        pubsub: PubSub = self.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        pubsub.subscribe(*(self.prefix + channel for channel in channels))
        for _ in channels:
            # The server's word that it listens; redis-py makes None of it.
            pubsub.get_message(timeout=SUBSCRIBE_SECONDS)
        return pubsub

    def _records(self, ids: Iterable[str], extra: tuple[str, ...] = ()) -> list[Record]:
        names = LISTED + extra
        pipe = self.client.pipeline(transaction=False)
        for job_id in ids:
            pipe.hmget(self.prefix + f"job:{job_id}", names)
        rows = (dict(zip(names, row, strict=True)) for row in pipe.execute())
        return [
            from_hash({name: value for name, value in row.items() if value is not None}) for row in rows if row["id"]
        ]


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


def _refusal(box: Mapping[str, str], job_id: str) -> str:
    if int(box.get("running") or 0) >= int(box.get("slots") or 1):
        return f"busy, {box.get('running')} of {box.get('slots')} slots in use"
    return str(json.loads(box.get("refusals") or "{}").get(job_id, "has not looked at it yet"))


def _json(fields: Mapping[str, str]) -> str:
    return json.dumps(fields, ensure_ascii=False)


def _ms(time: tuple[int, int]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000

"""What lies on the server, read: jobs, boxes, promises, logs. Nothing here changes anything."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pi0q.jobs.errors import NotFound, UsageError
from pi0q.jobs.record import Record, from_hash
from pi0q.jobs.state import State
from pi0q.queue import message
from pi0q.queue.timing import timing

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import PubSub

#: Waiting messages of each priority that a scan looks at; those behind them come up as these leave.
SCAN_DEPTH = 200
#: Seconds that the server may take to say that it listens.
SUBSCRIBE_SECONDS = 5.0
#: Fields that `ls` needs; a spec can be long and is left out.
LISTED = ("id", "name", "state", "priority", "submitter", "created_ms", "updated_ms", "started_ms", "ended_ms",
          "reason", "detail", "epoch", "attempt", "box", "phase", "step", "steps", "loss", "step_seconds",
          "eta_seconds", "checkpoint", "copied", "copy_detail", "wandb_url", "wandb_dir", "wish", "held", "needs",
          "push", "wandb_sync", "copy", "evidence")  # fmt: skip
#: And what a box judges a waiting job by.
JUDGED = ("fruitless", "queued_ms", "rest_seconds", "boot", "spec", "pins", "preflight", "disk_plan", "lerobot",
          "continues", "kept_steps")  # fmt: skip
#: The times of the default lease.
DEFAULT = timing(600.0, 0.8)


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some jobs, newest last, and how many there are in all."""

    jobs: tuple[Record, ...]
    live: int
    ended: int
    #: The server's clock, milliseconds since 1970.
    now_ms: int


class Records:
    """The reading half of the store, see store.py. Raises redis.RedisError when the server can't be reached."""

    def __init__(self, client: Redis, prefix: str = "pi0q:") -> None:
        self.client = client
        self.prefix = prefix

    def waiting(self, depth: int = SCAN_DEPTH) -> list[Record]:
        """The jobs next in the queue, most urgent and oldest first, each with what a box judges it by."""
        pipe = self.client.pipeline(transaction=False)
        for key in message.QUEUE_KEYS:
            pipe.lrange(self.prefix + key, -depth, -1)
        found = [message.job_of(raw) for part in pipe.execute() for raw in reversed(part)]
        ids = dict.fromkeys(job_id for job_id in found if job_id)
        return self._records(ids, extra=JUDGED)

    def raw(self, job_id: str) -> dict[str, str]:
        """A job's record as it lies on the server, for the ledger of the box that owns it; empty if there is none."""
        found: dict[str, str] = self.client.hgetall(self.prefix + f"job:{job_id}")  # type: ignore[assignment]
        return found

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

    def living(self) -> set[str]:
        """Boxes whose worker is up."""
        up = (box for box in self.boxes() if box.get("status") != "stopped")
        return {box["name"] for box in up if float(box["seen_seconds"]) < DEFAULT.silent}

    def waits(self, job: Record) -> list[str]:
        """Why a queued job is not taken, box by box; empty for any other job."""
        if job.state is State.WAITING:
            return [f"held {job.held}; `pi0q release {job.id}` lets it go on"]
        if job.state is not State.QUEUED:
            return []
        if (pause := self.regroup_seconds()) > 0:
            return [
                f"the queue's server came back a moment ago: boxes that hold jobs say so first, {pause:.0f} s at most"
            ]
        living = [box for box in self.boxes() if float(box["seen_seconds"]) < DEFAULT.silent]
        up = [box for box in living if box.get("status") != "stopped"]
        if not up:
            return ["no box is up: `pi0q worker` on a GPU machine makes it one"]
        return [f"{box['name']}: {_refusal(box, job.id)}" for box in up]

    def regroup_seconds(self) -> float:
        """How long claims still wait for the boxes to come back after a restart of the server; 0 if they don't."""
        until = self.client.hget(self.prefix + "server", "until")
        return max(0.0, (float(until or 0) - self.now_ms()) / 1000)

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


def _refusal(box: Mapping[str, str], job_id: str) -> str:
    if box.get("drain"):
        return f"takes no new jobs ({box.get('drain_text') or 'drained'}); `pi0q drain {box['name']} --undo` ends that"
    if int(box.get("running") or 0) >= int(box.get("slots") or 1):
        return f"busy, {box.get('running')} of {box.get('slots')} slots in use"
    return str(json.loads(box.get("refusals") or "{}").get(job_id, "has not looked at it yet"))


def _ms(time: tuple[int, int]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000

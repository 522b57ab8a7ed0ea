"""The store: every read and write of jobs and boxes in Redis. Each act that changes a job is one Lua script."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from pi0q.jobs.curve import MOST_POINTS
from pi0q.jobs.outcome import MAX_RUNS_WITHOUT_CHECKPOINT
from pi0q.jobs.record import Record, to_hash
from pi0q.jobs.state import State
from pi0q.jobs.transition import Transition
from pi0q.queue import affinity, box_fields, celery_message, refusals
from pi0q.queue.affinity import WarmBox
from pi0q.queue.ownership_lost import OwnershipLost, StaleServer
from pi0q.queue.refusals import Refusal
from pi0q.queue.reservation import CardReservation, Plan
from pi0q.queue.store_base import OLDER, number
from pi0q.queue.store_reads import DEFAULT, SCAN_DEPTH
from pi0q.queue.store_types import (
    Claimant,
    Claimed,
    CopyRuns,
    HeartbeatReply,
    LogChunk,
    Offer,
    PostrunStatus,
    Reservation,
    ServerMemory,
    UserRequests,
)
from pi0q.queue.timing import Timing
from pi0q.queue.user_store import UserStore
from pi0q.queue.waiting_index import Candidates, ScanPosition

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import PubSub

    from pi0q.queue.retention import Retention

#: Ended jobs that one prune script looks at: a few milliseconds of the server.
PRUNED_AT_ONCE = 100
#: Shapes of trainings of which the measured VRAM is kept.
MOST_SHAPES = 2000
#: Seconds that the server may take to say that it listens.
SUBSCRIBE_SECONDS = 5.0
#: Seconds after which a process that waits for words sees that it has to stop.
STOP_SECONDS = 1.0


class Store(UserStore):
    """Jobs and boxes below one prefix of one server, by redis-py. Raises redis.RedisError when it can't be reached."""

    client: Redis

    # -- acts: each one script, each atomic ------------------------------------------------------

    def claim(
        self, job_id: str, claimant: Claimant, reservation: Reservation, *, text: str, at_least: int = 0
    ) -> Claimed | str:
        """Take one queued job for a box, as `claim_first` does."""
        return self.claim_first([Offer(job_id=job_id, reservation=reservation, text=text, at_least=at_least)], claimant)

    def claim_first(self, offers: Sequence[Offer], claimant: Claimant) -> Claimed | str:
        """Take the first of these jobs that still waits for a box, if everything promised is as the box saw it.

        Else `gone` (other boxes were faster), `stale` (something was promised meanwhile: judge again),
        `reserved` (the cards are kept for another job),
        `drained` (a user keeps this box from new jobs) or `regrouping` (the server came back a moment ago:
        boxes that hold jobs say so first).
        """
        lease = int(claimant.lease_seconds * 1000)
        wanted = json.dumps([offer.to_json() for offer in offers], ensure_ascii=False)
        answer = self._run("claim_first", claimant.box, claimant.boot, lease, wanted)
        if answer[0] != "claimed":
            return str(answer[0])
        return Claimed(job_id=str(answer[1]), epoch=int(answer[2]))

    def keep_peak(self, shape: str, *, peak_mib: int, oom_mib: int, run: tuple[str, str], done: bool) -> None:
        """Keep the measured VRAM of a run for the next jobs of its shape.

        Args:
            shape: The shape's key.
            peak_mib: Most that torch held; 0 where it ran out of memory.
            oom_mib: What did not suffice it; 0 where it did not run out of memory.
            run: The job and its box.
            done: Whether it came to its last step.
        """
        told = {"peak_mib": peak_mib, "oom_mib": oom_mib, "job": run[0], "box": run[1]}
        self._run("peak", shape, json.dumps(told), int(done), MOST_SHAPES)

    def keep_pace(self, shape: str, run: tuple[str, str], seconds: float) -> None:
        """Keep how long a step of a run (job, box) took, for what the next of its shape will take."""
        self._run("pace", shape, *run, str(seconds), MOST_SHAPES)

    def next_candidates(
        self,
        box: str,
        free: tuple[int, ...] | None,
        position: ScanPosition,
        *,
        limit: int = 8,
        unchecked: int = 0,
        called: str = "",
    ) -> Candidates:
        """Return waiting jobs that fit a box and that it has not looked at, in the queue's order.

        `free`: MiB of its GPUs that no job was promised, the most first; None where the box takes no job. Once nothing
        is left to look at, the server wakes the box by `wake:<box>` when a job comes that fits. `unchecked`: of so many
        jobs that no box has asked the preflight for it will. `called`: the job that the box was woken for.
        """
        sizes = ["" if one is None else json.dumps(list(one)) for one in (free, position.free)]
        answer = self._run("next_candidates", box, *sizes, position.place, position.change, limit, unchecked, called)
        return Candidates.of(answer, free, position)

    def reserve(self, seen: Plan, reservations: Iterable[CardReservation], pressed: str) -> bool:
        """Replace all reservations; False, and nothing changed, if someone else has since this plan was seen.

        `pressed`: as `reservation.pressed_json`.
        """
        wanted = json.dumps([one.to_json() for one in reservations])
        return bool(self._run("reserve", seen.changes, wanted, pressed))

    def announced_refusals(
        self, job_ids: Sequence[str], boxes: Sequence[str]
    ) -> dict[tuple[str, str], tuple[Refusal, ...]]:
        """Return why boxes do not take jobs, by job and box, as far as they announced that."""
        pairs = [(job_id, box) for job_id in job_ids for box in boxes]
        pipe = self.client.pipeline(transaction=False)
        for job_id, box in pairs:
            pipe.hget(self.prefix + f"refusals:{box}", job_id)
        told = zip(pairs, pipe.execute() if pairs else (), strict=True)
        return {pair: refusals.loads(f'{{"{pair[0]}": {text}}}').get(pair[0], ()) for pair, text in told if text}

    def still_waiting(self, job_ids: Sequence[str]) -> set[str]:
        """Return those of these jobs that wait in the queue."""
        if not job_ids:
            return set()
        classes = self.client.hmget(self.prefix + "waiting", list(job_ids))
        return {job_id for job_id, one in zip(job_ids, classes, strict=True) if one is not None}

    def move(
        self, job_id: str, transition: Transition, *, box: str = "", lease_seconds: float | None = None
    ) -> State | None:
        """Carries a transition out. None, and nothing changed, if state or owner are no longer as expected.

        `box` is the owner's where an owner moves the job, `lease_seconds` the lease that it renews by that. Raises
        StaleServer.
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
            "" if lease_seconds is None else int(lease_seconds * 1000),
        )
        if answer[0] == OLDER:
            raise StaleServer(f"the server does not know of claim {transition.epoch} of {job_id}")
        return State(answer[1]) if answer[0] else None

    def record_preflight(self, job_id: str, box: str, found: Mapping[str, Any]) -> bool:
        """Record what a box found out about a queued job before any claim; False if it is queued no longer."""
        return bool(self._run("preflight", job_id, box, json.dumps(found))[0])

    def report(
        self,
        job_id: str,
        epoch: int,
        *,
        box: str = "",
        lease_seconds: float,
        fields: Mapping[str, Any],
        log: LogChunk | None = None,
    ) -> UserRequests:
        """Renew the lease, write progress, append to the log's tail; return what the user asks for.

        Raises OwnershipLost if the job is no longer this box's under this epoch, StaleServer if the server never knew
        that it was.
        """
        chunk = log or LogChunk(text="")
        written, log_at = _json(to_hash(fields)), "" if chunk.at is None else chunk.at
        answer = self._run("report", job_id, epoch, int(lease_seconds * 1000), written, chunk.text, box, log_at)
        if answer[0] == OLDER:
            raise StaleServer(f"the server does not know of claim {epoch} of {job_id}")
        if not answer[0]:
            raise OwnershipLost(f"{job_id} is no longer ours under claim {epoch}")
        return UserRequests.of(answer[1:])

    def put_curve(self, job_id: str, epoch: int, *, box: str, stay: int, points: Sequence[str]) -> int:
        """Replace what comes after the first `stay` points of a job's curve; return how many the server has now.

        `points` as jobs/curve.py writes them. Fewer than `stay` mean that nothing was changed: all must be sent. Raises
        OwnershipLost and StaleServer as `report`.
        """
        answer = self._run("curve", job_id, epoch, box, stay, json.dumps(list(points)), MOST_POINTS)
        if answer[0] == OLDER:
            raise StaleServer(f"the server does not know of claim {epoch} of {job_id}")
        if not answer[0]:
            raise OwnershipLost(f"{job_id} is no longer ours under claim {epoch}")
        return int(answer[1])

    def put_rank_logs(self, job_id: str, epoch: int, *, box: str, tails: Mapping[int, str]) -> None:
        """Replace the ends of the logs of a trainer's ranks other than 0; nothing, if the claim is over."""
        self._run("rank_logs", job_id, epoch, box, json.dumps({str(rank): tail for rank, tail in tails.items()}))

    def restore(
        self, job_id: str, epoch: int, claimant: Claimant, *, fields: Mapping[str, str], text: str, runs: bool
    ) -> bool:
        """Tell a server whose data are older that this box owns the job under this epoch; return whether it does now.

        `fields` is the whole record as the box's ledger has it (`raw`); `runs`: its runner lives. False: the server
        knows as much or more, and the job is someone else's or over.
        """
        lease = int(claimant.lease_seconds * 1000)
        args = (job_id, epoch, claimant.box, claimant.boot, lease, _json(fields), text, int(runs))
        return bool(self._run("restore", *args))

    def put_back(
        self, job_id: str, seen: Mapping[str, str], fields: Mapping[str, str], history: Sequence[str], *, text: str
    ) -> str:
        """Write fields of a damaged record that a backup has; return `back`, or why nothing was written.

        That is `changed` where the record is not as it was `seen`, `owned` where a box has the job under a later claim.
        `history` is written where the job has none. An admin's act.
        """
        return str(self._run("put_back", job_id, _json(seen), _json(fields), json.dumps(list(history)), text))

    def report_postrun(
        self, job_id: str, epoch: int, *, box: str, task: PostrunStatus, fields: Mapping[str, Any] | None = None
    ) -> int:
        """Write how a post-run task stands (workers/postrun/scheduler.py); return ms of the last request to try it.

        A task of the whole job is reported by the box where it ended, under the epoch of its end. `fields` belong to
        the record besides. Raises OwnershipLost, or StaleServer where the server does not know of that run.
        """
        status, more = json.dumps(dict(task.status)), _json(to_hash(fields or {}))
        answer = self._run("postrun", job_id, epoch, box, task.field, status, int(task.own), more)
        if answer[0] == OLDER:
            raise StaleServer(f"the server does not know of claim {epoch} of {job_id}")
        if not answer[0]:
            raise OwnershipLost(f"{job_id} did not end on {box} under claim {epoch}")
        return int(answer[1])

    def lacking(self) -> list[str]:
        """Return the ids of the jobs that are held because no box had what they read."""
        return list(self._run("lacking"))

    def ended_since(self, at_ms: int, limit: int) -> list[tuple[str, int]]:
        """Return ended jobs, each with when it ended, the oldest first: from `at_ms` to now."""
        found = self.client.zrangebyscore(
            self.prefix + "ended", at_ms, self.now_ms(), start=0, num=limit, withscores=True
        )
        return [(str(job), number(at)) for job, at in cast("list[tuple[str, float]]", found)]

    def sweep(self, *, every_seconds: float = 30.0) -> list[str]:
        """Requeue jobs of expired leases, restore lost messages and the index; return the ids of the jobs it repaired.

        Anyone may call it at any time: it does one step once in `every_seconds`. A step takes as long with many jobs
        as with few; it compares the next 60 jobs.
        """
        return list(self._run("sweep", max(1, int(every_seconds * 1000)), MAX_RUNS_WITHOUT_CHECKPOINT))

    def call_again(self) -> None:
        """Wake the next idle boxes for jobs that those woken a second ago have not claimed."""
        self._run("call_again")

    def prune(self, retention: Retention) -> list[str]:
        """Remove the records of ended jobs beyond the limits, a few at a time; return the ids removed."""
        keep_ms = -1 if retention.days is None else retention.days * 86_400_000
        keep_jobs = -1 if retention.jobs is None else retention.jobs
        removed: list[str] = []
        rank = 0
        while rank >= 0:
            rank, ids = self._run("prune", keep_ms, keep_jobs, rank, PRUNED_AT_ONCE)
            removed += map(str, ids)
        return removed

    def announce_box(
        self,
        name: str,
        box_id: str,
        fields: Mapping[str, Any],
        *,
        timing: Timing = DEFAULT,
        memory: ServerMemory | None = None,
        boot: str = "",
    ) -> HeartbeatReply | None:
        """Record a box's heartbeat and what it has. None if another living box has this name.

        `boot` tells a box from a copy of its disk that runs beside it; raises CopyRuns for the copy.
        `memory` is of the last reply: more heartbeats than the server knows of mean that its data are older, and then
        the box's drain is right.
        """
        known = memory or ServerMemory()
        spans = [int(seconds * 1000) for seconds in (timing.lease, timing.silent, timing.claim_holdoff)]
        written = json.dumps(box_fields.written(to_hash(fields)), ensure_ascii=False)
        answer = self._run("heartbeat", name, box_id, written, *spans, known.heartbeats, known.drain, boot)
        if not answer[0]:
            if len(answer) > 1:
                raise CopyRuns
            return None
        _, counted, server, drain, older, left, displaced, found = answer
        return HeartbeatReply(
            heartbeats=int(counted),
            server=str(server),
            drain=str(drain),
            older=bool(older),
            claim_holdoff_seconds=int(left) / 1000,
            displaced=bool(displaced),
            copy_found=bool(found),
        )

    def wake(self, box: str, word: str) -> int:
        """Wake a box: `""` where it is to send a heartbeat, else to look for jobs. Return how many workers heard it."""
        return int(self.client.publish(f"{self.prefix}wake:{box}", word))

    def free_boxes(self, gpus: int, vram_mib: int) -> list[WarmBox]:
        """Return boxes with so many cards free for a job, as their last heartbeats say, the tightest first."""
        key, least = f"{self.prefix}room:{gpus}", max(1, vram_mib) if gpus else 0
        names = list(map(str, self.client.zrangebyscore(key, least, "+inf", start=0, num=affinity.MOST_BOXES)))
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            pipe.hmget(f"{self.prefix}box:{name}", ["gpus", "warm"])
        found = zip(names, pipe.execute(), strict=True)
        return [box for name, (gpus, warm) in found if (box := affinity.announced(name, gpus, warm))]

    def starting_by(self, at_ms: int) -> list[Record]:
        """Return the next jobs that wait for a time which comes by then, each with what a box judges it by."""
        ids = self.client.zrangebyscore(self.prefix + "timed", "-inf", at_ms, start=0, num=SCAN_DEPTH)
        return self.records(map(str, ids))

    def boot_of(self, box: str) -> str:
        """Return the boot that a box has announced; "" if none."""
        return str(self.client.hget(f"{self.prefix}box:{box}", "boot") or "")

    def redeliver(self, job_id: str, box: str) -> None:
        """Puts the job's message into its box's own queue once more; a second copy starts nothing."""
        raw = self.client.hget(self.prefix + f"job:{job_id}", "message")
        if raw:
            self.client.lpush(self.prefix + celery_message.box_key(box), str(raw))

    # -- waiting for changes ----------------------------------------------------------------------

    def subscribe(self, *channels: str) -> PubSub:
        """Listens to `changes` or `wake`: to all that is said from its return on. `heard` reads from it."""
        pubsub: PubSub = self.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        pubsub.subscribe(*(self.prefix + channel for channel in channels))
        for _ in channels:
            # The server's word that it listens; redis-py makes None of it.
            pubsub.get_message(timeout=SUBSCRIBE_SECONDS)
        return pubsub


def heard(pubsub: PubSub, timeout: float) -> Iterator[str]:
    """What was said on the channels: waits for the first word up to `timeout` seconds, then takes what is there."""
    while (said := pubsub.get_message(timeout=timeout)) is not None:
        timeout = 0.0
        yield str(said["data"])


def await_news(pubsub: PubSub, job_id: str | None, seconds: float, stopping: threading.Event | None = None) -> bool:
    """Wait for a word on one job, or on any, `seconds` at the most; return whether there may be news.

    Who waits looks again in any case: where a connection breaks, words are lost with it.

    Args:
        stopping: Set by a signal's handler, which does not end a wait for words by itself: looked at once a second.
    """
    import redis

    give_up = time.monotonic() + seconds
    # redis-py has reconnected when it tells that it had to.
    with suppress(redis.ConnectionError):
        while (left := give_up - time.monotonic()) > 0:
            words = list(heard(pubsub, left if stopping is None else min(left, STOP_SECONDS)))
            if words and job_id in (None, *words):
                return True
            if stopping is not None and stopping.is_set():
                return False
        return False
    return True


def _json(fields: Mapping[str, str]) -> str:
    return json.dumps(fields, ensure_ascii=False)

"""What lies on the server, read: jobs, boxes, promises, logs. Nothing here changes anything."""

from __future__ import annotations

import heapq
import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pi0q.jobs import vram_peak
from pi0q.jobs.errors import BadRecord, NotFound
from pi0q.jobs.printable import printable, printable_json
from pi0q.jobs.record import HISTORY, STORED, Record, Use, from_hash, keys_for
from pi0q.jobs.state import State
from pi0q.jobs.vram_peak import Peak
from pi0q.queue import box_fields, job_references
from pi0q.queue.job_list import Counts, Page, display_order
from pi0q.queue.store_base import StoreBase, number
from pi0q.queue.timing import timing

if TYPE_CHECKING:
    from pi0q.jobs.cost import Hold, Price, UserBudget
    from pi0q.queue.reservation import Plan

#: Waiting jobs of which `pi0q why` tells those before its own.
SCAN_DEPTH = 200
#: Jobs that are asked for in one go, so that neither end holds the answers of a hundred thousand at once.
SLICE = 2000
#: Milliseconds between two marks of a log (queue/lua/report.lua).
MARK_MS = 10_000
#: Fields of the record that `ls` needs.
LISTED = keys_for(Use.LISTED)
#: All the others.
UNLISTED = tuple(one.key for one in STORED if Use.LISTED not in one.uses and one.codec is not HISTORY)
#: What it reads of the jobs that it owns.
OWNED = keys_for(Use.OWNED)
#: The times of the default lease.
DEFAULT = timing(600.0, 0.8)


class StoreReads(StoreBase):
    """Reads; nothing here changes anything. Raises the client's error when the server can't be reached."""

    def waiting(self, depth: int = SCAN_DEPTH) -> list[Record]:
        """The jobs next in the queue, most urgent and oldest first, each with what a box judges it by.

        Without those whose records cannot be read.
        """
        return self.records(map(str, self._run("first_waiting", depth)))

    def holds(self, since_ms: int = 0) -> list[Hold]:
        """Return what jobs took of boxes: claims that ended at or after a time, and those that go on."""
        found, place = list[Any](), 0
        while entries := self._run("costs", since_ms, SLICE, place):
            found += entries
            place += len(entries)
            if len(entries) < SLICE:
                break
        for job_id in self.client.zrange(self.prefix + "leases", 0, -1):
            found += self._run("job_costs", str(job_id), 1)
        return _holds(found)

    def job_holds(self, job_id: str) -> list[Hold]:
        """Return what one job took of boxes, the present claim included."""
        return _holds(self._run("job_costs", job_id, 0))

    def prices(self) -> dict[str, Price]:
        """Return what boxes cost an hour, by name."""
        from pi0q.jobs.cost import Price

        found = {}
        for box, text in sorted(self.client.hgetall(self.prefix + "prices").items()):
            with suppress(ValueError, RecursionError):
                if price := Price.of_json(json.loads(text)):
                    found[printable(str(box))] = price
        return found

    def budgets(self) -> dict[str, UserBudget]:
        """Return what the jobs of users may cost, by user."""
        from pi0q.jobs.cost import UserBudget

        found = {}
        for user, text in sorted(self.client.hgetall(self.prefix + "budgets").items()):
            with suppress(ValueError, RecursionError):
                if budget := UserBudget.of_json(json.loads(text)):
                    found[printable(str(user), lines=False)] = budget
        return found

    def plan(self, *, every_seconds: float = 0.0) -> Plan:
        """Return what is reserved for whom. `due`: the caller is to plan anew; one caller in `every_seconds` is."""
        # Most commands need nothing of it.
        from pi0q.queue.reservation import Plan

        return Plan.of(self._run("reservations", int(every_seconds * 1000)))

    def waiting_needs(self, depth: int) -> dict[str, tuple[int, int]]:
        """GPUs and MiB of VRAM on each that the jobs next in the queue need, by job."""
        ids = list(map(str, self._run("first_waiting", depth)))
        classes = self.client.hmget(self.prefix + "waiting", ids) if ids else []
        return {job_id: _needs(str(one)) for job_id, one in zip(ids, classes, strict=True) if one is not None}

    def waiting_by_needs(self) -> dict[tuple[int, int], int]:
        """How many jobs wait, by GPUs and MiB of VRAM on each."""
        classes = list(map(str, self.client.zrange(self.prefix + "classes", 0, -1)))
        pipe = self.client.pipeline(transaction=False)
        for one in classes:
            pipe.zcard(self.prefix + f"class:{one}")
        found: dict[tuple[int, int], int] = {}
        for one, count in zip(classes, pipe.execute(), strict=True):
            found[_needs(one)] = found.get(_needs(one), 0) + int(count)
        return found

    def records(self, ids: Iterable[str]) -> list[Record]:
        """Return whole jobs, for a box to judge; one that is gone or damaged is left out.

        Whole, so that no box claims a job of which a field that it reads only later is damaged.
        """
        return self._records(ids, extra=UNLISTED)

    def formerly_owned(self, box: str) -> list[Record]:
        """The waiting jobs that this box owned last, each with what a box judges it by."""
        return self.records(sorted(map(str, self.client.smembers(self.prefix + f"former:{box}"))))

    def raw(self, job_id: str) -> dict[str, str]:
        """A job's record as it lies on the server; empty if there is none."""
        found: dict[str, str] = self.client.hgetall(self.prefix + f"job:{job_id}")
        return found

    def get(self, job_id: str) -> Record:
        """One job with its history. Raises NotFound, and BadRecord where its record cannot be read."""
        return self.get_with_raw(job_id)[0]

    def get_with_raw(self, job_id: str) -> tuple[Record, dict[str, str]]:
        """`get`, and the record as it lies on the server, for the ledger of the box that owns the job."""
        pipe = self.client.pipeline(transaction=False)
        pipe.hgetall(self.prefix + f"job:{job_id}")
        pipe.lrange(self.prefix + f"history:{job_id}", 0, -1)
        fields, history = pipe.execute(raise_on_error=False)
        if not fields:
            raise NotFound(f"There is no job {job_id}. `pi0q ls --all` lists every job.")
        try:
            return _read(job_id, fields, history), fields
        except BadRecord as error:
            self.on_broken(error)
            raise

    def page(self, *, live: int = 50, ended: int = 20, whole: bool | None = None) -> Page:
        """Jobs in the order of a list: running, queued, held, ended.

        Args:
            live: How many running and how many queued jobs at most, and among how many of the oldest that have not
                ended held jobs are looked for; 0 or -1 for all.
            ended: How many of the newest ends at most; -1 for all.
            whole: Read every field of those that have not ended, so that each damage shows; None: of up to SLICE.
        """
        last = live - 1 if live > 0 else -1
        pipe = self.client.pipeline(transaction=False)
        pipe.zrange(self.prefix + "live", 0, last)
        pipe.zrange(self.prefix + "leases", 0, last)
        pipe.zrange(self.prefix + "classes", 0, -1)
        pipe.zrange(self.prefix + "sweeps", 0, -1)
        pipe.zrevrange(self.prefix + "ended", 0, ended - 1 if ended > 0 else -1)
        for key in ("live", "ended", "leases", "conditional"):
            pipe.zcard(self.prefix + key)
        pipe.hlen(self.prefix + "waiting")
        pipe.time()
        living, owned, classes, sweeps, over, *numbers, now = pipe.execute()
        counts = Counts(**dict(zip(("live", "ended", "active", "waiting", "queued"), numbers, strict=True)))
        places = self._places(list(map(str, classes)), live if live > 0 else counts.queued)
        ids = list(dict.fromkeys([*owned, *places, *sweeps, *living]))
        whole = len(ids) <= SLICE if whole is None else whole
        broken: list[BadRecord] = []
        forecast = () if whole else frozenset(list(places)[:SCAN_DEPTH])
        jobs = self._records(ids, extra=UNLISTED if whole else (), forecast=forecast, broken=broken)
        if live > 0:
            # Of the oldest that live, those that are queued but not next are not on this page.
            jobs = [job for job in jobs if job.state is not State.QUEUED or job.id in places]
        jobs += self._records(over if ended else [], broken=broken)
        shown = {job.id: job for job in jobs}
        return Page(
            jobs=tuple(display_order(shown.values(), places)),
            counts=counts,
            now_ms=_ms(now),
            broken=tuple(broken),
            places=places,
        )

    def _places(self, classes: Sequence[str], limit: int) -> dict[str, int]:
        """The jobs next in the queue by their places, 0 for the very next, as `heads` in common.lua finds them."""
        pipe = self.client.pipeline(transaction=False)
        for one in classes:
            pipe.zrange(self.prefix + f"class:{one}", 0, limit - 1, withscores=True)
        heads = heapq.nsmallest(limit, ((score, job) for found in pipe.execute() for job, score in found))
        return {str(job): place for place, (_, job) in enumerate(heads)}

    def stamps(self, *, ended: int) -> dict[str, str]:
        """When each job last changed, as text: of the newest `ended` that have ended "", of all others `updated_ms`."""
        pipe = self.client.pipeline(transaction=False)
        pipe.zrange(self.prefix + "live", 0, -1)
        pipe.zrevrange(self.prefix + "ended", 0, ended - 1)
        living, over = pipe.execute()
        found = dict.fromkeys(reversed(over), "")
        for at in range(0, len(living), SLICE):
            pipe = self.client.pipeline(transaction=False)
            for job_id in living[at : at + SLICE]:
                pipe.hget(self.prefix + f"job:{job_id}", "updated_ms")
            found |= zip(living[at : at + SLICE], map(str, pipe.execute(raise_on_error=False)), strict=True)
        return found

    def listed(self, ids: Iterable[str]) -> list[Record]:
        """Jobs with what `pi0q ls` shows of them; one that is gone or damaged is left out."""
        return self._records(ids)

    def owned(self, box: str) -> list[Record]:
        """The jobs that a box owns, without those whose records cannot be read."""
        ids = map(str, self.client.smembers(self.prefix + f"owned:{box}"))
        return self._records(sorted(ids), extra=OWNED)

    def promises(self, resources: Sequence[str]) -> dict[str, tuple[int, dict[str, int]]]:
        """What is promised of each resource: how often that changed, and job -> MiB."""
        pipe = self.client.pipeline(transaction=False)
        for resource in resources:
            pipe.hgetall(self.prefix + f"promises:{resource}")
        found = {}
        for resource, raw in zip(resources, pipe.execute(), strict=True):
            changes = number(raw.pop("#", 0))
            found[resource] = (changes, {job: number(mib) for job, mib in raw.items()})
        return found

    def boxes(self, *, about: str = "") -> list[dict[str, str]]:
        """What each box said of itself, with `name`, `seen_seconds` ago, and `refused`: how many jobs it refuses.

        `about`: a job, whose entries alone are in the fields `refusals` and `plans`; EVERY_JOB for all. With many
        boxes and jobs that is long.
        """
        pipe = self.client.pipeline(transaction=False)
        pipe.zrange(self.prefix + "boxes", 0, -1, withscores=True)
        pipe.time()
        seen, now = pipe.execute()
        pipe = self.client.pipeline(transaction=False)
        for name, _ in seen:
            pipe.hmget(self.prefix + f"box:{name}", box_fields.ASKED)
            pipe.hlen(self.prefix + f"refusals:{name}")
            for field in box_fields.PER_JOB if about else ():
                key = self.prefix + f"{field}:{name}"
                pipe.hgetall(key) if about == box_fields.EVERY_JOB else pipe.hget(key, about)
        told, width = pipe.execute(), 2 + (len(box_fields.PER_JOB) if about else 0)
        return [
            {
                **printable_json(box_fields.read(about, *told[index * width : (index + 1) * width])),
                "name": printable(str(name)),
                "seen_seconds": str(max(0.0, (_ms(now) - at) / 1000)),
            }
            for index, (name, at) in enumerate(seen)
        ]

    def boxes_about(self, job_ids: Sequence[str], most: int) -> list[dict[str, str]]:
        """As `boxes`, with the refusals of these jobs; without them where there are more boxes than `most`."""
        found = self.boxes()
        if not job_ids or len(found) > most:
            return found
        pipe = self.client.pipeline(transaction=False)
        for box in found:
            pipe.hmget(self.prefix + f"refusals:{box['name']}", list(job_ids))
        for box, texts in zip(found, pipe.execute(), strict=True):
            told = {job: text for job, text in zip(job_ids, texts, strict=True) if text}
            box |= box_fields.readable({"refusals": box_fields.joined(told)}) if told else {}
        return found

    def kept_on_seconds(self, box: str) -> float:
        """Return for how long a person still wants a box not to switch itself off."""
        until = self.client.hget(self.prefix + f"box:{box}", "keep_on")
        return max(0.0, (number(until) - self.now_ms()) / 1000) if until else 0.0

    def claim_holdoff_seconds(self) -> float:
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
        return text or "", number(total)

    def rank_tails(self, job_id: str) -> dict[int, str]:
        """Return the ends of the logs of a trainer's ranks other than 0, in their order; what is none is left out."""
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            told = json.loads(self.client.get(self.prefix + f"tail:{job_id}:ranks") or "{}").items()
            ranks = {int(rank): text for rank, text in told if str(rank).isascii() and str(rank).isdigit()}
            return {rank: text for rank, text in sorted(ranks.items()) if isinstance(text, str)}
        return {}

    def log_since(self, job_id: str, since_ms: int) -> int:
        """Return the bytes of a job's log before what was reported after a time, to within MARK_MS."""
        text, total = self.client.hmget(self.prefix + f"job:{job_id}", ["log_marks", "log_bytes"])
        try:
            marks = [(int(at), int(before)) for at, before in json.loads(text or "[]")]
        except (ValueError, TypeError):
            marks = []
        later = [before for at, before in marks if at > since_ms - MARK_MS]
        # One of an older version has no marks: all that is known is told.
        return 0 if not marks or len(later) == len(marks) else later[0] if later else number(total)

    def resolve(self, reference: str) -> str:
        """The id of the job that a full id, a name, or a unique beginning of an id means. Raises NotFound, UsageError.

        Of several jobs of one name it is the one that has not ended, else the newest.
        """
        return job_references.resolve(self, reference)

    def peaks(self, keys: list[str]) -> dict[str, Peak]:
        """Return the measured VRAM of trainings, by the key of their shape; what pi0q did not write is left out."""
        found = {}
        for key, text in zip(keys, self.client.hmget(self.prefix + "peaks", keys) if keys else (), strict=True):
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                found[key] = vram_peak.read(text or "")
        return found

    def now_ms(self) -> int:
        """The server's clock, the only one that leases know."""
        return _ms(self.client.time())

    def _records(
        self,
        ids: Iterable[str],
        extra: tuple[str, ...] = (),
        *,
        forecast: Collection[str] = (),
        broken: list[BadRecord] | None = None,
    ) -> list[Record]:
        """Return the records that can be read, in this order; the others go into `broken` and to `on_broken`.

        `forecast`: those of which `spec` is read besides: when a job may start depends on how long those before it
        take, which their files tell.
        """
        found, left = list[Record](), list(ids)
        names, more = list(LISTED + extra), [*LISTED, *extra, "spec"]
        while left:
            part, left = left[:SLICE], left[SLICE:]
            pipe = self.client.pipeline(transaction=False)
            for job_id in part:
                pipe.hmget(self.prefix + f"job:{job_id}", more if job_id in forecast else names)
            for job_id, row in zip(part, pipe.execute(raise_on_error=False), strict=True):
                if isinstance(row, list):
                    # A row of `more` is one longer.
                    row = {name: value for name, value in zip(more, row, strict=False) if value is not None}
                if not row:
                    continue
                try:
                    found.append(_read(job_id, row, ()))
                except BadRecord as error:
                    self.on_broken(error)
                    if broken is not None:
                        broken.append(error)
        return found


def _read(job_id: str, fields: Any, history: Any) -> Record:
    """Return the record that the server answered. Raises BadRecord, and the server's other refusals."""
    for answer in (fields, history):
        if isinstance(answer, Exception) and not _other_type(answer):
            raise answer
    if isinstance(fields, Exception):
        raise BadRecord(job_id, "record", "is not a hash")
    return from_hash(fields, history if isinstance(history, list) else (), job_id=job_id)


def _holds(entries: Iterable[Any]) -> list[Hold]:
    from pi0q.jobs.cost import Hold

    return [hold for text in entries if (hold := Hold.of_json(str(text))) is not None]


def _other_type(refusal: Exception) -> bool:
    """Return whether the key holds something else than the command is for."""
    return "WRONGTYPE" in (getattr(refusal, "code", ""), str(refusal).partition(" ")[0])


def _needs(one: str) -> tuple[int, int]:
    """Read a class of the index (queue/lua/common.lua)."""
    gpus, vram_mib, *_ = one.split(":")
    return int(gpus), int(vram_mib)


def _ms(time: tuple[int, int]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000

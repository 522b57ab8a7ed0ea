"""Which job a user means: by its id, the beginning of that, or its name."""

from __future__ import annotations

import heapq
import unicodedata
from collections.abc import Sequence

from pi0q.jobs.errors import NotFound, UsageError
from pi0q.jobs.state import State
from pi0q.queue.job_text import clock
from pi0q.queue.store_base import StoreBase, number

#: Jobs that a message names.
SHOWN_IDS = 5
#: Characters that the beginning of an id has at the least, as of a commit in git.
SHORTEST_ID = 4
#: Ids that are asked for in one go.
SLICE = 2000
#: The last moment that a date is written for: the end of the year 9999, milliseconds since 1970.
LATEST_MS = 253_402_300_799_000
#: Jobs of one name, by the time they ended, among which the one submitted last is searched.
LATEST = 50


def resolve(store: StoreBase, reference: str) -> str:
    """The id of the job that a full id, a name, or a unique prefix of an id means. Raises NotFound, UsageError.

    Of several jobs of one name it is the one that has not ended, else the newest.
    """
    # Names are kept in this form; a terminal may type the other.
    reference = unicodedata.normalize("NFC", reference)
    lookup = store.prefix + "lookup"
    pipe = store.client.pipeline(transaction=False)
    pipe.zrange(lookup, f"[n:{reference}\0", f"[n:{reference}\0\xff", bylex=True, offset=0, num=2)
    pipe.zrange(lookup, f"[i:{reference}", f"[i:{reference}\xff", bylex=True, offset=0, num=SHOWN_IDS)
    pipe.zlexcount(lookup, f"[i:{reference}", f"[i:{reference}\xff")
    named, started, count = pipe.execute()
    # A whole id comes before all that it begins.
    if started[:1] == [f"i:{reference}"]:
        return reference
    ids = [_id_of(member) for member in named or started]
    if len(named) > 1:
        ids = _of_name(store, reference)
        count = len(ids)
    if not named and len(reference) < SHORTEST_ID:
        ids = []
    if not ids or not reference:
        raise NotFound(_unknown(store, reference))
    if len(ids) > 1:
        raise UsageError(_ambiguous(store, reference, sorted(ids)[:SHOWN_IDS], count))
    return ids[0]


def _unknown(store: StoreBase, reference: str) -> str:
    """Return what is told of a reference to no job: what it lacks, and names that begin alike."""
    if 0 < len(reference) < SHORTEST_ID:
        told = (
            f"{reference!r} is no job's name, and too short for the beginning of an id: give at least {SHORTEST_ID} "
            "characters."
        )
    else:
        told = f"No job's id starts with {reference!r} and none has that name. `pi0q ls --all` lists every job."
    members = store.client.zrange(
        store.prefix + "lookup", f"[n:{reference}", f"[n:{reference}\xff", bylex=True, offset=0, num=SHOWN_IDS
    )
    names = dict.fromkeys(str(member)[2:].rpartition("\0")[0] for member in members) if reference else {}
    return f"{told} Names that begin so: {', '.join(names)}." if names else told


def _ambiguous(store: StoreBase, reference: str, ids: Sequence[str], count: int) -> str:
    """Return what is told of a reference to several jobs: each with its name, its state and when it came."""
    pipe = store.client.pipeline(transaction=False)
    for job_id in ids:
        pipe.hmget(store.prefix + f"job:{job_id}", ["name", "state", "created_ms"])
    lines = [
        f"  {job_id}  {name}  {_label(state)}  submitted {clock(min(number(created_ms), LATEST_MS))}"
        for job_id, (name, state, created_ms) in zip(ids, pipe.execute(), strict=True)
    ]
    more = [f"  … and {count - len(ids)} more"] if count > len(ids) else []
    return "\n".join([f"{reference!r} could mean {count} jobs:", *lines, *more, "Fix: give the id of one of them."])


def _label(state: object) -> str:
    """Return the word for a state as it lies in a record, which anyone may have written."""
    known = {one.value: one.label for one in State}
    return known.get(str(state), "broken")


def _of_name(store: StoreBase, name: str) -> list[str]:
    """The jobs of a name that have not ended; if none, the newest of it alone. No record is read for that."""
    living, ended = list[str](), list[tuple[float, str]]()
    after, end = f"[n:{name}\0", f"[n:{name}\0\xff"
    while True:
        members = store.client.zrange(store.prefix + "lookup", after, end, bylex=True, offset=0, num=SLICE)
        ids = list(map(_id_of, members))
        if ids:
            pipe = store.client.pipeline(transaction=False)
            for key in ("live", "ended"):
                pipe.zmscore(store.prefix + key, ids)
            lives, ends = pipe.execute()
            living += [job_id for job_id, score in zip(ids, lives, strict=True) if score is not None]
            over = [(score, job_id) for job_id, score in zip(ids, ends, strict=True) if score is not None]
            ended = heapq.nlargest(LATEST, ended + over)
        if len(ids) < SLICE:
            break
        after = f"({members[-1]}"
    if living:
        return living
    # The job that ended last need not be the one that was submitted last.
    pipe = store.client.pipeline(transaction=False)
    for _, job_id in ended:
        pipe.hget(store.prefix + f"job:{job_id}", "created_ms")
    created = [(number(at), job_id) for at, (_, job_id) in zip(pipe.execute(), ended, strict=True)]
    return [max(created)[1]] if created else []


def _id_of(member: str) -> str:
    """Return the job's id of a member of `lookup`: `i:<id>` or `n:<name>\\0<id>`."""
    return member.rpartition("\0")[2] if member.startswith("n:") else member[2:]

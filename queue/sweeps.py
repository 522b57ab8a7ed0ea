"""A sweep on the server: queue its trials, find them, act on all of them; fold them in lists."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pi0q.jobs import sweep_trials
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.jobs.sweep import TPE, Tally, trial_name
from pi0q.queue import measured_peaks, signing
from pi0q.queue.job_list import Page
from pi0q.queue.submission import Known, fields_of

if TYPE_CHECKING:
    from pi0q.queue.measured_peaks import Peaks
    from pi0q.queue.store_reads import StoreReads
    from pi0q.queue.user_store import UserStore

#: Trials that one script queues: some milliseconds of the server.
AT_ONCE = 50


def fields(spec: Spec) -> dict[str, Any]:
    """Return what the record of a sweep keeps besides that of a job; nothing for a single job."""
    if spec.sweep is None:
        return {}
    tally = Tally(total=spec.sweep.total, metric=spec.sweep.metric, kind=spec.sweep.kind)
    return {"trials": tally, "max_parallel": spec.sweep.parallel or ""}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which trial of which sweep a job is."""

    sweep_id: str
    #: From 1 on.
    number: int
    values: Mapping[str, Any]


def trials(spec: Spec, sweep_id: str, *, submitter: str, known: Known, peaks: Peaks) -> list[dict[str, Any]]:
    """Return the records of all trials of a sweep; none of a search, whose trials are proposed one by one."""
    assert spec.sweep is not None
    numbers = range(1, spec.sweep.total + 1) if spec.sweep.kind != TPE else ()
    return [
        trial_fields(
            sweep_trials.trial(spec, number),
            os.urandom(6).hex(),
            Place(sweep_id=sweep_id, number=number, values=spec.sweep.values(number)),
            submitter=submitter,
            known=known,
            peaks=peaks,
        )
        for number in numbers
    ]


def trial_fields(
    spec: Spec, job_id: str, place: Place, *, submitter: str, known: Known, peaks: Peaks
) -> dict[str, Any]:
    """Return the record of one trial."""
    own = replace(known, peak=measured_peaks.find(peaks, spec, known.images))
    fresh = fields_of(spec, job_id, submitter=submitter, known=own)
    return {**fresh, "sweep": place.sweep_id, "sweep_number": place.number, "sweep_values": dict(place.values)}


def put(store: UserStore, sweep_id: str, records: list[dict[str, Any]], *, text: str) -> None:
    """Queue the trials of a sweep, signed where the user has a key; a trial that is there already is left as it is."""
    signed = [signing.signed(one, store.prefix) for one in records]
    for at in range(0, len(signed), AT_ONCE):
        store.submit_trials(sweep_id, signed[at : at + AT_ONCE], text=text)


def sentence(spec: Spec) -> str:
    """Return what a submit says of a sweep."""
    assert spec.sweep is not None
    total, most = spec.sweep.total, spec.sweep.parallel
    at_once = f", at most {most} at a time" if most else ""
    if spec.sweep.kind == TPE:
        return f"It is a search of {total} trials for the least {spec.sweep.metric}{at_once}."
    return f"It is a sweep of {total} trials, {trial_name(spec.name, 1)} to {total:04d}{at_once}."


def no_searcher(store: UserStore) -> list[str]:
    """Return what is said where no process proposes trials."""
    if store.client.get(f"{store.prefix}searching"):
        return []
    return [
        "Nothing proposes its trials now: it waits for that.\nFix: pip install 'pi0q[search]' on the queue's machine, "
        "then pi0q search there, or start pi0q up anew."
    ]


# -- acts on all trials --------------------------------------------------------------------------------


def living(store: StoreReads, sweep_id: str) -> list[Record]:
    """Return the trials of a sweep that have not ended, by number."""
    return [job for job in all_trials(store, sweep_id) if job.state not in ENDED]


def all_trials(store: StoreReads, sweep_id: str) -> list[Record]:
    """Return the trials of a sweep, by number; of one that was retried, the job that goes on from it."""
    ids = store.client.hgetall(f"{store.prefix}sweep:{sweep_id}")
    return sorted(store.listed(map(str, ids.values())), key=lambda job: job.sweep_number or 0)


def act(
    store: StoreReads, sweep: Record, do: Callable[[Record], object], chosen: Callable[[Record], bool] = lambda _: True
) -> str:
    """Do something with each chosen trial that has not ended; return a line that says how many were in which state.

    Each is a compare-and-set of its own: a trial that ends meanwhile is left as it ended.
    """
    jobs = list(filter(chosen, living(store, sweep.id)))
    # The last first: of those that wait for their turn none gets it in between.
    for job in reversed(jobs):
        do(job)
    counts = Counter("running" if job.state in OWNED else job.label for job in jobs)
    told = ", ".join(f"{count} {word}" for word, count in counts.items())
    return f"\nWith it {len(jobs)} trial{'s' * (len(jobs) != 1)}" + (f": {told}." if told else ".")


# -- lists ---------------------------------------------------------------------------------------------


def folded(page: Page) -> Page:
    """Return the page with one line for each sweep, in place of those of its trials."""
    made = {job.id: job.trials.made for job in page.jobs if job.trials}
    kept = tuple(job for job in page.jobs if job.sweep not in made)
    return replace(page, jobs=in_place(kept, page), folded=sum(made.values()))


def unfolded(page: Page) -> Page:
    """Return the page with the trials of each sweep behind its own line."""
    jobs = in_place(page.jobs, page)
    sweeps = {job.id for job in jobs if job.trials}
    below: dict[str, list[Record]] = {}
    for job in jobs:
        if job.sweep in sweeps:
            below.setdefault(job.sweep, []).append(job)
    order = [
        one
        for job in jobs
        if job.sweep not in sweeps
        for one in (job, *sorted(below.get(job.id, ()), key=lambda trial: trial.sweep_number or 0))
    ]
    return replace(page, jobs=tuple(order))


def in_place(jobs: Iterable[Record], page: Page) -> tuple[Record, ...]:
    """Return jobs so that a sweep stands where the first of its trials would: among the running or the queued ones."""
    ranks: dict[str, int] = {}
    for at, job in enumerate(page.jobs):
        if job.sweep and job.state not in ENDED and job.state is not State.WAITING:
            ranks.setdefault(job.sweep, at)
    order = {job.id: at for at, job in enumerate(page.jobs)}

    def rank(job: Record) -> tuple[float, int]:
        live = job.trials and job.state not in ENDED
        return (ranks.get(job.id, order[job.id]) - 0.5 if live else order[job.id]), order[job.id]

    return tuple(sorted(jobs, key=rank))


def running(page: Page) -> Mapping[str, int]:
    """Return how many trials run, by the id of their sweep, as far as the page has them."""
    return Counter(job.sweep for job in page.jobs if job.sweep and job.state in OWNED)

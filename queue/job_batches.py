"""Queue the jobs of one submit: those that wait for others after these, sweeps with all their trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pi0q.jobs.spec import Spec
from pi0q.jobs.sweep import TPE
from pi0q.queue.submission import Known, fingerprint, put, steps

if TYPE_CHECKING:
    from pi0q.jobs.forecast import Forecast
    from pi0q.queue.dependencies import Awaited
    from pi0q.queue.placement import Placement
    from pi0q.queue.user_store import UserStore


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job that is about to be queued."""

    spec: Spec
    #: Its record, as `submission.new_fields` has it.
    fields: Mapping[str, Any]
    known: Known
    #: Whether it starts from the last checkpoint of a job that it waits for.
    pending: bool = False


def find_awaited(store: UserStore, specs: Sequence[Spec]) -> Awaited | None:
    """Return the jobs that these wait for; None where none waits for anything. Raises UsageError."""
    if not any(spec.conditions for spec in specs):
        return None
    from pi0q.queue import dependencies

    return dependencies.find(store, specs)


def put_all(
    store: UserStore, prepared: Sequence[Prepared], awaited: Awaited | None, *, again: bool
) -> list[dict[str, Any]]:
    """Queue the jobs, in this order; return what `pi0q submit --json` prints of each.

    Args:
        awaited: The jobs that these wait for; None where none waits for anything.
        again: Whether a job is queued though the same one was a moment ago.
    """
    if awaited is None:
        return [_put(store, job, {}, again=again) for job in prepared]
    from dataclasses import replace

    from pi0q.queue import dependencies

    ids, now_ms, submitted = {word: job.id for word, job in awaited.known.items()}, store.now_ms(), []
    for job in prepared:
        named = dependencies.with_ids(job.spec, ids)
        waits = dependencies.fields(named, now_ms=now_ms, pending=job.pending)
        own = replace(job, spec=named, fields={**job.fields, "spec": named.to_json()})
        told = _put(store, own, waits, again=again)
        ids.setdefault(job.spec.name, told["id"])
        sentences = dependencies.sentences(job.spec, awaited, now_ms=now_ms)
        submitted.append({**told, "waits": [*told.get("waits", ()), *sentences]} if sentences else told)
    return submitted


def forecasts(
    prepared: Sequence[Prepared], places: Sequence[Placement], submitted: Sequence[dict[str, Any]]
) -> Iterator[str]:
    """Yield what each new job will take, by the pace of earlier ones; put it into what `--json` prints."""
    for job, place, told in zip(prepared, places, submitted, strict=True):
        found = _forecast(job.spec, place) if told["new"] else None
        told["forecast"] = found and found.to_json()
        if found:
            yield f"{job.spec.name}: {found.sentence(job.spec.budget)}"


def forecast_plans(
    open_store: Callable[[], UserStore],
    specs: Sequence[Spec],
    shapes: Sequence[Sequence[str]],
    plans: Sequence[dict[str, Any]],
    silent_seconds: float,
) -> list[str]:
    """Put into the plans of a dry run what they will take, and return it in words; nothing without a server."""
    for plan in plans:
        plan["forecast"] = None
    if not any(shapes):
        return []
    choices = [spec.resources.where.to_json() if spec.resources.where else {} for spec in specs]
    try:
        places = open_store().placements([plan["needs"] for plan in plans], silent_seconds, choices, shapes)
    except Exception:  # of either client; a dry run needs no server
        return []
    told = []
    for spec, place, plan in zip(specs, places, plans, strict=True):
        if found := _forecast(spec, place):
            plan["forecast"] = found.to_json()
            told.append(f"{spec.name}: {found.sentence(spec.budget)}")
    return told


def _forecast(spec: Spec, place: Placement) -> Forecast | None:
    if not place.offers:
        return None
    from pi0q.jobs import forecast

    return forecast.cheapest(place.offers, steps=steps(spec), gpus=place.gpus)


def _put(store: UserStore, job: Prepared, waits: Mapping[str, Any], *, again: bool) -> dict[str, Any]:
    """Queue one job; of a sweep it is the trials that wait for what the file names."""
    key, sweep = "" if again else fingerprint(job.spec), job.spec.sweep
    if sweep is None:
        return put(store, {**job.fields, **waits}, key=key)
    from pi0q.queue import sweeps
    from pi0q.queue.current_user import user

    told = put(store, {**job.fields, **sweeps.fields(job.spec)}, key=key)
    if told["new"]:
        records = sweeps.trials(job.spec, told["id"], submitter=user(), known=job.known, peaks=store)
        sweeps.put(store, told["id"], [{**one, **waits} for one in records], text=f"submitted by {user()}")
    missing = sweeps.no_searcher(store) if sweep.kind == TPE else []
    return {**told, "trials": sweep.total, "waits": [sweeps.sentence(job.spec), *missing]}

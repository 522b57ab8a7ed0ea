"""`pi0q submit`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from pi0q.jobs import command, postrun, several_gpus, tracking
from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.jobs.estimates import disk, job_needs, policy_sizes
from pi0q.jobs.schema import overrides
from pi0q.jobs.spec import Spec
from pi0q.jobs.start_point import reference_of
from pi0q.queue import input_lookup, measured_peaks, settings
from pi0q.queue.job_batches import Prepared, find_awaited, forecast_plans, forecasts, put_all
from pi0q.queue.placement import Placement, sentence
from pi0q.queue.settings import Settings
from pi0q.queue.submission import (
    Known,
    load_all,
    new_fields,
)

if TYPE_CHECKING:
    from pi0q.queue.base_lookup import BaseLookup
    from pi0q.queue.dependencies import Awaited
    from pi0q.queue.hub_lookup import DatasetLookup
    from pi0q.queue.start_points import Start
    from pi0q.queue.user_store import UserStore

#: The LeRobot whose argv a dry run shows; the box builds its own for the version it has.
DRY_RUN_LEROBOT = "0.6.1"

#: Jobs up to which each is told in sentences.
MOST_IN_WORDS = 5
PRIORITIES = ("low", "normal", "high", "urgent")

_EXPLAINED = "pi0q.explain"


def _keep_key(ctx: click.Context, _: click.Parameter, key: str | None) -> None:
    if key is not None:
        ctx.meta[_EXPLAINED] = key


@click.command()
@click.argument("files", nargs=-1, metavar="FILE…")
@click.option("--rehearsal", is_flag=True, help="Run the same job with the model shrunk and a few steps: minutes.")
@click.option("--dry-run", is_flag=True, help="Check the file and show needs and command; queue nothing.")
@click.option("--again", is_flag=True, help="Queue it even if the same file was queued a moment ago.")
@click.option("--watch", is_flag=True, help="Follow the job after submitting (Ctrl-C detaches; the job keeps running).")
@click.option(
    "--explain",
    metavar="KEY",
    is_eager=True,
    expose_value=False,
    callback=_keep_key,
    help="Say what a key of the file takes and does, like policy.dtype or wandb; queue nothing.",
)
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="A value in place of the file's: train.seed=2."
)
@click.option("--name", help="Another name than the file's.")
@click.option("--priority", type=click.Choice(PRIORITIES), help="Another priority than the file's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def submit(files: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Queue a training.

    FILE is a job's YAML; `-` reads it from standard input. If any of several files has an error, none is queued.
    Once it says Queued, the job is on the server's disk. Submitting the same file again within 30 s returns the
    existing job; use --again to queue a second one.

    \b
      pi0q submit grab_box.yaml --dry-run      what would run, and what it needs
      pi0q submit grab_box.yaml --rehearsal    prove it in minutes first
      pi0q submit grab_box.yaml --watch
      pi0q submit grab_box.yaml --set train.seed=2 --set train.batch_size=16 --name grab_box_2
      pi0q submit --explain policy.dtype       what a key takes and does
    """
    if key := click.get_current_context().meta.get(_EXPLAINED):
        _explain(key, as_json=as_json)
        return
    specs = _load(files, options)
    chosen = settings.load()
    lookup = _start_lookup(specs, chosen)
    _warn(f"{spec.name}: {note}" for spec in specs for note in notes(spec))
    if options["dry_run"]:
        _dry_run(specs, lookup, chosen, as_json=as_json)
        return
    submitted = _queue(specs, lookup, chosen, again=options["again"], as_json=as_json)
    if options["watch"]:
        _watch(submitted[0]["id"])


def _queue(
    specs: Sequence[Spec], lookup: Lookups, chosen: Settings, *, again: bool, as_json: bool
) -> list[dict[str, Any]]:
    """Queue the jobs and say what became of each."""
    store = _open(chosen)
    submitted, places, told = queue_all(store, specs, lookup, chosen.timing.silent, again=again)
    _report(store, submitted, places, as_json=as_json)
    _warn(told)
    _warn(_missing_inputs(store, specs, submitted, places))
    return submitted


def queue_all(
    store: UserStore, specs: Sequence[Spec], lookup: Lookups, silent_seconds: float, *, again: bool
) -> tuple[list[dict[str, Any]], list[Placement], list[str]]:
    """Queue the jobs; return each as `--json` prints it, where it fits, and what their user should know.

    Raises UsageError with the faults of all of them; then none is queued.
    """
    awaited = find_awaited(store, specs)
    specs, starts = _starts(store, specs, awaited)
    prepared, told = [], [*lookup.notes(), *(start.told for start in starts if start)]
    for spec, start in zip(specs, starts, strict=True):
        known = lookup.known(spec, start, store)
        pending = start is not None and start.point is None
        prepared.append(Prepared(spec=spec, fields=new_fields(spec, known), known=known, pending=pending))
        told += _measured_line(spec, known, prepared[-1].fields)
    # Asked first: once a job is queued, nothing may say otherwise.
    needs, choices = [job.fields["needs"] for job in prepared], [job.fields.get("choice", {}) for job in prepared]
    places = store.placements(needs, silent_seconds, choices, [job.known.shapes for job in prepared])
    submitted = put_all(store, prepared, awaited, again=again)
    told += forecasts(prepared, places, submitted)
    return submitted, places, told


def queue_quietly(specs: Sequence[Spec], chosen: Settings, *, again: bool) -> list[dict[str, Any]]:
    """Queue jobs for a program: as `pi0q submit` does, without a word."""
    submitted, _, _ = queue_all(_open(chosen), specs, _start_lookup(specs, chosen), chosen.timing.silent, again=again)
    return submitted


def _missing_inputs(
    store: UserStore, specs: Sequence[Spec], submitted: Sequence[dict[str, Any]], places: Sequence[Placement]
) -> Iterable[str]:
    """Say of jobs that read a box's directory whether no box has it; boxes that are busy look later."""
    looked = [
        job["id"]
        for spec, job, place in zip(specs, submitted, places, strict=True)
        if job["state"] == "queued" and place.now.count and input_lookup.reads_a_directory(spec)
    ]
    return input_lookup.told(store, looked)


def _load(files: Sequence[str], options: Mapping[str, Any]) -> list[Spec]:
    """Read the files, with what the options set in place of theirs. Raises UsageError with the faults of all."""
    ctx = click.get_current_context()
    if not files:
        raise click.MissingParameter(ctx=ctx, param=ctx.command.params[0])
    if options["name"] and len(files) > 1:
        raise UsageError("--name names one job: submit one file with it. Nothing was queued.")
    short = [f"{key}={json.dumps(options[key])}" for key in ("name", "priority") if options[key]]
    changes = overrides.read([*options["changes"], *short])
    specs = load_all(files, rehearsal=options["rehearsal"], overrides=changes)
    if any(spec.conditions for spec in specs):
        from pi0q.queue import dependencies

        specs = dependencies.ordered(specs)
    if options["watch"] and len(specs) > 1:
        raise UsageError("--watch watches one job: submit one file with it, or use `pi0q watch` afterwards.")
    return specs


def _continues(spec: Spec) -> bool:
    """Return whether the job starts from another job's checkpoint."""
    return reference_of(spec.train) is not None


def _starts(
    store: UserStore | None, specs: Sequence[Spec], awaited: Awaited | None
) -> tuple[list[Spec], list[Start | None]]:
    """Return the jobs with what `job:` means in them, and what each starts from.

    `store` is None where no job names another one. Raises UsageError with the faults of all of them.
    """
    if store is None or not any(map(_continues, specs)):
        return list(specs), [None] * len(specs)
    from pi0q.queue import start_points

    return start_points.resolve_all(store, specs, awaited)


def _dry_run(specs: Sequence[Spec], lookup: Lookups, chosen: Settings, *, as_json: bool) -> None:
    """Say what the jobs would be; the server is asked for other jobs that they name, and for measured peaks."""
    asked = _open(chosen) if any(_continues(spec) or spec.conditions for spec in specs) else None
    awaited = find_awaited(asked, specs) if asked else None
    specs, starts = _starts(asked, specs, awaited)
    peaks = measured_peaks.PeaksIfReachable(partial(_briefly, chosen))
    _warn(lookup.notes())
    known = [lookup.known(spec, start, peaks) for spec, start in zip(specs, starts, strict=True)]
    plans = list(map(plan, specs, known))
    shapes = [one.shapes for one in known]
    forecast = forecast_plans(partial(_briefly, chosen), specs, shapes, plans, chosen.timing.silent)
    show(plans, as_json=as_json)
    _warn(forecast)
    _warn(f"{spec.name}: {_trials(spec)} Shown is the first." for spec in specs if spec.sweep)
    _warn(start.told for start in starts if start)
    if asked and awaited:
        from pi0q.queue import dependencies

        now_ms = asked.now_ms()
        _warn(f"{one.name}: {told}" for one in specs for told in dependencies.sentences(one, awaited, now_ms=now_ms))


def _trials(spec: Spec) -> str:
    from pi0q.queue import sweeps

    return sweeps.sentence(spec)


def _briefly(chosen: Settings) -> UserStore:
    from pi0q.queue.connection import connect_briefly
    from pi0q.queue.user_store import UserStore

    return UserStore(connect_briefly(chosen), chosen.prefix)


def _watch(job_id: str) -> None:
    from pi0q.queue.commands.common import open_store
    from pi0q.queue.commands.watch import follow

    follow(open_store(), job_id)


def _explain(key: str, *, as_json: bool) -> None:
    from pi0q.queue.commands import explain

    explain.show(key, as_json=as_json)


def _report(
    store: UserStore, submitted: Sequence[dict[str, Any]], places: Sequence[Placement], *, as_json: bool
) -> None:
    """Say what became of the files."""
    if not store.durable():
        _warn(["the server has not yet written this to its disk; look again with `pi0q ls`."])
    if as_json:
        told = [{**job, "fits": place.to_json()} for job, place in zip(submitted, places, strict=True)]
        click.echo(json.dumps(told if len(told) > 1 else told[0], indent=2))
    else:
        few = len(submitted) <= MOST_IN_WORDS
        click.echo("\n".join(map(confirmation, submitted, places) if few else summary(submitted)))


class Lookups(NamedTuple):
    """What the Hub is asked while a job is submitted; None where there is nothing to ask."""

    datasets: DatasetLookup | None
    bases: BaseLookup | None

    def notes(self) -> list[str]:
        """Return what the user should know. Raises UsageError for what no box could train."""
        return self.datasets.notes() if self.datasets else []

    def known(self, spec: Spec, start: Start | None, peaks: measured_peaks.Peaks) -> Known:
        """Return what was found out of a job; call it after `notes`."""
        images = self.datasets.images(spec) if self.datasets else None
        base = start.base if start else self.bases.facts(spec) if self.bases else None
        point = start.point if start else None
        peak, shapes = measured_peaks.find(peaks, spec, images), measured_peaks.shapes(spec, images)
        return Known(images=images, start=point, peak=peak, base=base, shapes=shapes)


def _start_lookup(specs: Sequence[Spec], chosen: Settings) -> Lookups:
    """Ask the Hub about datasets and bases meanwhile."""
    datasets, bases = None, None
    if not all(spec.train.get("dataset.root") for spec in specs):
        from pi0q.queue.hub_lookup import DatasetLookup

        datasets = DatasetLookup(specs, chosen)
    if any(policy_sizes.is_on_hub(spec) for spec in specs):
        from pi0q.queue.base_lookup import BaseLookup

        bases = BaseLookup(specs, chosen)
    return Lookups(datasets, bases)


def _open(chosen: Settings) -> UserStore:
    """Open the store. Raises Pi0qError where its server may drop jobs."""
    from pi0q.queue.connection import connect_briefly, eviction
    from pi0q.queue.user_store import UserStore

    # A submit that is sent twice has one id, and the second does nothing.
    store = UserStore(connect_briefly(chosen), chosen.prefix)
    if trouble := eviction(store.client):
        raise Pi0qError(f"{trouble}\nNothing was queued.")
    return store


def _warn(notes: Iterable[str]) -> None:
    for note in notes:
        click.echo(f"pi0q: {note}", err=True)


def notes(spec: Spec) -> list[str]:
    """Return what is to be known of a file before it trains: its batch on several GPUs, a disk stated too small."""
    found = [note for note in [several_gpus.batch_note(spec)] if note]  # a job of one GPU has none
    plan = disk.plan(spec)
    if plan.stated_mib is not None and not spec.rehearsal and plan.stated_mib < plan.reckoned_mib:
        largest = " + ".join(item.what for item in sorted(plan.items, key=lambda item: -item.mib)[:2])
        found.append(
            f"resources.disk states {disk.gib(plan.mib)}, but the estimate is {disk.gib(plan.reckoned_mib)} "
            f"({largest}): the job may have to stop for lack of disk. Without resources.disk the estimate is used."
        )
    return found


def confirmation(job: dict[str, Any], place: Placement) -> str:
    """Return what a person reads of a job that was queued, or was queued before."""
    if job["new"]:
        queued = f"Queued {job['name']} as {job['id']}.  See it with: pi0q watch {job['id']}"
        if job.get("waits"):
            return "\n".join([queued, _needs(job["needs"]), *job["waits"]])
        return f"{queued}\n{_needs(job['needs'])}  {sentence(place, job['id'], job['choice'])}"
    return (
        f"{job['name']} was queued a moment ago as {job['id']}; nothing new was queued.\n"
        "To run the same file twice: pi0q submit --again."
    )


def summary(jobs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line a job and the sum, for more files than a terminal has lines for."""
    for job in jobs:
        yield f"{job['id']}  {job['name']}" + ("" if job["new"] else "  (queued a moment ago; nothing new)")
    new = sum(job["new"] for job in jobs)
    yield f"Queued {new} of {len(jobs)} files.  See them with: pi0q ls --state queued"


def _needs(needs: dict[str, int]) -> str:
    gpus, vram = needs["gpus"], disk.gib(needs["vram_mib"])
    cards = f"{gpus} GPU{'s' * (gpus > 1)} with {vram} free and " if gpus else ""
    return f"It needs {cards}{disk.gib(needs['disk_mib'])} of disk."


def show(plans: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print a dry run."""
    if as_json:
        click.echo(json.dumps(plans if len(plans) > 1 else plans[0], indent=2))
        return
    for shown in plans:
        click.echo(f"{shown['name']}: the file is good; nothing was queued.\n\nneeds")
        click.echo("".join(f"  {line}\n" for line in shown["why"]))
        click.echo("on the data disk\n" + "".join(f"  {line}\n" for line in disk.table(shown["disk"]["items"])))
        click.echo("environment\n" + "".join(f"  {name}={value}\n" for name, value in shown["env"].items()))
        click.echo("command\n  " + " \\\n    ".join(shown["argv"]) + "\n")
        if shown["push_to"]:
            click.echo(f"then\n  its box pushes the last checkpoint to {shown['push_to']}\n")
        if shown["swanlab"]:
            click.echo(f"meanwhile\n  its box sends the run pi0q-JOB to SwanLab, project {shown['swanlab']}\n")


def _measured_line(spec: Spec, known: Known, fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the job's VRAM is from, if an earlier job of its shape was measured."""
    if known.peak:
        estimate = job_needs.estimate(spec, images=known.images, base=known.base).vram_mib
        yield f"{spec.name}: VRAM {disk.gib(fields['needs']['vram_mib'])}: {known.peak.sentence(estimate)}"


def plan(spec: Spec, known: Known | None = None) -> dict[str, Any]:
    """Return needs, environment and argv of a job that is not queued; `JOB` stands for its id."""
    known = known or Known()
    estimate = job_needs.estimate(spec, images=known.images, peak=known.peak, base=known.base)
    built = command.fresh(spec, lerobot=DRY_RUN_LEROBOT, output_dir="PI0Q_HOME/runs/JOB/output", run_id="pi0q-JOB")
    return {
        "name": spec.name,
        "argv": list(built.argv),
        "env": built.env,
        "needs": {"gpus": estimate.gpus, "vram_mib": estimate.vram_mib, "disk_mib": estimate.disk_mib},
        "why": list(estimate.why),
        "disk": estimate.disk.to_json(),
        "push_to": postrun.push_to(spec),
        "swanlab": tracking.project(spec.tracking, spec.train) if spec.tracking.swanlab else None,
        "starts_from": known.start.to_json() if known.start else None,
        "measured": known.peak.to_json() if known.peak else None,
        "base": known.base.to_json() if known.base else None,
    }

"""`pi0q get` and `pi0q diff`: the job file of a job, and what two jobs have different."""

from __future__ import annotations

import json
from typing import Any

import click

from pi0q.jobs.spec import Spec
from pi0q.queue import job_text, plain_table
from pi0q.queue.commands.common import JOB, open_reader
from pi0q.queue.store_reads import StoreReads


@click.command()
@click.argument("job", metavar="ID", type=JOB)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def get(job: str, as_json: bool) -> None:
    """Print the job file of a job: pi0q get ID > job.yaml."""
    from pi0q.jobs.job_file import text_of

    spec = _spec(open_reader(), job)
    if as_json:
        job_text.print_json(spec.to_json())
    else:
        click.echo(text_of(spec), nl=False)


@click.command()
@click.argument("one", metavar="ID", type=JOB)
@click.argument("other", metavar="ID", type=JOB)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(one: str, other: str, as_json: bool) -> None:
    """Print the settings that two jobs have different."""
    from pi0q.jobs.job_file import differences

    store = open_reader()
    first, second = _spec(store, one), _spec(store, other)
    found = list(differences(first, second))
    if as_json:
        job_text.print_json({key: [left, right] for key, left, right in found})
    elif not found:
        click.echo(f"{first.name} and {second.name} have the same settings.")
    else:
        rows = [(key, _shown(left), _shown(right)) for key, left, right in found]
        click.echo("\n".join(plain_table.lines(("KEY", first.name, second.name), rows)))


def _spec(store: StoreReads, reference: str) -> Spec:
    return Spec.from_json(store.get(store.resolve(reference)).spec)


def _shown(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""`pi0q open`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import click

from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.record import Record
from pi0q.queue import job_text, settings
from pi0q.queue.commands.common import JOB, open_reader


@click.command("open")
@click.argument("job", metavar="ID", type=JOB)
@click.option(
    "--page", is_flag=True, help="The job's page on the web page of `pi0q up`, also where it has a WandB run."
)
@click.option("--json", "as_json", is_flag=True, help="Print the addresses as JSON and open nothing.")
def open_(job: str, page: bool, as_json: bool) -> None:
    """Open a job's WandB run in the browser; without one its page on the web page of this machine."""
    store = open_reader()
    record = store.get(store.resolve(job))
    wandb, own = wandb_page(record), own_page(settings.load().home, record.id)
    if as_json:
        job_text.print_json({"id": record.id, "wandb": wandb, "page": own})
        return
    url = own if page or not wandb else wandb
    if not url:
        raise Pi0qError(
            f"{record.name} has no WandB run, and no web page runs on this machine. Nothing was opened.\n"
            f"Fix: pi0q web   and then again: pi0q open {record.id}"
        )
    click.echo(url)
    if not is_known(url, os.environ.get("WANDB_BASE_URL", "")):
        click.echo(
            "Not opened: it is neither at wandb.ai nor at WANDB_BASE_URL. Open it by hand if you trust it.", err=True
        )
    elif click.launch(url) != 0:
        click.echo("No browser could be started here; open the address by hand.", err=True)


def is_known(url: str, wandb_base: str) -> bool:
    """Return whether an address may be opened unasked: whoever may write to the queue can write any into a record."""
    host, mine = urlsplit(url).hostname or "", urlsplit(wandb_base).hostname
    return host in ("127.0.0.1", "wandb.ai", mine) or host.endswith(".wandb.ai")


def wandb_page(record: Record) -> str | None:
    """Return the https address of the job's WandB run; None where the record names none."""
    url = record.wandb_url
    return url if url and url.startswith("https://") else None


def own_page(home: Path, job_id: str) -> str | None:
    """Return the address of the job's page, where `pi0q up` runs the web page on this machine."""
    try:
        url = json.loads((home / "up.json").read_text(encoding="utf-8")).get("web_url")
    except (OSError, ValueError, AttributeError):
        return None
    return f"{url}/jobs/{job_id}" if isinstance(url, str) and url.startswith("http://127.0.0.1:") else None

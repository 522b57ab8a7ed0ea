"""`pi0q open`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import click

from pi0q.jobs.errors import Pi0qError
from pi0q.queue import job_text, settings
from pi0q.queue.commands.common import JOB, open_reader

#: Hosts of trackers that everyone knows; and the variables with a user's own servers.
PUBLIC = ("wandb.ai", "swanlab.cn")
OWN_SERVERS = ("WANDB_BASE_URL", "SWANLAB_WEB_HOST")


@click.command("open")
@click.argument("job", metavar="ID", type=JOB)
@click.option(
    "--page", is_flag=True, help="The job's page on the web page of `pi0q up`, also where it has a run at a tracker."
)
@click.option("--json", "as_json", is_flag=True, help="Print the addresses as JSON and open nothing.")
def open_(job: str, page: bool, as_json: bool) -> None:
    """Open a job's WandB or SwanLab run in the browser; without one its page on the web page of this machine."""
    store = open_reader()
    record = store.get(store.resolve(job))
    wandb, swanlab = https(record.wandb_url), https(record.swanlab_url)
    own = own_page(settings.load().home, record.id)
    if as_json:
        job_text.print_json({"id": record.id, "wandb": wandb, "swanlab": swanlab, "page": own})
        return
    run = wandb or swanlab
    url = own if page or not run else run
    if not url:
        raise Pi0qError(
            f"{record.name} has no run at WandB or SwanLab, and no web page runs on this machine. Nothing was opened.\n"
            f"Fix: pi0q web   and then again: pi0q open {record.id}"
        )
    click.echo(url)
    if not is_known(url, *(os.environ.get(name, "") for name in OWN_SERVERS)):
        click.echo(
            f"Not opened: it is neither at wandb.ai, swanlab.cn nor at {' or '.join(OWN_SERVERS)}. "
            "Open it by hand if you trust it.",
            err=True,
        )
    elif click.launch(url) != 0:
        click.echo("No browser could be started here; open the address by hand.", err=True)


def is_known(url: str, *own: str) -> bool:
    """Return whether an address may be opened unasked: whoever may write to the queue can write any into a record.

    `own`: addresses of this user's own servers of trackers; "" for none.
    """
    host, mine = urlsplit(url).hostname or "", [urlsplit(address).hostname for address in own]
    return host in ("127.0.0.1", *PUBLIC, *mine) or host.endswith(tuple(f".{name}" for name in PUBLIC))


def https(url: str | None) -> str | None:
    """Return an https address of a record; None where it is another one, or none."""
    return url if url and url.startswith("https://") else None


def own_page(home: Path, job_id: str) -> str | None:
    """Return the address of the job's page, where `pi0q up` runs the web page on this machine."""
    try:
        url = json.loads((home / "up.json").read_text(encoding="utf-8")).get("web_url")
    except (OSError, ValueError, AttributeError):
        return None
    return f"{url}/jobs/{job_id}" if isinstance(url, str) and url.startswith("http://127.0.0.1:") else None

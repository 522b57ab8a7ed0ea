"""`pi0q prune`."""

from __future__ import annotations

import click

from pi0q.jobs.errors import UsageError
from pi0q.queue import job_text
from pi0q.queue import settings as all_settings
from pi0q.queue.commands.common import open_store
from pi0q.queue.current_user import user
from pi0q.queue.retention import Retention


@click.command()
@click.option("--keep", metavar="LIMIT", help="90d, '1000 jobs', or '90d,1000 jobs'; left out: PI0Q_KEEP_ENDED.")
@click.option("--broken", is_flag=True, help="Remove the jobs whose records cannot be read, and no others.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prune(keep: str | None, broken: bool, yes: bool, as_json: bool) -> None:
    """Remove the records of ended jobs from the queue's server.

    Files on boxes stay. A job stays while its checkpoint is pinned, while a push, copy or WandB sync of it is pending,
    or while the job that continues it is known. `pi0q up` does the same by itself, once an hour.

    With --broken: the jobs that `pi0q ls` shows as broken. A box that has one is asked to end it first.
    """
    if broken:
        _prune_broken(yes=yes, as_json=as_json)
        return
    try:
        retention = Retention.parse(keep) if keep is not None else all_settings.load().keep_ended
    except ValueError as error:
        raise UsageError(f"--keep {keep!r} cannot be read: {error}. Nothing was removed.") from None
    store = open_store()
    if not yes and not as_json:
        click.confirm(f"Remove the records of all ended jobs beyond {retention}?", abort=True)
    removed = store.prune(retention)
    if as_json:
        job_text.print_json({"removed": removed})
    else:
        click.echo(f"Removed {len(removed)} ended job{'' if len(removed) == 1 else 's'}; kept {retention}.")


def _prune_broken(*, yes: bool, as_json: bool) -> None:
    store = open_store()
    found = store.page(live=-1, ended=-1, whole=True).broken
    if found and not yes and not as_json:
        click.confirm(f"Remove {jobs(len(found))} whose records cannot be read?", abort=True)
    removed = [error for error in found if store.discard(error.job_id, text=f"removed by {user()}: it is damaged")]
    asked = [error for error in found if error not in removed]
    if as_json:
        job_text.print_json(
            {
                "removed": [error.shown_id for error in removed],
                "asked": [error.shown_id for error in asked],
            }
        )
        return
    click.echo(f"Removed {jobs(len(removed))} whose records could not be read.")
    for error in asked:
        click.echo(f"A box has {error.shown_id} and is asked to end it; `pi0q prune --broken` then removes it.")


def jobs(count: int) -> str:
    """Return `1 job` or `3 jobs`."""
    return f"{count} job{'' if count == 1 else 's'}"

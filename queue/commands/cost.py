"""`pi0q cost`."""

from __future__ import annotations

import sys

import click

from pi0q.jobs import cost as costs
from pi0q.queue import job_text, plain_table
from pi0q.queue.commands.common import open_reader
from pi0q.queue.job_list import parse_since

COLUMNS = ("COST", "LOST", "CARD-HOURS", "HOURS", "CLAIMS", "INTERRUPTED")


@click.command()
@click.option("--since", metavar="TIME", help="Only claims that ended in this time: 12h, 7d, 4w. Left out: all known.")
@click.option("--by", type=click.Choice(list(costs.BY)), default="job", show_default=True, help="What to sum up by.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cost(since: str | None, by: str, as_json: bool) -> None:
    """What jobs cost: card-hours and money by user, job or box, and the part that interruptions lost.

    \b
      pi0q box price 5.98CNY       on a box: what it costs an hour
      pi0q cost --since 7d --by user

    The sums stay when `pi0q prune` removes a job. Running jobs are counted as far as they are. A job pays for its share
    of the box's cards, without a card for the whole box; jobs on one card pay for it each. Lost is the time after the
    last checkpoint of a claim that was interrupted, and the start of the claim after it.
    """
    store = open_reader()
    since_ms = parse_since(since, store.now_ms()) if since else 0
    holds = store.holds(since_ms)
    groups, whole = costs.grouped(holds, by), costs.total(holds)
    if as_json:
        names = costs.BY[by]
        rows = [{**dict(zip(names, key, strict=True)), **spent.to_json()} for key, spent in groups.items()]
        job_text.print_json({"by": by, "since_ms": since_ms, "groups": rows, "total": whole.to_json()})
        return
    if not groups:
        click.echo("No claim has ended yet" + (f" in the last {since}." if since else "; nothing was spent."))
        return
    width = None
    if sys.stdout.isatty():
        import shutil

        width = shutil.get_terminal_size().columns
    lines = [(*cells(spent), "  ".join(reversed(key))) for key, spent in groups.items()]
    click.echo("\n".join(plain_table.lines((*COLUMNS, by.upper()), [*lines, (*cells(whole), "all")], width=width)))
    if whole.unpriced_hours > 0:
        click.echo(
            f"{whole.unpriced_hours:.1f} hours were on boxes without a price.\nFix: pi0q box price 5.98CNY --box BOX"
        )


def cells(spent: costs.Spent) -> tuple[str, ...]:
    """What stands in each of COLUMNS."""
    return (
        costs.amount(spent.money) or "-",
        costs.amount({key: value for key, value in spent.lost.items() if value}) or "-",
        f"{spent.card_hours:.2f}",
        f"{spent.hours:.2f}",
        str(spent.holds),
        str(spent.interruptions),
    )

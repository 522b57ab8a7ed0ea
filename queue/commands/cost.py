"""`pi0q cost`."""

from __future__ import annotations

import sys

import click

from pi0q.jobs import cost as costs
from pi0q.jobs.errors import UsageError
from pi0q.jobs.printable import printable
from pi0q.queue import current_user, job_text, plain_table
from pi0q.queue.commands.common import open_reader, open_store
from pi0q.queue.job_list import parse_since

#: Characters of a user's name.
LONGEST_USER = 200
COLUMNS = ("COST", "LOST", "CARD-HOURS", "HOURS", "CLAIMS", "INTERRUPTED")


@click.command()
@click.option("--since", metavar="TIME", help="Only claims that ended in this time: 12h, 7d, 4w. Left out: all known.")
@click.option("--by", type=click.Choice(list(costs.BY)), default="job", show_default=True, help="What to sum up by.")
@click.option("--limit", metavar="MONEY", help="What the jobs of a user may cost from now on: 200CNY; `none` ends it.")
@click.option("--user", help="With --limit: USER@HOST as `--by user` names them. Left out: you.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cost(since: str | None, by: str, limit: str | None, user: str | None, as_json: bool) -> None:
    """What jobs cost: card-hours and money by user, job or box, and the part that interruptions lost.

    \b
      pi0q box price 5.98CNY       on a box: what it costs an hour
      pi0q cost --since 7d --by user
      pi0q cost --limit 200CNY --user ann@laptop

    The sums stay when `pi0q prune` removes a job. Running jobs are counted as far as they are. A job pays for its share
    of the box's cards, without a card for the whole box; jobs on one card pay for it each. Lost is the time after the
    last checkpoint of a claim that was interrupted, and the start of the claim after it.

    When a user's jobs have cost the limit, those that run save and are held, and so is each one that would be claimed
    next. A larger limit goes on from what was spent; then release them: pi0q release ID.
    """
    if limit is not None:
        _set_limit(limit, user or current_user.user(), as_json=as_json)
        return
    if user is not None:
        raise UsageError("--user goes with --limit; nothing was changed.\nFix: pi0q cost --by user")
    _show(since, by, as_json=as_json)


def _show(since: str | None, by: str, *, as_json: bool) -> None:
    store = open_reader()
    since_ms = parse_since(since, store.now_ms()) if since else 0
    holds = store.holds(since_ms)
    groups, whole, budgets = costs.grouped(holds, by), costs.total(holds), store.budgets()
    if as_json:
        names = costs.BY[by]
        rows = [{**dict(zip(names, key, strict=True)), **spent.to_json()} for key, spent in groups.items()]
        told = {"by": by, "since_ms": since_ms, "groups": rows, "total": whole.to_json()}
        job_text.print_json({**told, "budgets": {name: one.to_json() for name, one in budgets.items()}})
        return
    if groups:
        lines = [(*cells(spent), "  ".join(reversed(key))) for key, spent in groups.items()]
        head = (*COLUMNS, by.upper())
        click.echo("\n".join(plain_table.lines(head, [*lines, (*cells(whole), "all")], width=_width())))
    else:
        click.echo("No claim has ended yet" + (f" in the last {since}." if since else "; nothing was spent."))
    for name, one in budgets.items():
        click.echo(f"The jobs of {name} cost {one}.")
    if whole.unpriced_hours > 0:
        click.echo(
            f"{whole.unpriced_hours:.1f} hours were on boxes without a price.\nFix: pi0q box price 5.98CNY --box BOX"
        )


def _width() -> int | None:
    """Return the columns of the terminal; None where there is none."""
    if not sys.stdout.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def _set_limit(text: str, user: str, *, as_json: bool) -> None:
    limit = None if text == "none" else costs.Money.parse(text)
    if limit is None and text != "none":
        raise UsageError(
            f"{printable(text)!r} is no limit; nothing was changed.\nFix: write it like 200CNY or 50USD, or none"
        )
    if not 1 <= len(user) <= LONGEST_USER or not user.isprintable():
        raise UsageError("That is no user; nothing was changed.\nFix: pi0q cost --by user   (which there are)")
    store = open_store()
    was_there = store.set_budget(user, limit)
    found = store.budgets().get(user)
    if as_json:
        job_text.print_json({"user": user, "budget": found and found.to_json()})
    elif limit is None:
        click.echo(f"The jobs of {user} have no limit any more." if was_there else f"The jobs of {user} had no limit.")
    else:
        click.echo(f"The jobs of {user} may cost {limit}; so far {found}.")
        if found and found.spent >= found.limit.amount:
            click.echo("That is reached: those that run are saved and held.")
        if all(hold.user != user for hold in store.holds()):
            click.echo(f"pi0q: no job of {user} has run yet; those that have: pi0q cost --by user", err=True)


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

"""`pi0q box price`: what a box costs an hour."""

from __future__ import annotations

import click

from pi0q.jobs.cost import Price
from pi0q.jobs.errors import UsageError
from pi0q.queue import job_text
from pi0q.queue import settings as all_settings
from pi0q.queue.commands.common import open_store
from pi0q.workers.host.identity import box_name


@click.command()
@click.argument("price", required=False)
@click.option("--box", "name", help="Another box than this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def price(price: str | None, name: str | None, as_json: bool) -> None:
    """Say what a box costs an hour, with its currency; `none` removes it; without PRICE: show the prices of all.

    \b
      pi0q box price 5.98CNY            this machine
      pi0q box price 2USD --box h100-1  another box
      pi0q cost                         what jobs have cost since

    It counts for claims that end from now on.
    """
    store = open_store()
    if price is None:
        prices = store.prices()
        if as_json:
            job_text.print_json({box: one.to_json() for box, one in prices.items()})
        elif prices:
            click.echo("\n".join(f"{box}  {one} an hour" for box, one in prices.items()))
        else:
            click.echo("No box has a price. Fix: pi0q box price 5.98CNY, on a box")
        return
    found = None if price == "none" else Price.parse(price)
    if found is None and price != "none":
        raise UsageError(f"{price!r} is no price; nothing was changed.\nFix: write it like 5.98CNY or 2USD, or none")
    box = name or box_name(all_settings.load())
    store.set_price(box, found)
    if as_json:
        job_text.print_json({"box": box, "price": found and found.to_json()})
    else:
        click.echo(f"{box} costs {found} an hour." if found else f"{box} has no price any more.")

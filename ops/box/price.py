"""`pi0q box price`: what a box costs an hour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pi0q.jobs.cost import Price
from pi0q.jobs.errors import NotFound, UsageError
from pi0q.jobs.printable import printable
from pi0q.queue import job_text
from pi0q.queue import settings as all_settings
from pi0q.queue.commands.common import open_store
from pi0q.workers.host.identity import box_name

if TYPE_CHECKING:
    from pi0q.queue.store_requests import StoreRequests

#: What became of a price that AutoDL told, in words.
RESULTS = {
    "kept": ".",
    "by_hand": "; the price that was set by hand stays. To take this one: pi0q box price none --box {box}, then again.",
    "no_box": "; the queue knows no box of that name, so nothing was kept: pi0q boxes",
    "unknown": "; nothing was changed.",
}


@click.command()
@click.argument("price", required=False)
@click.option("--box", "name", help="Another box than this machine.")
@click.option("--from-autodl", is_flag=True, help="Ask AutoDL about the boxes of `pi0q power link`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def price(price: str | None, name: str | None, *, from_autodl: bool, as_json: bool) -> None:
    """Say what a box costs an hour, with its currency; `none` removes it; without PRICE: show the prices of all.

    \b
      pi0q box price 5.98CNY            this machine
      pi0q box price 2USD --box h100-1  another box
      pi0q box price --from-autodl      what AutoDL says, on the machine that has its token
      pi0q cost                         what jobs have cost since

    It counts for claims that end from now on. A price that is set here is not replaced by AutoDL's, which `pi0q up`
    asks each day where boxes are linked.
    """
    if from_autodl:
        if price is not None:
            raise UsageError("Give a price, or --from-autodl; nothing was changed.\nFix: pi0q box price --from-autodl")
        _from_autodl(name, as_json=as_json)
    elif price is None:
        _show(as_json=as_json)
    else:
        _set(price, name, as_json=as_json)


def _set(text: str, name: str | None, *, as_json: bool) -> None:
    found = None if text == "none" else Price.parse(text)
    if found is None and text != "none":
        raise UsageError(f"{text!r} is no price; nothing was changed.\nFix: write it like 5.98CNY or 2USD, or none")
    box = name or box_name(all_settings.load())
    open_store().set_price(box, found)
    if as_json:
        job_text.print_json({"box": box, "price": found and found.to_json()})
    else:
        click.echo(f"{box} costs {found} an hour." if found else f"{box} has no price any more.")


def _show(*, as_json: bool) -> None:
    store = open_store()
    prices, now_ms = store.prices(), store.now_ms()
    if as_json:
        job_text.print_json(
            {
                box: {**one.to_json(), **({"stale": one.is_stale(now_ms)} if one.source else {})}
                for box, one in prices.items()
            }
        )
    elif prices:
        for box, one in prices.items():
            origin = one.origin(now_ms)
            click.echo(f"{box}  {one} an hour" + (f"  ({origin})" if origin else ""))
    else:
        click.echo("No box has a price. Fix: pi0q box price 5.98CNY, on a box")


def _from_autodl(only: str | None, *, as_json: bool) -> None:
    """Ask AutoDL what the linked boxes cost; one whose price was set by hand keeps it."""
    from pi0q.ops.power import account, state_file
    from pi0q.ops.power.autodl_api import ApiError

    home = all_settings.load().home
    api, linked = account.open_account(home), state_file.read(home).boxes
    if only is not None and only not in linked:
        known = ", ".join(linked) or "none"
        raise NotFound(
            f"No box {printable(only)!r} is linked; linked are: {known}. Nothing was changed.\n"
            f"Fix: pi0q power link {printable(only)} pro-…"
        )
    boxes = {name: one for name, one in linked.items() if only in (None, name)}
    if not boxes:
        raise UsageError(
            "No box is linked to a container of AutoDL. Nothing was changed.\nFix: pi0q power link BOX pro-…"
        )
    try:
        asked = account.prices(api, boxes)
    except ApiError as error:
        raise account.no_answer(error) from None
    store, told = open_store(), {}
    for box in boxes:
        told[box] = _offer(store, box, asked.get(box))
    if as_json:
        job_text.print_json({box: {"cny_per_hour": asked.get(box), "result": word} for box, word in told.items()})
    else:
        for box, word in told.items():
            cost = f"{asked[box]:g} CNY an hour, as AutoDL says" if box in asked else "AutoDL says no price"
            click.echo(f"{box}  {cost}{RESULTS[word].format(box=box)}")


def _offer(store: StoreRequests, box: str, cny: float | None) -> str:
    """Keep a price that AutoDL told; return one of RESULTS."""
    if cny is None:
        return "unknown"
    try:
        return "kept" if store.offer_price(box, Price(per_hour=cny, currency="CNY"), "autodl") else "by_hand"
    except NotFound:
        return "no_box"

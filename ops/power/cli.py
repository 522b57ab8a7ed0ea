"""`pi0q power`."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pi0q.jobs.errors import NotFound, UsageError
from pi0q.jobs.printable import printable
from pi0q.ops.power import state_file
from pi0q.queue import job_text, settings

if TYPE_CHECKING:
    from pi0q.jobs.notices import Message
    from pi0q.ops.power.keeper import Outlets
    from pi0q.queue.store import Store

#: The id of a Container Pro, as AutoDL's console shows it.
INSTANCE = re.compile(r"pro-[0-9a-z]{6,40}")
MOST_COMMAND = 1000


@click.group()
def power() -> None:
    """Start switched-off AutoDL boxes while jobs wait that fit them. Off until a token and a box are named.

    \b
      pi0q power token < token.txt           the developer token of your AutoDL account
      pi0q power link box-a pro-76576c61fdf1 the box of this name is that Container Pro
      pi0q power status                      what each box does and costs, and the balance

    Run it on the queue's machine: `pi0q up` does the starting from then on. A box that `pi0q box setup` made runs
    its worker after each start; others need `pi0q power command`.
    """


@power.command()
def token() -> None:
    """Read the developer token from standard input and keep it, for its owner alone to read.

    It never leaves this machine but to AutoDL.
    """
    home = _home()
    text = click.prompt("Developer token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read(8192)
    state_file.write_token(home, text)
    click.echo(f"Kept in {home / state_file.TOKEN_FILE}. Next: pi0q power link BOX pro-…")


@power.command()
@click.argument("box")
@click.argument("instance")
def link(box: str, instance: str) -> None:
    """Say that BOX, a name of `pi0q boxes`, is the container INSTANCE, an id of AutoDL's console."""
    home = _home()
    if not INSTANCE.fullmatch(instance):
        raise UsageError(
            f"{printable(instance)!r} is no id of a Container Pro: those begin with pro-. AutoDL's API starts no "
            "other. Nothing was changed.\nFix: copy the id from AutoDL's console, Container Pro"
        )
    state = state_file.read(home)
    if other := next((name for name, one in state.boxes.items() if one.instance == instance and name != box), None):
        raise UsageError(
            f"{instance} is linked to {other} already. Nothing was changed.\nFix: pi0q power unlink {other}"
        )
    state.boxes[box] = state_file.Linked(instance)
    state.write(home)
    click.echo(
        f"{printable(box)} is {instance}. It is started while jobs wait that fit it, as long as `pi0q up` runs here."
    )


@power.command()
@click.argument("box")
def unlink(box: str) -> None:
    """Start BOX no more."""
    home = settings.load().home
    state = state_file.read(home)
    if state.boxes.pop(box, None) is None:
        known = ", ".join(state.boxes) or "none"
        raise NotFound(f"No box {printable(box)!r} is linked; linked are: {known}. Nothing was changed.")
    state.write(home)
    click.echo(f"{box} is started no more.")


@power.command()
@click.argument("text", metavar="COMMAND")
def command(text: str) -> None:
    """Let a container run COMMAND when it is started; "" for nothing. AutoDL's shell runs it."""
    if len(text) > MOST_COMMAND or not text.isprintable():
        raise UsageError(f"A start command is one line of {MOST_COMMAND} characters at most. Nothing was changed.")
    home = _home()
    state = state_file.read(home)
    state.start_command = text
    state.write(home)
    click.echo(
        f"A container that is started runs: {text}" if text else "A container that is started runs nothing more."
    )


@power.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show what each linked box does and costs, and the account's balance."""
    from pi0q.ops.power import account
    from pi0q.ops.power.autodl_api import ApiError

    home = settings.load().home
    state, api = state_file.read(home), account.open_account(home)
    try:
        listed, balance, prices = api.containers(), api.balance(), account.prices(api, state.boxes)
    except ApiError as error:
        raise account.no_answer(error) from None
    rows = [
        {
            "box": name,
            "instance": one.instance,
            "power": listed[one.instance].power.value if one.instance in listed else "unknown",
            "cny_per_hour": prices.get(name),
        }
        for name, one in state.boxes.items()
    ]
    if as_json:
        job_text.print_json({"balance_cny": balance, "boxes": rows})
        return
    for row in rows:
        price = f"{row['cny_per_hour']:.2f} CNY an hour" if row["cny_per_hour"] else "price unknown"
        click.echo(f"{printable(str(row['box']))}  {row['instance']}  {row['power']}  {price}")
    if not rows:
        click.echo("No box is linked: pi0q power link BOX pro-…")
    click.echo("Balance: " + ("unknown" if balance is None else f"{balance:.2f} CNY"))


@power.command()
def run() -> None:
    """Start boxes until Ctrl-C; `pi0q up` runs this by itself."""
    import redis

    from pi0q.ops.power.account import open_account
    from pi0q.ops.power.keeper import PowerKeeper
    from pi0q.ops.supervisor import stop_on_signals
    from pi0q.queue.connection import connect
    from pi0q.queue.reading import views
    from pi0q.queue.store import Store

    chosen = settings.load()
    api = open_account(chosen.home)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    store = Store(connect(chosen), chosen.prefix)
    keeper = PowerKeeper(
        api, lambda: views.read(store, chosen.timing.silent, ended=0), chosen.home, _outlets(chosen, store)
    )
    click.echo("Boxes are started while jobs wait that fit them.")
    keeper.run(stop_on_signals(), (redis.RedisError,))


def _home() -> Path:
    chosen = settings.load()
    settings.make_home(chosen)
    return chosen.home


def _outlets(chosen: settings.Settings, store: Store) -> Outlets:
    from pi0q.jobs.cost import Price
    from pi0q.ops.notify import targets
    from pi0q.ops.power.keeper import Outlets

    sends = targets.senders(chosen.notify) if chosen.notify else {}

    def tell(message: Message) -> None:
        for label, send in sends.items():
            try:
                send(message)
            except Exception as error:  # a service of any kind; its text may hold the address, which is a secret
                logging.getLogger(__name__).warning("%s failed with %s.", label, type(error).__name__)

    def price(box: str, cny: float) -> None:
        with contextlib.suppress(NotFound):  # a box that never came up has no price
            store.offer_price(box, Price(per_hour=cny, currency="CNY"), "autodl")

    return Outlets(say=logging.getLogger("pi0q.ops.power").info, tell=tell, price=price)

"""`pi0q notify`."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import click

from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.jobs.notice_kinds import USUAL
from pi0q.jobs.notices import Message
from pi0q.queue import settings

if TYPE_CHECKING:
    from pi0q.ops.notify.targets import Send


@click.command()
@click.option("--test", is_flag=True, help="Send one message to each service and say what came of it.")
def notify(test: bool) -> None:
    """Send messages about jobs and boxes to the services of PI0Q_NOTIFY until Ctrl-C. `pi0q up` does it by itself.

    \b
      export PI0Q_NOTIFY='phone=ntfy://my-topic feishu://TOKEN'     addresses as apprise has them; they are secrets
      pi0q notify --test
    """
    from pi0q.ops.notify import targets

    chosen = settings.load()
    if not chosen.notify:
        raise UsageError(
            "PI0Q_NOTIFY names no service, so there is nobody to tell. Nothing was sent.\n"
            "Fix: export PI0Q_NOTIFY='ntfy://YOUR-TOPIC' and run pi0q notify --test"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    # What apprise says of a failure may hold an address.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    sends = targets.senders(chosen.notify)
    if test:
        _test(sends)
    else:
        _run(chosen, sends)


def _test(sends: dict[str, Send]) -> None:
    message = Message(title="pi0q can reach you", body="This is a test: pi0q notify --test")
    failed = []
    for label, send in sends.items():
        good = send(message)
        click.echo(f"{label}: {'sent' if good else 'NOT sent'}")
        failed += [] if good else [label]
    if failed:
        raise Pi0qError(
            f"{', '.join(failed)} took no message. Jobs are not affected.\n"
            "Fix: check token and address in PI0Q_NOTIFY, and whether this machine reaches the service"
        )


def _run(chosen: settings.Settings, sends: dict[str, Send]) -> None:
    from pi0q.ops.notify.notifier import Choice, Notifier, Target
    from pi0q.ops.supervisor import stop_on_signals
    from pi0q.queue.connection import connect
    from pi0q.queue.store import Store

    settings.make_home(chosen)
    choice = Choice(
        usual=chosen.notify_on or USUAL,
        targets={label: Target(send) for label, send in sends.items()},
        silent_seconds=chosen.timing.silent,
    )
    click.echo(f"Messages about {', '.join(choice.usual)} go to {', '.join(sends)}.")
    Notifier(Store(connect(chosen), chosen.prefix), choice, chosen.home).run(stop_on_signals())

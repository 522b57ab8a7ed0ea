"""`pi0q box keep-on`: keep a box from switching itself off for a while."""

from __future__ import annotations

import click

from pi0q.jobs.errors import NotFound, UsageError
from pi0q.jobs.printable import printable
from pi0q.queue import job_text
from pi0q.queue import settings as all_settings
from pi0q.queue.commands.common import open_store
from pi0q.queue.idle_policy import minutes, read_span
from pi0q.workers.host.identity import box_name

#: Words that end it.
OFF = ("off", "none", "0")


@click.command("keep-on")
@click.argument("span", metavar="TIME")
@click.option("--box", "name", help="Another box than this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def keep_on(span: str, name: str | None, as_json: bool) -> None:
    """Keep a box from switching itself off for TIME from now, also in the last minutes; `off` ends that.

    \b
      pi0q box keep-on 2h               this machine
      pi0q box keep-on 2h --box box-a   another box
      pi0q box keep-on off              it may switch itself off again

    A box switches itself off only where it was set up for that: pi0q box setup --idle-after 20min
    """
    try:
        seconds = 0.0 if span in OFF else read_span(span)
    except ValueError as error:
        raise UsageError(
            f"For how long? {printable(str(error), lines=False)}. Nothing was changed.\nFix: pi0q box keep-on 2h"
        ) from None
    box = name or box_name(all_settings.load())
    try:
        open_store().keep_on(box, seconds)
    except NotFound as error:
        raise NotFound(f"{error}\nFix: pi0q box keep-on {span} --box NAME   with a name of: pi0q boxes") from None
    if as_json:
        job_text.print_json({"box": box, "seconds": seconds})
    elif seconds:
        click.echo(
            f"{box} stays on for {minutes(seconds)} at least. End that earlier: pi0q box keep-on off --box {box}"
        )
    else:
        click.echo(f"{box} may switch itself off again, where it was set up for that.")

"""`pi0q top`."""

from __future__ import annotations

import os
import sys

import click

from pi0q.jobs.errors import UsageError

#: Signs of the page that an encoding of a terminal may lack.
SIGNS = "█░▒▁·…─"


@click.command()
def top() -> None:
    """The whole fleet on one live page: cards and who has them, running jobs, the queue with reasons.

    \b
      up, down    choose a job          /         filter by name, user, box or state
      Enter, l    its loss and log      c         cancel it (asks)
      b           each card, or a line a box
      q           leave; the jobs keep running

    `pi0q watch` follows jobs as plain text.
    """
    from pi0q.ops.top.app import Top
    from pi0q.queue import settings
    from pi0q.queue.connection import connect
    from pi0q.queue.current_user import user
    from pi0q.queue.reading import views
    from pi0q.queue.reading.watcher import StoreSource, Watcher
    from pi0q.queue.store import Store

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("`pi0q top` needs a terminal.\nFix: pi0q ls, or pi0q watch into a pipe")
    if lack := lack_of(os.environ.get("TERM", ""), getattr(sys.__stderr__, "encoding", "")):
        raise UsageError(lack)
    chosen = settings.load()
    store = Store(connect(chosen), chosen.prefix)
    # Fails as any command does where there is no server; later losses of the link are shown on the page.
    store.now_ms()
    source = StoreSource(store, store, chosen.timing.silent, live=views.MOST_LIVE, ended=views.MOST_ENDED)
    watcher = Watcher(source)
    watcher.start()
    page = Top(watcher, store, user=user())
    try:
        page.run()
    finally:
        watcher.stop()
    sys.exit(page.return_code or 0)


def lack_of(term: str, encoding: str) -> str:
    """Return why a terminal cannot show the page, and what shows the same; "" where it can."""
    if term in ("dumb", "unknown"):
        return f"`pi0q top` draws a page, and TERM={term} says that this terminal can't.\nFix: pi0q ls"
    try:
        SIGNS.encode(encoding or "utf-8")
    except (UnicodeError, LookupError):
        return (
            f"`pi0q top` draws with signs that the encoding of this terminal, {encoding}, does not have.\n"
            "Fix: LC_ALL=C.UTF-8 pi0q top, or pi0q ls"
        )
    return ""

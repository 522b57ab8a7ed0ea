"""`pi0q logs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from pi0q.jobs.errors import NotFound, UsageError
from pi0q.jobs.printable import printable
from pi0q.jobs.state import ENDED
from pi0q.queue.commands.common import JOB, leave_after_interrupt, open_reader, open_store
from pi0q.queue.job_list import parse_since

if TYPE_CHECKING:
    from pi0q.jobs.record import Record
    from pi0q.queue.store import Store
    from pi0q.queue.store_reads import StoreReads


class Rank(click.types.StringParamType):
    """The number of a trainer of a job on several GPUs, or all."""

    name = "rank"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "all" or (value.isascii() and value.isdigit()):
            return value
        self.fail(f"{value!r} is neither the number of a rank nor all", param, ctx)


RANK = Rank()


@click.command()
@click.argument("job", metavar="ID", type=JOB)
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Show new lines until the job ends (Ctrl-C detaches; the job keeps running).",
)
@click.option("-n", "--lines", type=click.IntRange(min=0), help="The last N lines alone; with -f before the new ones.")
@click.option(
    "--rank",
    metavar="N|all",
    type=RANK,
    help="Of a job on several GPUs the last lines of another trainer than the first, or of all.",
)
@click.option("--since", metavar="TIME", help="Only what came in this time, like 10min, to within 10 s.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def logs(job: str, follow: bool, lines: int | None, rank: str | None, since: str | None, as_json: bool) -> None:
    """The last lines of a job's training log (the queue keeps 32 KiB; the box keeps it all).

    With -f a lost link to the queue is told and tried again; the log goes on where it stopped.
    """
    if rank not in (None, "0"):
        if follow:
            raise UsageError("-f follows the job's own log, that of rank 0. Fix: leave -f or --rank out")
        _of_ranks(job, str(rank), lines, as_json=as_json)
        return
    if follow and since:
        raise click.UsageError("--since and -f exclude each other: -n says how much comes before the new lines.")
    if follow and not as_json:
        _follow(open_store(), job, lines)
        return
    store = open_reader()
    job_id = store.resolve(job)
    text, total = store.tail(job_id)
    whole = total
    if since:
        before = store.log_since(job_id, parse_since(since, store.now_ms())) - (total - len(text.encode()))
        total = total if before <= 0 else len(text.encode()) - before
        text = text.encode()[max(0, before) :].decode(errors="replace")
    text = last_lines(text, total, lines)
    if as_json:
        from pi0q.queue.job_text import print_json

        print_json({"id": job_id, "text": printable(text), "log_bytes": whole})
        return
    click.echo(printable(text), nl=False)
    click.echo(_where(store, job_id), err=True)


def _of_ranks(job: str, rank: str, count: int | None, *, as_json: bool) -> None:
    """Print the last lines of one rank, or of all with a line between them."""
    store = open_reader()
    job_id = store.resolve(job)
    tails = store.rank_tails(job_id)
    if rank != "all" and int(rank) not in tails:
        raise NotFound(_no_rank(store.get(job_id), int(rank), list(tails)))
    if rank == "all":
        text, total = store.tail(job_id)
        shown = {0: last_lines(text, total, count), **tails}
    else:
        shown = {int(rank): tails[int(rank)]}
    shown = {number: printable(last_lines(text, 0, count)) for number, text in shown.items()}
    if as_json:
        from pi0q.queue.job_text import print_json

        print_json({"id": job_id, "ranks": {str(number): text for number, text in shown.items()}})
        return
    for number, text in shown.items():
        click.echo((f"== rank {number}\n" if rank == "all" else "") + text, nl=False)


def _no_rank(record: Record, rank: int, known: list[int]) -> str:
    """Return why there is no log of a rank, and what there is."""
    told = f"ranks 0 to {max(known)}" if known else "that of rank 0 alone"
    return (
        f"{record.name} has no log of rank {rank}: the queue knows {told}.\n"
        f"Fix: pi0q logs {record.id} --rank {max(known) if known else 0}"
    )


def last_lines(text: str, total: int, count: int | None) -> str:
    """Return the last lines of a log's tail, all of them for None, without one whose beginning is not there.

    `total`: bytes of the whole log.
    """
    if len(text.encode()) < total:
        cut, newline, rest = text.partition("\n")
        text = rest if newline else cut
    if count is None:
        return text
    return "".join(text.splitlines(keepends=True)[-count:]) if count else ""


def _where(store: StoreReads, job_id: str) -> str:
    """Return where the older lines of a job's log are, or why there is none."""
    record = store.get(job_id)
    if record.run_dir:
        return f"\n(older lines are on {record.box} in {record.run_dir}/trainer.log)"
    return _not_yet(record)


def _not_yet(record: Record) -> str:
    never = "never started" if record.state in ENDED else "has not started yet"
    return f"{record.name} {never}; it is {record.label}."


def _follow(store: Store, job: str, lines: int | None) -> None:
    job_id = store.resolve(job)
    record = store.get(job_id)
    if not record.run_dir:
        click.echo(_not_yet(record), err=True)
    try:
        for text in growing(store, job_id, lines):
            click.echo(printable(text), nl=False)
    except KeyboardInterrupt:
        click.echo(f"\nDetached. The job keeps running; `pi0q logs -f {job_id}` shows its log again.", err=True)
        leave_after_interrupt(0)


def growing(store: Store, job_id: str, lines: int | None = None) -> Iterator[str]:
    """Yield the last lines of the log and then what is added to it, until the job has ended."""
    from pi0q.queue.following import Follower, link_words

    follower, seen = Follower(store, *link_words()), -1
    while True:
        # The state is read before the tail, so that nothing written before the end is missed.
        over, (text, total) = follower.look(lambda: (store.get(job_id).state in ENDED, store.tail(job_id)))
        if seen < 0:
            yield last_lines(text, total, lines)
        elif total - seen > len(text.encode()):
            yield text
        elif total > seen:
            yield text.encode()[-(total - seen) :].decode(errors="replace")
        seen = total
        if over:
            return
        follower.wait(job_id)

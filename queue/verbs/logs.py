"""`pi0q logs`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from pi0q.jobs.state import ENDED
from pi0q.queue.store import Store, await_news
from pi0q.queue.verbs.common import open_store

#: Seconds after which it looks again, whether or not it heard of anything new.
SLOWEST = 5.0


@click.command()
@click.argument("job", metavar="ID")
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Go on showing new lines until the job ends; Ctrl-C only stops looking.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def logs(job: str, follow: bool, as_json: bool) -> None:
    """The last lines of a job's training log (the queue keeps 32 KiB; the box keeps it all)."""
    store = open_store()
    job_id = store.resolve(job)
    if as_json:
        from pi0q.queue.render import print_json

        text, total = store.tail(job_id)
        print_json({"id": job_id, "text": text, "log_bytes": total})
        return
    try:
        for text in growing(store, job_id) if follow else [store.tail(job_id)[0]]:
            click.echo(text, nl=False)
    except KeyboardInterrupt:
        click.echo(f"\nStopped looking; the job goes on. `pi0q logs -f {job_id}` shows it again.", err=True)
        return
    if not follow:
        record = store.get(job_id)
        if record.run_dir:
            click.echo(f"\n(older lines are on {record.box} in {record.run_dir}/trainer.log)", err=True)
        else:
            never = "never started" if record.state in ENDED else "has not started yet"
            click.echo(f"{record.name} {never}; it is {record.state}.", err=True)


def growing(store: Store, job_id: str) -> Iterator[str]:
    """The tail of the log and then what is added to it, until the job has ended."""
    pubsub, seen = store.subscribe("changes"), -1
    while True:
        # The state is read before the tail, so that nothing written before the end is missed.
        over = store.get(job_id).state in ENDED
        text, total = store.tail(job_id)
        if seen < 0 or total - seen > len(text.encode()):
            yield text
        elif total > seen:
            yield text.encode()[-(total - seen) :].decode(errors="replace")
        seen = total
        if over:
            return
        await_news(pubsub, job_id, SLOWEST)

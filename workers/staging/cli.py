"""`pi0q cache fetch`: bring what a job reads onto this machine before its turn."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from pi0q.jobs.amounts import gib
from pi0q.jobs.errors import Pi0qError
from pi0q.queue import job_text
from pi0q.queue import settings as all_settings
from pi0q.queue.commands.common import JOB
from pi0q.queue.settings import Settings
from pi0q.workers.host.files import MIB
from pi0q.workers.hub import cached, requirements, snapshots
from pi0q.workers.hub.errors import HubError
from pi0q.workers.staging import inputs, request
from pi0q.workers.staging.request import Input, Request, Wish
from pi0q.workers.storage.cli import cache

__all__ = ["cache"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one input."""

    kind: str
    name: str
    commit: str
    #: None where nobody has told.
    bytes: int | None
    #: How long its download took; None where it was here, or nothing is downloaded.
    seconds: float | None = None
    here: bool = False
    #: Whether every byte was compared with the Hub's hash.
    verified: bool = False

    @property
    def text(self) -> str:
        """Return the row as a person reads it."""
        if self.here:
            did = "was here already"
        else:
            did = "would be fetched" if self.seconds is None else f"fetched in {job_text.span(self.seconds)}"
        known = self.here or self.seconds is not None
        sure = ("verified" if self.verified else "not verified: pi0q did not download it") if known else ""
        size = "size unknown" if self.bytes is None else _size(self.bytes)
        commit = f"commit {self.commit[:8]}" if self.commit else ""
        return f"{self.kind:<12} {self.name}  {size}  {', '.join(filter(None, (did, sure, commit)))}"


@cache.command()
@click.argument("what", metavar="JOB|FILE", type=JOB)
@click.option("--dry-run", is_flag=True, help="Only say what would be fetched.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fetch(what: str, dry_run: bool, as_json: bool) -> None:
    """Fetch what a job reads onto this machine: base weights, dataset, tokenizer.

    \b
      pi0q cache fetch grab_box.yaml            of a job file, before it is submitted
      pi0q cache fetch 3f2a                     of a job, by its ID or name
      pi0q cache fetch 3f2a --dry-run           only say what, and how much

    Its run on this machine then downloads nothing. Every byte is compared with the Hub's hashes; a download that was
    cut goes on where it was. A container that was started without its GPU does this by itself for waiting jobs.
    """
    settings = all_settings.load()
    wish = request.wish(what, settings)
    found = request.look(wish, settings)
    request.check_disk(found, settings)
    if not dry_run:
        all_settings.make_home(settings)
    for note in found.notes:
        click.echo(f"Note: {note}.", err=True)
    began, rows = time.monotonic(), list[Row]()
    try:
        for row in map(_row, found.inputs) if dry_run else _fetched(found, settings):
            rows.append(row)
            if not as_json:
                click.echo(row.text)
    except HubError as error:
        raise Pi0qError(
            f"{error.detail}\nWhat has come is kept. Fix: pi0q cache fetch {what}   # goes on from there"
        ) from None
    seconds = time.monotonic() - began
    if as_json:
        job_text.print_json({**_plain(wish, what), "dry_run": dry_run, "inputs": [vars(row) for row in rows],
                             "fetched_bytes": _fetched_bytes(rows), "seconds": round(seconds, 1)})  # fmt: skip
    else:
        click.echo(_summary(rows, wish, seconds, dry_run=dry_run))


def _row(one: Input) -> Row:
    """Return what is here, or would be fetched."""
    verified = one.here and bool(one.commit)
    return Row(
        kind=one.fetch.kind, name=one.fetch.pin, commit=one.commit, bytes=one.bytes, here=one.here, verified=verified
    )


def _fetched(found: Request, settings: Settings) -> Iterator[Row]:
    """Fetch what is missing; yield each input as it is there. Raises HubError."""
    wish, commits = found.wish, dict[str, str]()
    for one in found.inputs:
        began = time.monotonic()
        # One that is here, too: it makes the branch name this commit in the cache, by which a run finds it.
        commits |= inputs.fetch([one.fetch], settings, pins=wish.pins, on_phase=_show_phase)
        _show_phase("")
        commit = commits[one.fetch.pin]
        yield Row(
            kind=one.fetch.kind,
            name=one.fetch.pin,
            commit=commit,
            bytes=cached.size_bytes(one.fetch, settings.hf_home, commit) or one.bytes,
            seconds=None if one.here else round(time.monotonic() - began, 1),
            here=one.here,
            verified=snapshots.is_complete(one.fetch, settings.hf_home, commit),
        )
    if not wish.resuming:
        wanted = [one.fetch for one in found.inputs]
        spec = requirements.at_home(wish.spec, wanted, hf_home=settings.hf_home, pins=commits)
        began = time.monotonic()
        if name := inputs.fetch_torch_weights(spec, settings, found.lerobot):
            seconds = round(time.monotonic() - began, 1)
            yield Row(kind="vision", name=name, commit="", bytes=None, seconds=seconds, verified=True)


def _show_phase(phase: str) -> None:
    """Show what is going on in place, on a terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{phase}", err=True, nl=False)


def _summary(rows: Sequence[Row], wish: Wish, seconds: float, *, dry_run: bool) -> str:
    if not rows:
        return "There is nothing to fetch: what the job reads lies on its box, or comes from another job."
    total, new = sum(row.bytes or 0 for row in rows), _fetched_bytes(rows)
    if dry_run:
        return f"{_size(total)} in all, {_size(new)} of it would be fetched. Nothing was fetched."
    of = f" of job {wish.job_id}" if wish.job_id else ""
    if not new:
        return f"All inputs{of} were here already: {_size(total)}. Nothing was fetched."
    return f"All inputs{of} are here: {_size(total)}, {_size(new)} of it fetched in {job_text.span(seconds)}."


def _fetched_bytes(rows: Sequence[Row]) -> int:
    return sum(row.bytes or 0 for row in rows if not row.here)


def _plain(wish: Wish, what: str) -> dict[str, Any]:
    return {"job": wish.job_id or None, "file": None if wish.job_id else what}


def _size(size: int) -> str:
    return gib(-(-size // MIB))

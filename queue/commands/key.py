"""`pi0q key`: the keys that sign job files and checkpoints, and whom this machine trusts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pi0q.jobs.errors import NotFound, Pi0qError, UsageError
from pi0q.jobs.signing.keys import BadKey, PublicKey, Role, TrustedKeys, parse_line
from pi0q.queue import job_text, keys, plain_table, settings
from pi0q.queue.current_user import user

if TYPE_CHECKING:
    from pi0q.jobs.record import Record
    from pi0q.queue.signing import Signer
    from pi0q.queue.store import Store


@click.group()
def key() -> None:
    """Sign job files, and say whose jobs and checkpoints this machine trusts.

    With a key, `pi0q submit` signs. A box that trusts any key runs signed jobs only, and takes over other boxes'
    checkpoints only if these are signed too. `pi0q up` on one machine needs no keys.

    \b
      pi0q key new                                   on the laptop: make a key
      pi0q key show | ssh BOX pi0q key trust -       each box trusts it
      pi0q key sign --all                            sign the jobs that wait already
    """


@key.command()
@click.option("--box", is_flag=True, help="The key of this machine as a box, which signs checkpoints.")
@click.option("--name", help="Whose key it is, for people; user@host if left out.")
def new(box: bool, name: str | None) -> None:
    """Make a key of your own; nobody else may read it."""
    path = _path(box)
    try:
        keys.create_private(path)
    except FileExistsError:
        fix = f"pi0q key show{' --box' * box}"
        raise UsageError(f"There is a key already: {path}; nothing was changed.\nFix: {fix}") from None
    except OSError as error:
        raise Pi0qError(f"{path} can't be written: {error.strerror}; no key was made.") from None
    except ModuleNotFoundError as error:
        raise keys.missing_package(error) from None
    public = _own(box, name)
    click.echo(f"Made the key {public.id} in {path}. Keep that file; only its public half below is for others.")
    click.echo(f"\n{public.line()}\n")
    others = "Other boxes trust its checkpoints" if box else "A box trusts your jobs"
    click.echo(f"{others} after: pi0q key show{' --box' * box} | ssh BOX pi0q key trust -")


@key.command()
@click.option("--box", is_flag=True, help="The key of this machine as a box.")
@click.option("--name", help="Whose key it is, for people; user@host if left out.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(box: bool, name: str | None, as_json: bool) -> None:
    """Print the public half of your key, as `pi0q key trust` takes it."""
    public = _own(box, name)
    if as_json:
        job_text.print_json(_told(public))
    else:
        click.echo(public.line())


@key.command()
@click.argument("line", nargs=-1, metavar="LINE…")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def trust(line: tuple[str, ...], as_json: bool) -> None:
    """Trust a key: LINE is what its owner's `pi0q key show` printed; `-` reads lines from standard input."""
    if not line:
        raise UsageError("`pi0q key trust` needs a key.\nFix: pi0q key show | ssh BOX pi0q key trust -")
    lines = sys.stdin.read(keys.MAX_FILE).splitlines() if line == ("-",) else [" ".join(line)]
    found, faults = list[PublicKey](), list[str]()
    for number, text in enumerate(lines, start=1):
        if text.strip() and not text.lstrip().startswith("#"):
            try:
                found.append(parse_line(text))
            except BadKey as error:
                faults.append(f"  line {number} {error}")
    if faults or not found:
        first = "No key was trusted:" if faults else "No key was trusted: there is none in it."
        raise UsageError("\n".join([first, *faults]))
    path = keys.trusted_keys_path()
    before = keys.read_trusted(path)
    known = before or TrustedKeys()
    fresh = [one for one in found if known.find(one.id, one.role) is None]
    _write(path, TrustedKeys(keys=(*known.keys, *fresh)))
    if as_json:
        job_text.print_json([_told(one) for one in found])
        return
    for one in found:
        already = "" if one in fresh else " (it did already)"
        click.echo(f"This machine trusts {_described(one)}{already}.")
    if before is None:
        click.echo("From now on, as a box, it runs signed jobs only. Jobs that wait unsigned: pi0q key sign --all")


@key.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List the keys that this machine trusts."""
    path = keys.trusted_keys_path()
    trusted = keys.read_trusted(path)
    if as_json:
        told = [_told(one) for one in trusted.keys] if trusted else []
        job_text.print_json({"file": str(path), "signatures_demanded": trusted is not None, "keys": told})
        return
    if trusted is None:
        click.echo("This machine trusts no keys; as a box it runs jobs without signatures.")
        return
    if trusted.keys:
        rows = [(one.id, one.role.value, one.label or "-") for one in trusted.keys]
        click.echo("\n".join(plain_table.lines(("KEY", "SIGNS AS", "NAME"), rows)))
    else:
        click.echo("This machine trusts no key, and as a box it runs signed jobs only: it takes no job.")
    click.echo(f"\nThey lie in {path}; without that file no signatures are demanded.")


@key.command()
@click.argument("ids", nargs=-1, required=True, metavar="KEY…")
def forget(ids: tuple[str, ...]) -> None:
    """Trust a key no more: KEY is its id, or the name that `pi0q key list` shows.

    Trainings that run go on; a job signed with it is not started any more.
    """
    path = keys.trusted_keys_path()
    trusted = keys.read_trusted(path) or TrustedKeys()
    gone = [one for one in trusted.keys if one.id in ids or (one.label and one.label in ids)]
    if missing := [name for name in ids if all(name not in (one.id, one.label) for one in gone)]:
        raise NotFound(f"This machine trusts no key {', '.join(missing)}; nothing was changed.\nFix: pi0q key list")
    _write(path, TrustedKeys(keys=tuple(one for one in trusted.keys if one not in gone)))
    for one in gone:
        click.echo(f"This machine trusts {_described(one)} no more.")


@key.command()
@click.argument("jobs", nargs=-1, metavar="ID…")
@click.option("--all", "all_jobs", is_flag=True, help="Every job that has not ended and has no signature of yours.")
@click.option("--yes", is_flag=True, help="Do not ask; whatever the records hold now is signed.")
def sign(jobs: tuple[str, ...], all_jobs: bool, yes: bool) -> None:
    """Sign jobs that were submitted without a key, or whose signature has expired.

    You vouch for what the queue holds now: look at each job file before you say yes.
    """
    from pi0q.queue.commands.common import open_store, resolve_all
    from pi0q.queue.signing import Signer

    if bool(jobs) == all_jobs:
        raise UsageError("Name the jobs to sign, or give --all. Nothing was signed.")
    try:
        own = _user_key()
    except FileNotFoundError:
        raise UsageError("You have no key; nothing was signed.\nFix: pi0q key new") from None
    store = open_store()
    ids = _unsigned(store, own.id) if all_jobs else resolve_all(store, jobs)
    if not ids:
        click.echo("There is no job to sign.")
        return
    failed = [job_id for job_id in ids if not _sign(store, job_id, Signer(key=own, prefix=store.prefix), ask=not yes)]
    if failed:
        sys.exit(1)


def _sign(store: Store, job_id: str, signer: Signer, *, ask: bool) -> bool:
    """Show one job and sign it; return whether it is signed."""
    from dataclasses import replace

    from pi0q.jobs.job_file import text_of
    from pi0q.jobs.spec import Spec
    from pi0q.queue.signing import lineage_from

    record, raw = store.get_with_raw(job_id)
    click.echo(f"{record.name}  {record.id}  from {record.submitter}  {record.state.label}")
    if record.continues:
        click.echo(f"    # It goes on from {record.continues} and may take its checkpoints.")
    if ask:
        click.echo("".join(f"    {line}\n" for line in text_of(Spec.from_json(record.spec)).splitlines()), nl=False)
        if not click.confirm("Sign this job file?", default=False):
            click.echo(f"{record.name} was not signed.")
            return False
    signer = replace(signer, start_job=record.start_job)
    if record.continues:
        signer = replace(signer, lineage=lineage_from(store.get(record.continues), store.prefix, signer.key))
    signature = signer.signature(record.id, record.spec, record.starts_from)
    answer = store.sign(record.id, raw, signature, text=f"signed by {user()} (key {signer.key.id})")
    told = {"signed": "is signed now", "ended": "has ended; it was not signed"}
    click.echo(f"{record.name} {told.get(answer, 'was changed meanwhile; it was not signed')}.")
    return answer == "signed"


def _unsigned(store: Store, own: str) -> list[str]:
    """Return the jobs that have not ended and that this key did not sign, or signed too long ago."""
    import time

    now_ms = time.time() * 1000

    def counts(record: Record) -> bool:
        signature = record.any_signature
        return signature is not None and signature.key == own and signature.expires_ms > now_ms

    ids = [job.id for job in store.page(live=-1, ended=0).jobs]
    return [record.id for record in store.records(ids) if not counts(record)]


def _path(box: bool) -> Path:
    return settings.load().home / keys.BOX_KEY if box else keys.signing_key_path()


def _own(box: bool, name: str | None) -> PublicKey:
    try:
        role = Role.BOX if box else Role.SUBMITTER
        return keys.load_private(_path(box), role, name or user()).public
    except FileNotFoundError:
        raise NotFound(f"There is no key in {_path(box)}.\nFix: pi0q key new{' --box' * box}") from None
    except ModuleNotFoundError as error:
        raise keys.missing_package(error) from None


def _user_key() -> keys.PrivateKey:
    from pi0q.queue.signing import user_key

    return user_key()


def _write(path: Path, trusted: TrustedKeys) -> None:
    try:
        keys.write_trusted(path, trusted)
    except OSError as error:
        raise Pi0qError(f"{path} can't be written: {error.strerror}; nothing was changed.") from None


def _described(one: PublicKey) -> str:
    return f"the {one.role} key {one.id}" + (f" ({one.label})" if one.label else "")


def _told(one: PublicKey) -> dict[str, Any]:
    return {"id": one.id, "role": one.role.value, "label": one.label, "line": one.line()}

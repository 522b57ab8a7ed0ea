"""`pi0q report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pi0q.jobs.errors import UsageError
from pi0q.queue.commands.common import JOB, open_reader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pi0q.jobs.failures.report import Source
    from pi0q.jobs.record import Record
    from pi0q.queue.store_reads import StoreReads


@click.command()
@click.argument("job", metavar="ID", type=JOB)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Where to write it (.tar.gz).")
@click.option("--yes", is_flag=True, help="Write it without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --yes alone.")
def report(job: str, output: Path | None, yes: bool, as_json: bool) -> None:
    """Write a small archive about a failed job, to attach to an issue.

    It holds the job's flags, what was seen of its end, the last lines of its log, and versions. Tokens, users, hosts,
    owners of repositories and WandB entities are replaced; you see all of it before it is written.
    """
    from pi0q.jobs.failures import report as reports
    from pi0q.jobs.failures.redaction import Redactor

    if as_json and not yes:
        raise UsageError("--json asks nothing. Nothing was written.\nFix: pi0q report --json --yes ID")
    store = open_reader()
    record = store.get(store.resolve(job))
    if not record.evidence and not record.reason:
        raise UsageError(
            f"{record.name} has not failed: it is {record.label}. Nothing was written.\nFix: pi0q show {record.id}"
        )
    target = output or Path(f"pi0q-report-{record.id}.tar.gz")
    if target.exists():
        raise UsageError(f"{target} exists. Nothing was written.\nFix: pi0q report {record.id} --output OTHER.tar.gz")
    redactor = Redactor()
    files = reports.files(_source(store, record), redactor)
    if not as_json:
        click.echo(_summary(target, files, redactor.replaced))
    if not yes and not _agreed(files):
        click.echo("Nothing was written.", err=True)
        sys.exit(1)
    _write(target, files)
    if as_json:
        from pi0q.queue.job_text import print_json

        print_json({"id": record.id, "file": str(target), "replaced": dict(redactor.replaced)})
        return
    click.echo(f"Wrote {target}. Look through it, then attach it to your issue.")


def _source(store: StoreReads, record: Record) -> Source:
    import getpass
    import platform
    from importlib.metadata import version

    from pi0q.jobs.failures.report import Source
    from pi0q.queue import settings
    from pi0q.queue.commands.logs import last_lines

    chosen = settings.load()
    text, total = store.tail(record.id)
    box = next((one for one in store.boxes() if one.get("name") == record.box), {})
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = ""
    run_dir = record.run_dir or ""
    train = record.spec.get("train")
    return Source(
        record=record,
        train=train if isinstance(train, dict) else {},
        log=last_lines(text, total, None),
        box=box,
        versions={"pi0q": version("pi0q"), "python": platform.python_version(), "system": platform.system()},
        paths={
            run_dir: "$RUN",
            box.get("home", ""): "$PI0Q_HOME",
            box.get("hf_home", ""): "$HF_HOME",
            str(chosen.home): "$PI0Q_HOME",
            str(Path.home()): "~",
        },
        users=(user,),
        hosts=(platform.node(), *_host_of(chosen.redis_url)),
    )


def _host_of(url: str) -> tuple[str, ...]:
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    return (host,) if not host.startswith("127.") else ()


def _summary(target: Path, files: Mapping[str, str], replaced: Mapping[str, int]) -> str:
    lines = [f"{target} will hold:"]
    lines += [
        f"  {name:<12} {len(text.encode()):>7} bytes, {text.count(chr(10))} lines" for name, text in files.items()
    ]
    told = ", ".join(f"{kind} {count} times" for kind, count in sorted(replaced.items()) if count)
    return "\n".join([*lines, f"Replaced by stand-ins: {told or 'nothing'}."])


def _agreed(files: Mapping[str, str]) -> bool:
    """Ask whether to write the report, and show all of it on request."""
    from pi0q.jobs.printable import printable

    while True:
        try:
            answer = click.prompt("Write it? [y]es, [n]o, [s]how all of it", default="s", show_default=False)
        except click.Abort:
            return False
        first = answer.strip().lower()[:1]
        if first in ("y", "n"):
            return bool(first == "y")
        for name, text in files.items():
            click.echo(f"--- {name}\n{printable(text)}")


def _write(target: Path, files: Mapping[str, str]) -> None:
    import io
    import os
    import tarfile
    import time

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            content = text.encode(errors="replace")
            member = tarfile.TarInfo(f"pi0q-report/{name}")
            member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(content))
    try:
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(packed.getvalue())
    except OSError as error:
        target.unlink(missing_ok=True)
        raise UsageError(
            f"{target} can't be written ({error.strerror}).\nFix: pi0q report --output FILE.tar.gz"
        ) from None

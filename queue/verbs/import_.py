"""`pi0q import`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pi0q.jobs.errors import UsageError
from pi0q.jobs.from_command import job_file


@click.command(name="import", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND | SCRIPT | -")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write it to this file, which must not exist yet."
)
def import_(command: tuple[str, ...], output: Path | None) -> None:
    """Make a job file of a lerobot-train command line, or of a shell script that has one.

    \b
      pi0q import 'lerobot-train --dataset.repo_id=me/data --policy.type=act' > job.yaml
      pi0q import train_pi0.sh -o job.yaml
    """
    made = job_file(_text(command[0]) if len(command) == 1 else command)
    for note in made.notes:
        click.echo(f"pi0q: {note}", err=True)
    if output is None:
        click.echo(made.text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(made.text)
    except FileExistsError:
        raise UsageError(f"{output} is there already; nothing was written.") from None
    except OSError as error:
        raise UsageError(f"{output} can't be written ({error.strerror}); nothing was written.") from None
    click.echo(f"Wrote {output}.  See what it needs: pi0q submit {output} --dry-run")


def _text(given: str) -> str:
    if given == "-":
        return sys.stdin.buffer.read().decode(errors="replace")
    try:
        path = Path(given)
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else given
    except (OSError, ValueError):
        # Too long for a name: it is the command itself.
        return given

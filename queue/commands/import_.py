"""`pi0q import`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from pi0q.jobs.errors import UsageError, errors
from pi0q.jobs.importing import importer
from pi0q.jobs.importing.report import Remark
from pi0q.jobs.printable import printable

#: Bytes of accelerate's configuration that are read; real ones have some hundreds.
MAX_CONFIG = 64 * 1024


@click.command(name="import", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="FILE | COMMAND | -")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write it to this file, which must not exist yet."
)
@click.option("--line", type=click.IntRange(min=1), metavar="N", help="Of several trainings, take that on line N.")
@click.option(
    "--set", "values", multiple=True, metavar="NAME=VALUE", help="A variable that is set where the script runs."
)
@click.option(
    "--adopt",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="On a box: take over the output directory of a training that was begun by hand, and go on with it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the job, the notes and the errors.")
def import_(
    command: tuple[str, ...],
    output: Path | None,
    line: int | None,
    values: tuple[str, ...],
    adopt: Path | None,
    as_json: bool,
) -> None:
    """Make a job file of a lerobot-train command line.

    FILE is a shell script, the commands of a notebook, or the train_config.json of a checkpoint. It is read as a
    shell reads it (variables, arrays, defaults, launchers), and nothing in it is run. What does not change the
    training is left out with a note; what can't be carried over is an error with its line.

    \b
      pi0q import train_pi0.sh -o job.yaml
      pi0q import 'lerobot-train --dataset.repo_id=me/data …' > job.yaml
      pi0q import outputs/x/checkpoints/last/pretrained_model/train_config.json
      pi0q import --adopt outputs/x         go on with a training begun by hand
    """
    if adopt is not None:
        if command or output or line or values:
            raise UsageError("--adopt takes an output directory and nothing beside it; nothing was done.")
        # By name: `queue` knows nothing of `workers`, and a laptop may not have what a worker needs.
        import_module("pi0q.workers.adoption.cli").adopt(adopt, as_json=as_json)
        return
    if not command:
        raise UsageError("Give a script, a command or `-`; nothing was written. Help: pi0q import --help")
    if len(command) == 1:
        text, name = _text(command[0])
        made = importer.import_text(
            text, name=name or "the command", line=line, values=_values(values), beside=_beside(name)
        )
    else:
        made, name = importer.import_words(command, beside=_beside("")), ""
    if as_json:
        click.echo(json.dumps(_plain(made), indent=2))
        sys.exit(UsageError.exit_code if made.faults else 0)
    _tell(made, name)
    _write(made.text, output)


def _tell(made: importer.Imported, name: str) -> None:
    """Print the notes. Raises UsageError with the faults."""
    for note in made.notes:
        click.echo(f"pi0q: {_shown(note, name)}", err=True)
    if not made.faults:
        return
    lines = [f"{errors(len(made.faults))} in {name or 'the command'}; nothing was written."]
    lines += [f"  {_shown(fault, name)}" for fault in made.faults]
    if made.unset:
        wanted = " ".join(f"--set {variable}=…" for variable in made.unset)
        lines.append(f"Fix: give what is not set in the script: pi0q import {name or '…'} {wanted}")
    raise UsageError("\n".join(lines))


def _values(given: tuple[str, ...]) -> dict[str, str]:
    """The variables of `--set`."""
    found = dict[str, str]()
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--set takes NAME=VALUE, not {text!r}; nothing was written.")
        found[name] = value
    return found


def _plain(made: importer.Imported) -> dict[str, Any]:
    """What `--json` prints."""
    import yaml

    return {
        "job": yaml.safe_load(made.text) if made.text else None,
        "notes": [vars(note) for note in made.notes],
        "faults": [vars(fault) for fault in made.faults],
    }


def _shown(remark: Remark, name: str) -> str:
    """A remark with the place that it is about."""
    place = f"{name}:{remark.line}: " if name else (f"line {remark.line}: " if remark.line > 1 else "")
    return printable(place + remark.text, lines=False)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{output} is there already; nothing was written.") from None
    except OSError as error:
        raise UsageError(f"{output} can't be written ({error.strerror}); nothing was written.") from None
    click.echo(f"Wrote {output}.  See what it needs: pi0q submit {output} --dry-run")


def _beside(script: str) -> Callable[[str], str | None]:
    """Return what reads a file that the script names: beside the script, or from here, where it may be started."""

    def read(name: str) -> str | None:
        for path in (Path(script).parent / name, Path(name).expanduser()):
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                if path.is_file():
                    with path.open("rb") as file:
                        return file.read(MAX_CONFIG).decode("utf-8", "replace")
        return None

    return read


def _text(given: str) -> tuple[str, str]:
    """The text that an argument names or is, and its file's name: "" of a command that was typed."""
    if given == "-":
        return importer.decode(sys.stdin.buffer.read(importer.MAX_BYTES + 1), "standard input"), "standard input"
    if len(given.split()) != 1 or "\n" in given:
        return given, ""
    try:
        with Path(given).open("rb") as file:
            # One byte more than it may have: `decode` tells that it is too large.
            return importer.decode(file.read(importer.MAX_BYTES + 1), given), given
    except IsADirectoryError:
        raise UsageError(
            f"{given} is a directory; nothing was written. Give the script in it, or a checkpoint's train_config.json; "
            f"to go on with a training that was begun there by hand, on its box: pi0q import --adopt {given}"
        ) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"Can't read {given}: {why}. Nothing was written.") from None

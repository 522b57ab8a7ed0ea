"""`pi0q doctor`: looks at everything that can keep a training from running, and says what mends it."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import click
from rich.console import Console

from pi0q.ops.checks import box, disks, hub, install, server, trainer
from pi0q.ops.checks.finding import Check, Finding, Patient, Status, broken, ok, patient, skipped, warning
from pi0q.ops.machine import Machine
from pi0q.queue import render

#: In the order of the table. Each runs in a thread of its own: some wait for the network, one for LeRobot's imports.
CHECKS: tuple[Check, ...] = (
    install.settings,
    install.versions,
    server.check,
    install.boxes,
    trainer.check,
    disks.check,
    hub.check,
    box.check,
)
STATUS_WIDTH = 9
MARKS = {Status.OK: "green", Status.WARNING: "yellow", Status.BROKEN: "bold red", Status.SKIPPED: "dim"}


@click.command()
@click.option("--box/--laptop", "as_box", default=None, help="What this machine is for; guessed when left out.")
@click.option("--fix", is_flag=True, help="Mend what can be mended without losing anything, then look again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_box: bool | None, fix: bool, as_json: bool) -> None:
    """Look for what keeps trainings from running: here, on the queue's server, and on a box on the box itself.

    Each line is ok, a warning (works, but will bite one day), broken, or skipped (could not be looked at);
    the arrow gives the cure. --fix changes only: who may read files with secrets, where the token lies, pip's and
    conda's caches when the system disk is low, whether the server drops or forgets jobs, a dead worker.
    Exit code 1 when anything is broken.
    """
    one = patient(Machine(), box=as_box)
    if not as_json and one.box and sys.stderr.isatty():
        click.echo("Looking; LeRobot's imports take half a minute …", err=True)
    found = look(one)
    if fix:
        found = mend(found, one)
    if as_json:
        render.print_json({"checks": [as_dict(finding) for finding in found]})
    else:
        show(found)
    sys.exit(1 if any(finding.status is Status.BROKEN for finding in found) else 0)


def look(one: Patient, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """Everything that the checks find, in their order."""
    with ThreadPoolExecutor(len(checks)) as pool:
        found = [finding for several in pool.map(lambda check: _safely(check, one), checks) for finding in several]
    if not one.box:
        found.append(skipped("box", "this machine runs no jobs: `pi0q doctor --box` looks at it as a box"))
    return found


def _safely(check: Check, one: Patient) -> list[Finding]:
    """What one check finds; what it can't cope with is a finding too."""
    found: list[Finding] = []
    try:
        for finding in check(one):
            found.append(finding)
    except Exception as error:
        name = f"{check.__module__.rpartition('.')[2]} checks"
        told = f"could not go on: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if isinstance(error, ImportError):
            found.append(broken(name, told, f"{sys.executable} -m pip install --upgrade --force-reinstall pi0q"))
        else:
            found.append(warning(name, told, "pi0q doctor --json, and send it to whoever keeps pi0q"))
    return found


def mend(found: list[Finding], one: Patient) -> list[Finding]:
    """Carries out what mends without losing anything, and looks again. What was mended says so."""
    done: dict[str, str] = {}
    for finding in found:
        if finding.fix and finding.status in (Status.WARNING, Status.BROKEN):
            try:
                done[finding.name] = f"fixed: {finding.fix()}"
            except Exception as error:
                done[finding.name] = f"could not be fixed: {type(error).__name__}: {error}"
    if not done:
        return found
    again = look(patient(one.machine, box=one.box))
    names = {finding.name for finding in again}
    told = [replace(finding, detail="; ".join([finding.detail, *_told(done, finding)])) for finding in again]
    return told + [ok(name, text) for name, text in done.items() if name not in names]


def _told(done: dict[str, str], finding: Finding) -> Iterator[str]:
    if finding.name in done:
        yield done[finding.name]


def as_dict(finding: Finding) -> dict[str, str]:
    """A finding as `--json` has it."""
    return {
        "name": finding.name,
        "status": finding.status.value,
        "detail": finding.detail,
        "cure": finding.cure if finding.status in (Status.WARNING, Status.BROKEN) else "",
    }


def show(found: Sequence[Finding], console: Console | None = None) -> None:
    """The table, and one line that sums it up. A cure is never broken into lines: it is there to be copied."""
    console = console or render.console()
    name_width = max(len(finding.name) for finding in found)
    indent = STATUS_WIDTH + name_width + 2
    console.print(f"{'STATUS':<{STATUS_WIDTH}}{'CHECK':<{name_width}}  WHAT WAS FOUND", style="bold")
    for finding in found:
        row, mark = as_dict(finding), MARKS[finding.status]
        first, *more = textwrap.wrap(row["detail"], max(30, console.width - indent)) or [""]
        console.print(f"{row['status']:<{STATUS_WIDTH}}", style=mark, end="")
        console.print(f"{finding.name:<{name_width}}  {first}", soft_wrap=True)
        for line in more:
            console.print(" " * indent + line, soft_wrap=True)
        if row["cure"]:
            console.print(f"{' ' * STATUS_WIDTH}→ {row['cure']}", style="bold", soft_wrap=True)
    console.print(summary(found))


def summary(found: Sequence[Finding]) -> str:
    """One line."""
    bad = sum(finding.status is Status.BROKEN for finding in found)
    odd = sum(finding.status is Status.WARNING for finding in found)
    if not bad and not odd:
        return "All is well."
    parts = [f"{bad} broken" if bad else "", f"{odd} warning{'s' * (odd != 1)}" if odd else ""]
    mendable = any(finding.fix for finding in found if finding.status in (Status.WARNING, Status.BROKEN))
    hint = " `pi0q doctor --fix` mends some of it." if mendable else ""
    return f"{' and '.join(filter(None, parts))}; the arrows say what mends it.{hint}"

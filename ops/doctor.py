"""`pi0q doctor`: diagnose what can keep trainings from running, and suggest fixes."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import click
from rich.console import Console

from pi0q.ops.box import check as box
from pi0q.ops.checks import disks, hub, install, keys, server, trainer
from pi0q.ops.checks.finding import Check, CheckTarget, Finding, Status, broken, check_target, ok, skipped, warning
from pi0q.ops.machine import Machine
from pi0q.queue import job_text, render

#: In the order of the table. Each runs in its own thread: some wait for the network, one for LeRobot's imports.
CHECKS: tuple[Check, ...] = (
    install.settings,
    install.versions,
    server.check,
    install.boxes,
    disks.check,
    hub.check,
    box.check,
    keys.check,
    # Last: LeRobot's imports take half a minute, and what is found is printed as it comes.
    trainer.check,
)
STATUS_WIDTH = 9
#: Names of checks are at most that long.
NAME_WIDTH = 18
MARKS = {Status.OK: "green", Status.WARNING: "yellow", Status.BROKEN: "bold red", Status.SKIPPED: "dim"}


@click.command()
@click.option("--box/--laptop", "as_box", default=None, help="Purpose of this machine; guessed when left out.")
@click.option("--fix", is_flag=True, help="Repair what can be repaired without losing anything, then check again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_box: bool | None, fix: bool, as_json: bool) -> None:
    """Diagnose problems and suggest fixes: on this machine, on the queue's server, and on a box in its trainer.

    Each line is ok, a warning (works now, can fail later), broken, or skipped (could not be checked); the arrow gives
    the fix. --fix changes only: permissions of files with secrets, the place of the token, pip's and conda's caches
    when the system disk is low, the server's settings that drop or forget jobs, a worker that is not running.
    Exit code 1 when anything is broken.
    """
    target = check_target(Machine(), box=as_box)
    if not as_json and target.box and sys.stderr.isatty():
        click.echo("Checking; LeRobot's imports take half a minute …", err=True)
    if fix or as_json:
        found = run_checks(target)
        found = repair(found, target) if fix else found
    if as_json:
        job_text.print_json({"checks": [as_dict(finding) for finding in found]})
    else:
        found = show(found if fix else as_they_end(target))
    sys.exit(1 if any(finding.status is Status.BROKEN for finding in found) else 0)


def run_checks(target: CheckTarget, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """Return the findings of all checks, in their order."""
    return list(as_they_end(target, checks))


def as_they_end(target: CheckTarget, checks: Sequence[Check] = CHECKS) -> Iterator[Finding]:
    """Yield the findings in the order of the checks, each as soon as its check and those before it have ended."""
    with ThreadPoolExecutor(len(checks)) as pool:
        for several in pool.map(lambda check: _safely(check, target), checks):
            yield from several
    if not target.box:
        yield skipped("box", "this machine runs no jobs; `pi0q doctor --box` checks it as a box")


def _safely(check: Check, target: CheckTarget) -> list[Finding]:
    """Return the findings of one check; an exception of it becomes a finding."""
    found: list[Finding] = []
    try:
        for finding in check(target):
            found.append(finding)
    except Exception as error:
        name = f"{check.__module__.rpartition('.')[2]} checks"
        detail = f"stopped by {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if isinstance(error, ImportError):
            found.append(broken(name, detail, f"{sys.executable} -m pip install --upgrade --force-reinstall pi0q"))
        else:
            found.append(warning(name, detail, "send the output of `pi0q doctor --json` to pi0q's maintainers"))
    return found


def repair(found: list[Finding], target: CheckTarget) -> list[Finding]:
    """Run the fixes that lose nothing, then all checks again; a repaired finding says so."""
    done: dict[str, str] = {}
    for finding in found:
        if finding.fix and finding.status in (Status.WARNING, Status.BROKEN):
            try:
                done[finding.name] = f"fixed: {finding.fix()}"
            except Exception as error:
                done[finding.name] = f"could not be fixed: {type(error).__name__}: {error}"
    if not done:
        return found
    again = run_checks(check_target(target.machine, box=target.box))
    names = {finding.name for finding in again}
    gone = [ok(name, text) for name, text in done.items() if name not in names]
    return [_with_result(finding, done.get(finding.name)) for finding in again] + gone


def _with_result(finding: Finding, result: str | None) -> Finding:
    return replace(finding, detail=f"{finding.detail}; {result}") if result else finding


def as_dict(finding: Finding) -> dict[str, str]:
    """Return a finding as `--json` prints it."""
    return {
        "name": finding.name,
        "status": finding.status.value,
        "detail": finding.detail,
        "cure": finding.cure if finding.status in (Status.WARNING, Status.BROKEN) else "",
    }


def show(findings: Iterable[Finding], console: Console | None = None) -> list[Finding]:
    """Print each finding as it comes, then a summary; return them. A fix is never wrapped, so that it can be copied."""
    console = console or render.console()
    console.print(f"{'STATUS':<{STATUS_WIDTH}}{'CHECK':<{NAME_WIDTH}}  WHAT WAS FOUND", style="bold")
    found = list[Finding]()
    for finding in findings:
        found.append(finding)
        _show(finding, console)
    console.print(summary(found))
    return found


def _show(finding: Finding, console: Console) -> None:
    row, mark, indent = as_dict(finding), MARKS[finding.status], STATUS_WIDTH + NAME_WIDTH + 2
    first, *more = textwrap.wrap(row["detail"], max(30, console.width - indent)) or [""]
    console.print(f"{row['status']:<{STATUS_WIDTH}}", style=mark, end="")
    console.print(f"{finding.name:<{NAME_WIDTH}}  {first}", soft_wrap=True)
    for line in more:
        console.print(" " * indent + line, soft_wrap=True)
    if row["cure"]:
        console.print(f"{' ' * STATUS_WIDTH}→ {row['cure']}", style="bold", soft_wrap=True)


def summary(found: Sequence[Finding]) -> str:
    """Return the summary of all findings in one line."""
    bad = sum(finding.status is Status.BROKEN for finding in found)
    warnings = sum(finding.status is Status.WARNING for finding in found)
    if not bad and not warnings:
        return "No problems found."
    parts = [_count(bad, "problem"), _count(warnings, "warning")]
    fixable = any(finding.fix for finding in found if finding.status in (Status.WARNING, Status.BROKEN))
    hint = " `pi0q doctor --fix` can repair some of them." if fixable else ""
    return f"{' and '.join(filter(None, parts))} found; see the → lines.{hint}"


def _count(number: int, noun: str) -> str:
    """Return "2 warnings"; "" for none."""
    plural = "" if number == 1 else "s"
    return f"{number} {noun}{plural}" if number else ""

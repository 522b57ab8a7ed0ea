"""The doctor's check of the box: whether its worker runs, and starts again with the machine."""

from __future__ import annotations

from collections.abc import Iterator

from pi0q.ops.box import autostart, control, idle
from pi0q.ops.box.plan import STARTED_WITH
from pi0q.ops.box.worker_state import WorkerState, worker_state
from pi0q.ops.checks import own_box
from pi0q.ops.checks.finding import CheckTarget, Finding, broken, ok, warning
from pi0q.ops.machine import AUTODL_HOOK, there


def check(target: CheckTarget) -> Iterator[Finding]:
    """Yield the findings on the worker and on the start at boot, and on switching itself off."""
    if not target.box or target.fault:
        return
    machine, home = target.machine, target.settings.home
    by, state = autostart.starts_by_itself(machine, home), worker_state(machine, home)
    if state is not WorkerState.STOPPED:
        yield ok("worker", state.value)
        yield from _taking(target)
    elif by or there(home / "boot.sh"):

        def start() -> str:
            return autostart.start(machine, home)

        yield broken("worker", f"does not run; log: {control.worker_log(home)}", "pi0q box start", start)
    else:
        yield warning("worker", "does not run: this machine takes no jobs", "pi0q box setup")
    if lacks := idle.check(target.settings):
        yield lacks
    if by:
        yield ok("start at boot", f"by {by}")
    elif machine.autodl:
        detail = f"{AUTODL_HOOK} does not start the worker: after a restart of the container no training continues"
        yield broken("start at boot", detail, "pi0q box setup")
    else:
        # Setup has done what it can where there is no systemd.
        settled = not machine.systemd and there(home / STARTED_WITH)
        yield warning("start at boot", autostart.NOTHING, autostart.CRON if settled else "pi0q box setup")


def _taking(target: CheckTarget) -> Iterator[Finding]:
    """Yield why a box whose worker runs takes no job, as `pi0q boxes` and `pi0q why` tell it."""
    own = own_box.announced(target.settings)
    told, cure = own_box.refuses(own) if own else ("", "")
    if told:
        yield warning("taking jobs", told, cure)

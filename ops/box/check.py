"""The doctor's check of the box: whether its worker runs, and starts again with the machine."""

from __future__ import annotations

from collections.abc import Iterator

from pi0q.ops.box import autostart, control, idle
from pi0q.ops.box.plan import UNIT
from pi0q.ops.checks.finding import CheckTarget, Finding, broken, ok, warning
from pi0q.ops.machine import AUTODL_HOOK, there


def check(target: CheckTarget) -> Iterator[Finding]:
    """Yield the findings on the worker and on the start at boot, and on switching itself off."""
    if not target.box or target.fault:
        return
    machine, home = target.machine, target.settings.home
    by = autostart.starts_by_itself(machine, home)
    if control.worker(home) and not control.worker_locked(home):
        yield ok("worker", "is starting")
    elif control.worker_locked(home):
        supervised = control.supervisor(home) is not None or by == UNIT
        yield ok("worker", "runs, and is restarted if it ends" if supervised else "runs, started by hand")
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
        yield warning("start at boot", "nothing starts the worker after a restart", "pi0q box setup")

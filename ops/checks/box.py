"""The box itself: whether its worker runs, and comes back after a restart."""

from __future__ import annotations

from collections.abc import Iterator

from pi0q.ops import boot, keeper
from pi0q.ops.checks.finding import Finding, Patient, broken, ok, warning
from pi0q.ops.machine import AUTODL_HOOK, there
from pi0q.ops.steps import UNIT


def check(patient: Patient) -> Iterator[Finding]:
    """Worker and start at boot."""
    if not patient.box or patient.fault:
        return
    machine, home = patient.machine, patient.settings.home
    by = boot.starts_by_itself(machine, home)
    if keeper.worker(home) and not keeper.locked(home):
        yield ok("worker", "is starting")
    elif keeper.locked(home):
        kept = keeper.keeper(home) is not None or by == UNIT
        yield ok("worker", f"runs{', and is started again if it dies' if kept else ', started by hand'}")
    elif by or there(home / "boot.sh"):

        def start() -> str:
            return boot.start(machine, home)

        yield broken("worker", f"does not run; its log is {keeper.log_of(home)}", "pi0q box start", start)
    else:
        yield warning("worker", "does not run: this machine takes no jobs", "pi0q box setup")
    if by:
        yield ok("start at boot", f"by {by}")
    elif machine.autodl:
        told = f"{AUTODL_HOOK} does not start the worker: after a restart of the container nothing goes on"
        yield broken("start at boot", told, "pi0q box setup")
    else:
        yield warning("start at boot", "nothing starts the worker after a restart", "pi0q box setup")

"""What the data disk had to do with a run's end, and the disk space that the job asks for on its next run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pi0q.jobs.checkpoint import step_of
from pi0q.jobs.estimates.disk import gib, with_margin
from pi0q.jobs.failures.diagnosis import Diagnosis
from pi0q.jobs.outcome import OUTCOMES, Reason
from pi0q.jobs.record import Saved
from pi0q.workers.checkpoints import local_store
from pi0q.workers.host import files, probe
from pi0q.workers.host.probe import Disk
from pi0q.workers.runs.lease import Lease
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.stop import StopCause
from pi0q.workers.storage.disk_pressure import DiskPressure, SaveSize

#: Ends that hold a job until there is enough space.
HELD = frozenset({Reason.DISK_LOW, Reason.DISK_FULL})

log = logging.getLogger(__name__)


class DiskOutcome:
    """The disk of one run, through all lives of its trainer."""

    def __init__(self, context: RunContext, size: SaveSize, *, measure: Callable[[Path], Disk] = probe.disk) -> None:
        self.context, self.size, self._measure = context, size, measure
        #: The disk pressure of the trainer's latest life, and the step from which that life began.
        self._pressure: DiskPressure | None = None
        self._began_at: int | None = None

    def trainer_starts(self, pressure: DiskPressure, resume: Saved | None) -> None:
        """Take note of a new life of the trainer: from this checkpoint, or from step 0."""
        self._pressure, self._began_at = pressure, resume.step if resume else None
        self.size.measure(resume)

    def blame(self, found: Diagnosis) -> Diagnosis:
        """Return the diagnosis, or that of a full disk: some libraries say only "unexpected pos 576 vs 534"."""
        if found.reason is Reason.TRAINER_FAILED and self._pressure and self._pressure.saving:
            with contextlib.suppress(OSError):
                seen = self._measure(self.context.settings.home)
                if seen.free_mib < 1 or seen.free_inodes == 0:
                    return replace(found, reason=Reason.DISK_FULL, fix=OUTCOMES[Reason.DISK_FULL].fix)
        return found

    def describe(self, cause: StopCause) -> str:
        """Return the text of a stop cause, for one of the disk with the disk's numbers."""
        if cause.reason not in HELD:
            return cause.text
        if self._pressure and self._pressure.shortage:
            return f"the data disk ran low: {self._pressure.shortage}"
        with contextlib.suppress(OSError):
            seen = self._measure(self.context.settings.home)
            return f"{cause.text} ({gib(seen.free_mib)} free on {seen.path})"
        return cause.text

    def close(self, reason: Reason, lease: Lease, newest: Saved | None) -> dict[str, Any]:
        """Clean up after a run that the disk ended; return the fields by which the record asks for disk space.

        `newest`: the newest verified checkpoint.
        """
        progressed = newest is not None and (self._began_at is None or newest.step > self._began_at)
        asked = self.context.record.disk_plan
        if reason not in HELD:
            return {"disk_plan": {}} if asked and progressed else {}
        largest_part = self._remove_unfinished(lease)
        # Of a save that was never finished nobody knows how large it would have been.
        measured = self.size.measured_mib is not None
        checkpoint_mib = self.size.mib if measured else max(self.size.mib, 2 * largest_part)
        box, by_box = self.context.box, dict(asked.get("free") or {})
        free_mib = with_margin(checkpoint_mib)
        if not progressed:
            # What was asked for the last time was not enough, whatever filled the disk.
            free_mib = max(free_mib, 2 * int(by_box.get(box) or 0))
        return {"disk_plan": {"checkpoint_mib": checkpoint_mib, "free": {**by_box, box: free_mib}}}

    def _remove_unfinished(self, lease: Lease) -> int:
        """Remove saves that were never finished; return the MiB of the largest one."""
        if not lease.is_valid():
            return 0
        checkpoints = self.context.directory.checkpoints
        parts = [files.size_mib(path) for path in checkpoints.glob("*") if _is_unfinished(path)]
        try:
            if steps := local_store.make_room(checkpoints):
                log.info("removed the unfinished save of step %s", ", ".join(map(str, steps)))
        except OSError as error:
            log.info("could not remove an unfinished save: %s", error)
        return max(parts, default=0)


def _is_unfinished(path: Path) -> bool:
    is_checkpoint = step_of(path.name) is not None and not path.is_symlink()
    return is_checkpoint and not local_store.is_sealed(path) and not local_store.was_finished(path)

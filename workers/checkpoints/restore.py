"""Restore at the start of a run: compare the checkpoints here with their copies, and bring a newer copy back."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pi0q.jobs import replicas
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record, Saved
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import local_store, replicate_client
from pi0q.workers.checkpoints.replicate_client import FetchResult, ReplicaTarget
from pi0q.workers.hub.blobs import amount
from pi0q.workers.runs.lease import LeaseExpired
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.stop import Stop

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Restored:
    """Where a run goes on."""

    #: Its newest good checkpoint, now on this box.
    checkpoint: Saved | None
    #: The newest copy that is known to be good.
    copied: Saved | None
    #: The place that the checkpoint was brought back from; "" if it was here.
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class Restorer:
    """Finds the newest good checkpoint of one job, here or among its copies."""

    target: ReplicaTarget
    settings: Settings
    directory: RunDirectory
    progress: Progress
    #: Set where the run ends meanwhile: cancels a fetch.
    over: threading.Event
    #: Whose checkpoints are taken over, see signers.py; None: nobody need sign.
    signers: Mapping[str, Any] | None = None

    @property
    def part(self) -> Path:
        """Where a copy is put together before it becomes a checkpoint."""
        return self.directory.path / "fetched"

    def newest(self, record: Record, here: Saved | None) -> Restored:
        """Return the newest good checkpoint: `here`, or one brought back from its copy.

        Raises Stop where a newer one is known to be copied and can't be fetched now, and LeaseExpired.
        """
        copied = self.target.copied(record)
        newest_known = max((saved.step for saved in (record.checkpoint, record.copied) if saved), default=0)
        first_claim = self.target.epoch == 1 and copied is None
        if not self.target.place or first_claim or (here and here.step >= newest_known):
            restored = Restored(checkpoint=here, copied=copied)
        else:
            restored = self._restore(here, copied, record.known_manifests)
        # A fetch that was killed leaves up to a whole checkpoint there.
        shutil.rmtree(self.part, ignore_errors=True)
        return restored

    def _restore(self, here: Saved | None, copied: Saved | None, known: Collection[str]) -> Restored:
        """Bring the newest good copy back if it is newer than what is here; `known` are the manifests that may come."""
        began, newer_than = time.monotonic(), here.step if here else -1
        self.progress.update(phase=f"looking for copies in {self.target.place}")
        # A job that continues another one finds copies under that one's name.
        before = replicas.job_in(copied) if copied else self.target.job_id
        request = {
            **self.target.request("fetch"),
            "newer_than": newer_than,
            "before": before,
            "into": str(self.directory.checkpoints),
            "part": str(self.part),
            "manifests": sorted(known),
            **({} if self.signers is None else {"signers": dict(self.signers)}),
        }
        refused = list[str]()
        result = replicate_client.fetch(request, self.settings, over=self.over, show=partial(self._show, refused))
        self.progress.update(phase="")
        if result.lease_ended:
            raise LeaseExpired
        if result.name:
            return self._restored(result, time.monotonic() - began)
        if refused and not result.error:
            # To begin anew would throw away what only its owner can judge.
            what = f"the copy of its checkpoint in {self.target.place} is refused"
            raise Stop(Reason.NOT_TRUSTED, f"{what}: {refused[0]}")
        return Restored(checkpoint=here, copied=self._without_newer(result, copied, newer_than))

    def _restored(self, result: FetchResult, seconds: float) -> Restored:
        directory = self.directory.checkpoints / result.name
        local_store.update_last_link(directory)
        saved, place = local_store.read_saved(directory), self.target.place
        size = replicas.amount(saved.bytes)
        log.info("restored checkpoint %d from its copy in %s, %s in %.0f s", saved.step, place, size, seconds)
        return Restored(checkpoint=saved, copied=replace(saved, path=result.path), place=place)

    def _without_newer(self, result: FetchResult, copied: Saved | None, newer_than: int) -> Saved | None:
        """Return the copy that still counts where none was fetched. Raises Stop if a newer one is out of reach."""
        newer, place = copied if copied and copied.step > newer_than else None, self.target.place
        if result.error:
            log.warning("could not look for copies of the job's checkpoints: %s", result.error)
            if newer:
                what = f"its checkpoint of step {newer.step} is copied to {place}"
                raise Stop(Reason.NETWORK, f"{what} and can't be fetched now: {result.error}")
        elif newer:
            log.warning("there is no good copy of step %d in %s any more", newer.step, place)
            return None
        return copied

    def _show(self, refused: list[str], line: Mapping[str, Any]) -> None:
        if line.get("unsigned"):
            refused.append(f"step {line['bad']}: {line['why']}")
        if line.get("foreign"):
            text = "refused the copy of checkpoint %s in %s: %s; trying an older one"
            log.warning(text, line["bad"], self.target.place, line["why"])
        elif "bad" in line:
            log.warning("the copy of checkpoint %s is damaged (%s); trying an older one", line["bad"], line["why"])
        elif line.get("total"):
            self.progress.update(phase=f"restoring step {line['step']}, {amount(line['done'], line['total'])}")

"""Disk usage of a run: how much of the disk space that was promised to the job its run has taken."""

from __future__ import annotations

from pi0q.jobs.record import Saved
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.run_directory import RunDirectory


class DiskUsage:
    """Counts from what the run directory held when the job was claimed: that much was not promised."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.rebase()

    def rebase(self) -> None:
        """Count from what the directory holds now."""
        self._before_mib = self.directory.size_mib()

    def add_download(self, mib: int) -> None:
        """Count what was downloaded into the caches of the box for this run."""
        self._before_mib -= mib

    def taken_mib(self) -> int:
        return self.directory.size_mib() - self._before_mib


class CheckpointReport(TrainerListener):
    """Reports each verified checkpoint in the record, with the disk space that the run takes by then."""

    def __init__(self, progress: Progress, usage: DiskUsage) -> None:
        self.progress, self.usage = progress, usage

    def on_sealed(self, saved: Saved | None) -> None:
        if saved:
            taken = self.usage.taken_mib()
            self.progress.update(checkpoint=saved, fruitless=0, disk_now_mib=taken, lerobot=self.progress.lerobot)

"""On-disk layout of one run, and its runner's pid file."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path

from pi0q.workers.host import identity


@dataclass(frozen=True, kw_only=True)
class PidRecord:
    """Content of a runner's pid file: pid and start time together identify one process."""

    job_id: str
    epoch: int
    pid: int
    start_time: int | None
    boot: str


@dataclass(frozen=True)
class RunDirectory:
    """`$PI0Q_HOME/runs/<job id>/`."""

    path: Path

    @property
    def pidfile(self) -> Path:
        return self.path / "runner.json"

    @property
    def log(self) -> Path:
        return self.path / "trainer.log"

    @property
    def events(self) -> Path:
        """Every event of every attempt, as the hook wrote it."""
        return self.path / "events.jsonl"

    @property
    def pipe(self) -> Path:
        """The FIFO through which the hook's events come."""
        return self.path / "events.fifo"

    @property
    def lease(self) -> Path:
        """Until when the trainer may go on, see lease.py."""
        return self.path / "lease"

    @property
    def ledger(self) -> Path:
        """What the box knows of the run for itself, see ledger.py."""
        return self.path / "ledger.json"

    @property
    def card(self) -> Path:
        """The model card, which the trainer writes at its end where the policy will be pushed."""
        return self.path / "card.md"

    @property
    def wandb(self) -> Path:
        """WandB runs of earlier lives from step 0."""
        return self.path / "wandb"

    @property
    def swanlab(self) -> Path:
        """SwanLab runs of all lives, see swanlab_runs.py."""
        return self.path / "swanlab"

    @property
    def start(self) -> Path:
        """Weights of another job's checkpoint that this one starts from, see start_weights.py."""
        return self.path / "start"

    @property
    def output(self) -> Path:
        """LeRobot's output_dir."""
        return self.path / "output"

    @property
    def checkpoints(self) -> Path:
        return self.output / "checkpoints"

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.pipe.unlink(missing_ok=True)
        os.mkfifo(self.pipe, 0o600)

    def set_output_aside(self) -> None:
        """Move the output aside for a start from step 0: LeRobot refuses an output_dir that exists."""
        if self.output.exists():
            old = self.path / "output.old"
            # They may not be at WandB yet, and what is old goes one day.
            for run in (self.output / "wandb").glob("*run-*"):
                self.wandb.mkdir(exist_ok=True)
                # Two lives that began within the same second bear the same name.
                names = chain([run.name], (f"{run.name}-{number}" for number in count(2)))
                run.rename(next(self.wandb / name for name in names if not (self.wandb / name).exists()))
            if old.exists():
                shutil.rmtree(old)
            self.output.rename(old)

    def write_pidfile(self, job_id: str, epoch: int) -> None:
        """Record in the pid file that this process runs the job."""
        pid, boot = os.getpid(), identity.boot()
        record = PidRecord(job_id=job_id, epoch=epoch, pid=pid, start_time=identity.start_time(pid), boot=boot)
        # Not `write_atomic`: the trainer waits for this, and after a power cut the file says nothing anyway.
        fresh = self.pidfile.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(record)))
        fresh.replace(self.pidfile)

    def live_runner(self, epoch: int) -> int | None:
        """Return the pid of the living process that runs the job under this claim number; None if there is none."""
        record = self._live()
        return record.pid if record and record.epoch == epoch else None

    def other_runner(self, epoch: int) -> int | None:
        """Return the pid of a living process that runs the job under an earlier claim number; None if there is none."""
        record = self._live()
        return record.pid if record and record.epoch < epoch else None

    def _live(self) -> PidRecord | None:
        try:
            record = PidRecord(**json.loads(self.pidfile.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        started = identity.start_time(record.pid)
        alive = started is not None and started == record.start_time and record.boot == identity.boot()
        return record if alive else None

    def same_host_boot(self) -> bool:
        """Return whether the host runs since the last pid file: what that runner wrote is on disk or in memory."""
        try:
            before = str(json.loads(self.pidfile.read_text())["boot"])
        except (OSError, ValueError, TypeError, KeyError):
            return False
        return identity.host_of(before) == identity.host_of(identity.boot()) != identity.UNKNOWN_HOST

    def size_mib(self) -> int:
        """Return the disk space that the run takes, MiB."""
        total = 0
        for root, _, names in os.walk(self.path):
            for name in names:
                try:
                    total += os.lstat(os.path.join(root, name)).st_blocks * 512  # noqa: PTH118 (os.walk's strings, a hot loop)
                except OSError:
                    continue
        return total // (1024 * 1024)


def live_runs(runs: Path) -> list[str]:
    """Return the jobs below this directory whose runner lives."""
    return [path.name for path in sorted(runs.glob("*")) if RunDirectory(path).other_runner(sys.maxsize)]

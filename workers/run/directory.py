"""The directory of one run on the data disk, and the runner's name tag in it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path

from pi0q.workers import identity


@dataclass(frozen=True, kw_only=True)
class Tag:
    """Which process runs the job: pid and start time together never mean another one."""

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
    def tag_file(self) -> Path:
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
        """Makes room for a start from step 0: LeRobot refuses an output_dir that exists."""
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

    def sign(self, job_id: str, epoch: int) -> None:
        """Says that this process runs the job."""
        pid = os.getpid()
        tag = Tag(job_id=job_id, epoch=epoch, pid=pid, start_time=identity.start_time(pid), boot=identity.boot())
        fresh = self.tag_file.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(tag)))
        fresh.replace(self.tag_file)

    def live_runner(self, epoch: int) -> int | None:
        """The pid of the process that runs the job under this epoch; None if there is none any more."""
        tag = self._live()
        return tag.pid if tag and tag.epoch == epoch else None

    def other_runner(self, epoch: int) -> int | None:
        """The pid of a process that still believes to run the job under an earlier epoch; None if there is none."""
        tag = self._live()
        return tag.pid if tag and tag.epoch < epoch else None

    def _live(self) -> Tag | None:
        try:
            tag = Tag(**json.loads(self.tag_file.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        alive = identity.start_time(tag.pid)
        return tag if alive is not None and alive == tag.start_time and tag.boot == identity.boot() else None

    def same_host_boot(self) -> bool:
        """Whether the host runs since the last runner signed: all that was written then is still in its memory."""
        try:
            before = str(json.loads(self.tag_file.read_text())["boot"])
        except (OSError, ValueError, TypeError, KeyError):
            return False
        return identity.host_of(before) == identity.host_of(identity.boot()) != identity.UNKNOWN_HOST

    def size_mib(self) -> int:
        """Space that the run takes."""
        total = 0
        for root, _, names in os.walk(self.path):
            for name in names:
                try:
                    total += os.lstat(os.path.join(root, name)).st_blocks * 512  # noqa: PTH118 (os.walk's strings, a hot loop)
                except OSError:
                    continue
        return total // (1024 * 1024)


def live_runs(runs: Path) -> list[str]:
    """The jobs below this directory whose runner lives."""
    return [path.name for path in sorted(runs.glob("*")) if RunDirectory(path).other_runner(sys.maxsize)]

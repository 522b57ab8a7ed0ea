"""Health check of the trainer: inspected once per trainer and boot in the trainer's own Python, and remembered.

    HealthCheck.begin -> inspect_trainer (a thread; LeRobot's imports take half a minute) -> HealthCheck.refusals(job)

A fault found here refuses the job on this box only; it is no fault of the job.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0q.jobs.dataset import DatasetInfo, newer
from pi0q.jobs.failures.diagnosis import judge
from pi0q.jobs.failures.evidence import Evidence
from pi0q.jobs.schema import trained_model
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.host import cgroup_memory
from pi0q.workers.host.files import MIB, write_atomic
from pi0q.workers.trainer import health_findings, model_packages
from pi0q.workers.trainer.health_findings import Need
from pi0q.workers.trainer.interpreter import TrainerPython

INSPECT = Path(__file__).with_name("inspect_main.py")
#: Seconds that LeRobot, torch and transformers may take to import from a slow disk (25 s on two cores).
INSPECT_SECONDS = 240.0
#: Seconds after which an environment with a fault is inspected again: its owner may have repaired it.
RETRY_SECONDS = 300.0
#: A clock that is wrong by more seconds than this makes every certificate invalid.
CLOCK_SECONDS = 86400.0
#: LeRobot's own number of processes that load data where a job names none.
DATA_PROCESSES = 4
SHARED_MEMORY = Path("/dev/shm")
#: Policies that load the base weights of pi0.
PI0_FAMILY = frozenset({"pi0", "pi05", "pi0_fast"})


def inspect_trainer(python: str, env: Mapping[str, str]) -> dict[str, Any]:
    """Run inspect_main.py in that interpreter and return its answer; `error` alone where it gives none."""
    # Python would first import what lies beside a script or in the working directory.
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                [python, "-c", INSPECT.read_text(encoding="utf-8")],
                env={**env, "HF_HUB_OFFLINE": "1"},
                cwd=empty,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INSPECT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"it did not import LeRobot within {INSPECT_SECONDS:.0f} s"}
        except OSError as error:
            return {"error": str(error)}
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return answer if isinstance(answer, dict) else {"error": "its answer can't be read"}
    except (ValueError, IndexError):
        lines = tuple(done.stderr.strip().splitlines())
        path = env.get("PYTHONPATH", "")
        from_path = f"; PYTHONPATH is {path[:200]}" if path else ""
        return {"error": judge(Evidence(exit_code=done.returncode, log=lines)).detail[:300] + from_path}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the machine that can end a training; None where there is none or it can't be known."""

    shared_mib: int | None
    memory_mib: int | None
    #: Difference of this machine's clock from the server's, seconds.
    clock: float = 0.0


def measure_limits(
    *, clock: float = 0.0, shared: Path = SHARED_MEMORY, groups: list[cgroup_memory.Group] | None = None
) -> Limits:
    """Return the limits of this machine as they are now; `groups` are its memory cgroups."""
    shared_mib = None
    with contextlib.suppress(OSError):
        stats = os.statvfs(shared)
        shared_mib = stats.f_blocks * stats.f_frsize // MIB
    memory_mib = cgroup_memory.container_limit_mib(cgroup_memory.groups() if groups is None else groups)
    return Limits(shared_mib=shared_mib, memory_mib=memory_mib, clock=clock)


@dataclass(frozen=True, kw_only=True)
class CheckedJob:
    """What of a job the health check looks at."""

    spec: Spec
    #: Of its dataset, where they are known.
    facts: DatasetInfo | None
    #: Whether the box's GPUs are simulated; torch does not see those.
    simulated: bool
    #: Whether the job needs the network.
    online: bool

    @property
    def needs(self) -> frozenset[Need]:
        """What the job needs of a box."""
        train = self.spec.train
        uses_gpu = not trained_model.on_cpu(train) and self.spec.resources.gpus != 0
        return frozenset(
            need
            for need, needed in {
                Need.TRAINER: True,
                Need.GPU: uses_gpu and not self.simulated,
                Need.PI0: str(train.get("policy.type")) in PI0_FAMILY,
                Need.WANDB: bool(train.get("wandb.enable")),
                Need.VIDEO: self.facts is not None and self.facts.videos,
            }.items()
            if needed
        )


def refusals(seen: Mapping[str, Any] | None, limits: Limits, job: CheckedJob) -> Iterator[str]:
    """Yield why this box can't run the job, each with its fix. Pure.

    Args:
        seen: What `inspect_trainer` returned; None while that is unknown, which refuses nothing.
    """
    needs = job.needs
    yield from (finding.refusal() for finding in _environment(seen or {}, job) if finding.prevents in needs)
    yield from model_packages.missing(seen or {}, job.spec.train)
    if job.spec.tracking.swanlab and (text := health_findings.swanlab(seen or {})):
        yield text
    if job.facts and (text := newer(job.facts)):
        yield text
    if not job.spec.rehearsal:
        tight = (finding for finding in health_findings.memory(limits.memory_mib) if finding.prevents in needs)
        if finding := next(tight, None):
            yield finding.refusal()
        yield from _shared_memory(limits.shared_mib, job)
    if job.online and abs(limits.clock) > CLOCK_SECONDS:
        days = abs(limits.clock) / 86400
        yield (
            f"clock: {days:.0f} days off the server's, so every certificate is invalid here. "
            "Fix: sudo timedatectl set-ntp true"
        )


def _environment(seen: Mapping[str, Any], job: CheckedJob) -> Iterator[health_findings.Finding]:
    if not seen:
        return
    # The command lines of the fixes are for the doctor; a refusal names none with the interpreter in it.
    yield from health_findings.environment(seen, "python")
    backend = str(job.spec.train.get("dataset.video_backend") or "")
    yield from filter(None, (health_findings.cuda(seen, "python"), health_findings.decoder(seen, backend)))


def _shared_memory(shared_mib: int | None, job: CheckedJob) -> Iterator[str]:
    train = job.spec.train
    processes, batch = train.get("num_workers", DATA_PROCESSES), train.get("batch_size", 8)
    if shared_mib is None or job.facts is None or not isinstance(processes, int) or not isinstance(batch, int):
        return
    # Each process has at least one batch in the making: with less, loading data always fails.
    mib = processes * batch * job.facts.frame_bytes // MIB
    if mib > shared_mib:
        yield (
            f"shared memory: /dev/shm holds {shared_mib} MiB, {processes} data processes need {mib} MiB. "
            "Fix: train.num_workers: 0 in the job file, or a container with more (--shm-size)"
        )


def last_install_ns(python: str) -> int:
    """Return when something was last installed beside this interpreter, ns; 0 if that can't be known."""
    places = Path(python).parent.parent.glob("lib/python*/site-packages")
    with contextlib.suppress(OSError):
        return max((place.stat().st_mtime_ns for place in places), default=0)
    return 0


class HealthCheck:
    """The inspection of this box's trainer, remembered in `PI0Q_HOME/trainer.json`."""

    def __init__(
        self, settings: Settings, boot: str, *, has_gpus: Callable[[], bool], on_done: Callable[[], None]
    ) -> None:
        """`has_gpus` says whether torch must see GPUs; a thread calls `on_done` after each inspection."""
        self.settings, self.boot, self.has_gpus, self.on_done = settings, boot, has_gpus, on_done
        self.file = settings.home / "trainer.json"
        self.seen: dict[str, Any] | None = None
        #: Whether an inspection is under way.
        self.inspecting = False
        self._key: list[Any] = []
        self._retry_at = float("inf")

    def begin(self, trainer: TrainerPython) -> None:
        """Start an inspection, unless one since the boot found no fault and nothing was installed since."""
        key = [
            self.boot, trainer.python, trainer.lerobot, last_install_ns(trainer.python),
            os.environ.get("PYTHONPATH", ""),
        ]  # fmt: skip
        if self.inspecting or (self._key == key and time.monotonic() < self._retry_at):
            return
        if self._key != key and (remembered := self._read(key)) is not None:
            self.seen, self._key, self._retry_at = remembered, key, float("inf")
            return
        self.inspecting, self._key = True, key
        threading.Thread(target=self._inspect, args=(trainer, key), name="health-check", daemon=True).start()

    def _inspect(self, trainer: TrainerPython, key: list[Any]) -> None:
        try:
            # The trainer's own environment, as far as imports go.
            self.seen = inspect_trainer(trainer.python, os.environ)
        except Exception as error:
            self.seen = {"error": f"the inspection failed: {type(error).__name__}: {error}"}
        good = not any(self.seen.get(fault) for fault in ("error", "train_error", "torch_error"))
        good = good and (bool(self.seen.get("cuda")) or not self.has_gpus())
        self._retry_at = float("inf") if good else time.monotonic() + RETRY_SECONDS
        if good:
            # A file that can't be written costs no more than the next inspection.
            with contextlib.suppress(OSError):
                write_atomic(self.file, json.dumps({"key": key, "seen": self.seen}))
        self.inspecting = False
        self.on_done()

    def _read(self, key: list[Any]) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            remembered = json.loads(self.file.read_text(encoding="utf-8"))
            if remembered["key"] == key:
                return dict(remembered["seen"])
        return None

    def refusals(self, job: CheckedJob, *, clock: float, waits: bool) -> list[str]:
        """Return why this box can't run the job; `waits`: whether it waits for a first inspection under way."""
        if self.inspecting and self.seen is None and waits:
            return ["preflight: the trainer's environment is being inspected; LeRobot's imports take half a minute"]
        return list(refusals(self.seen, measure_limits(clock=clock), job))

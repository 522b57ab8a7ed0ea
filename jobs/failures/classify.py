"""What a trainer died of, from what was seen: exit code, then counters and signal, then exception, then log lines."""

from __future__ import annotations

import re
import signal

from pi0q.jobs.failures.evidence import Evidence, refused_flag
from pi0q.jobs.failures.gpu_memory import OTHERS_GIB, others_gib
from pi0q.jobs.failures.raised import Raised
from pi0q.jobs.failures.signs import SIGNS
from pi0q.jobs.outcome import EXIT_EARLY_STOP, EXIT_LEASE_OVER, EXIT_NON_FINITE, EXIT_SAVED_AND_STOPPED, Reason

#: Exit codes that say all there is to say.
EXITS: dict[int, Reason] = {
    0: Reason.FINISHED,
    EXIT_SAVED_AND_STOPPED: Reason.STOPPED_BY_BOX,
    EXIT_LEASE_OVER: Reason.STOPPED_BY_BOX,
    EXIT_NON_FINITE: Reason.NON_FINITE_LOSS,
    EXIT_EARLY_STOP: Reason.EARLY_STOP,
}
#: How full the memory is when a SIGKILL that nobody owns up to is the platform's, 0 to 1.
NEARLY_FULL = 0.9
#: A /dev/shm below this is too small for data loaders, MiB: Docker gives 64.
SMALL_SHM_MIB = 1024
#: NVIDIA's Xid numbers that mean the card or its link, not the program: double-bit and uncontained memory errors, rows
#: that can't be remapped, NVLink, off the bus, a dead firmware.
XIDS_OF_HARDWARE = frozenset({46, 48, 61, 62, 63, 64, 74, 79, 92, 94, 95, 110, 119, 120, 140, 143})

#: Signals of a program that broke inside: not its Python, but a library, the processor or the memory under it.
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGILL, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS})
#: What stands in the log where no exception could be reported, and what it means. The last line that says one counts.
LOG_SIGNS: tuple[tuple[Reason, str], ...] = (
    (Reason.NCCL, r"Watchdog caught collective|NCCL watchdog thread terminated|ncclSystemError|DistBackendError"),
    (Reason.SHM_FULL, r"bus error encountered in worker|insufficient shared memory"),
    (Reason.CUDA_OUT_OF_MEMORY, r"CUDA out of memory|CUDA error: out of memory"),
    # What a log says of a card moves a job elsewhere; only the driver's own counters drain a box.
    (Reason.CUDA_ERROR, r"CUDA error: |device-side assert triggered|uncorrectable ECC|fallen off the bus|NVRM: Xid"),
    (Reason.DISK_FULL, r"No space left on device"),
    # Where transformers is missing, LeRobot 0.4's pi0 has None in its place.
    (
        Reason.TRAINER_BROKEN,
        r"CONFIG_MAPPING\[|ninja: build stopped|error while loading shared libraries|No module named|"
        r"can't open file|version `GLIBC",
    ),
    (Reason.MEMORY_LIMIT, r"std::bad_alloc|Out of memory: Killed process"),
)


def diagnose(evidence: Evidence) -> Reason:
    """The class of this end."""
    if evidence.heard == "hung":
        return _hardware(evidence) or Reason.HUNG
    if evidence.exit_code in EXITS:
        return EXITS[evidence.exit_code]
    raised = evidence.raised()
    if raised.kind == "SystemExit" and (evidence.exit_code == 2 or refused_flag(evidence.lines)):
        return Reason.SPEC_REFUSED
    return (
        _hardware(evidence)
        or _memory(evidence, raised.text)
        or _killed(evidence, raised.kind)
        or _own_dataset(evidence)
        or _said((raised, *evidence.behind()))
        or _crashed(evidence)
        or _logged(evidence)
        or (Reason.SPEC_REFUSED if evidence.exit_code == 2 else Reason.TRAINER_FAILED)
    )


def _hardware(evidence: Evidence) -> Reason | None:
    for gpu in evidence.gpus:
        if gpu.lost or gpu.ecc_errors or XIDS_OF_HARDWARE & set(gpu.xids):
            return Reason.GPU_LOST
    return None


def _memory(evidence: Evidence, text: str) -> Reason | None:
    """Counters of the memory group: only together with a SIGKILL do they speak of this trainer."""
    loader = "signal: Killed" in text or "exited unexpectedly" in text
    if (evidence.signal == signal.SIGKILL or loader) and evidence.memory.oom_kills:
        return Reason.MEMORY_LIMIT
    # Who killed a data loader where the kernel says that it did not?
    innocent = evidence.memory.oom_kills == 0 and evidence.memory.share < NEARLY_FULL
    return Reason.TRAINER_KILLED if "signal: Killed" in text and innocent else None


def _killed(evidence: Evidence, kind: str) -> Reason | None:
    if evidence.signal == signal.SIGKILL:
        return Reason.PLATFORM_KILLED if evidence.memory.share >= NEARLY_FULL else Reason.TRAINER_KILLED
    ended = evidence.signal in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    return Reason.TRAINER_KILLED if ended or (kind == "KeyboardInterrupt") else None


def _own_dataset(evidence: Evidence) -> Reason | None:
    """LeRobot goes to the Hub for whatever a dataset in a directory lacks."""
    repo = evidence.train.get("dataset.repo_id")
    wanted = f"/datasets/{repo}" in " ".join(one.text for one in (evidence.raised(), *evidence.behind()))
    return Reason.DATASET_MISSING if wanted and evidence.train.get("dataset.root") else None


def _said(chain: tuple[Raised, ...]) -> Reason | None:
    """By its exception, else by those behind it: `An error occurred while generating` has its cause there."""
    for sign in SIGNS:
        for raised in chain:
            if raised and sign.test(raised):
                taken = sign.reason is Reason.CUDA_OUT_OF_MEMORY and others_gib(raised.text) >= OTHERS_GIB
                return Reason.GPU_TAKEN if taken else sign.reason
    return None


def _crashed(evidence: Evidence) -> Reason | None:
    if evidence.signal not in _CRASHES:
        return None
    if logged := _logged(evidence):
        return logged
    small = evidence.shm_mib is not None and min(evidence.shm_mib, 16 * (evidence.shm_free_mib or 0)) < SMALL_SHM_MIB
    return Reason.SHM_FULL if evidence.signal == signal.SIGBUS and small else Reason.TRAINER_CRASHED


def _logged(evidence: Evidence) -> Reason | None:
    for line in reversed(evidence.lines):
        for reason, says in LOG_SIGNS:
            if re.search(says, line):
                return reason
    return None

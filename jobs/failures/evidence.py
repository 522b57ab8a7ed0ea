"""Evidence of a trainer's end. workers/trainer/evidence.py collects it, classify.py and diagnosis.py judge it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pi0q.jobs.failures.raised import Raised, raised_in, unwrapped, with_frames

#: Exit codes above this one are a shell's or a container's way to tell of a signal.
SHELL_SIGNALS = 128
#: Lines at the end of a log in which a refused flag is looked for.
LAST_LINES = 12
#: Lines that look like failures and are none: what autotuning passes over, a video decoder that another one replaces.
HARMLESS = re.compile(
    r"AUTOTUNE|OutOfResources: out of resource|out of resource: shared memory|No valid triton configs|"
    r"Runtime error during autotuning|Ignoring this choice|^Extension modules: "
)
#: LeRobot goes on with PyAV behind this block, which holds five tracebacks.
DECODER_SAYS = ("[start of libtorchcodec loading traceback]", "[end of libtorchcodec loading traceback]")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The host memory that the run was allowed, and how near its end it was. MiB."""

    #: Processes that the kernel killed for lack of it since the run began; None where that can't be read.
    oom_kills: int | None = None
    #: The limit of the container, or all that the machine has; None if unknown.
    limit_mib: int | None = None
    #: In use and not to be had back, when it was last looked at.
    used_mib: int | None = None
    #: The most that was seen.
    peak_mib: int | None = None
    #: The limit is a container's.
    container: bool = False

    @property
    def share(self) -> float:
        """How full it was, 0 to 1; 0 where that is unknown."""
        return (self.used_mib or 0) / self.limit_mib if self.limit_mib else 0.0


@dataclass(frozen=True, kw_only=True)
class GpuState:
    """One of the run's GPUs at its end."""

    uuid: str
    name: str = ""
    #: Why it can't be used any more, in the driver's words; "" if it can.
    lost: str = ""
    #: NVIDIA's numbers of the errors that the driver reported of it during the run.
    xids: tuple[int, ...] = ()
    #: Memory errors that could not be corrected, since the run began.
    ecc_errors: int = 0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """How one trainer ended."""

    #: As subprocess has it: negative for a signal.
    exit_code: int
    #: The exception that the hook reported; None if there was none.
    error: Raised | None = None
    #: The exceptions behind it, the nearest first.
    causes: tuple[Raised, ...] = ()
    #: The last step that was done; None before the first.
    step: int | None = None
    #: The last lines of the log.
    log: tuple[str, ...] = ()
    #: What was heard from outside that ended it: hung, cancel, stop, fenced.
    heard: str = ""
    #: How long it had done no step then, seconds.
    silent_seconds: float | None = None
    memory: Memory = field(default_factory=Memory)
    #: MiB of /dev/shm, all and free; None where there is none.
    shm_mib: int | None = None
    shm_free_mib: int | None = None
    #: MiB and files that the data disk can still take; None where unknown.
    disk_free_mib: int | None = None
    disk_free_inodes: int | None = None
    gpus: tuple[GpuState, ...] = ()
    #: VRAM that torch held at most, MiB.
    vram_peak_mib: int | None = None
    #: The job's `train`, flat: what could be changed.
    train: Mapping[str, Any] = field(default_factory=dict)
    lerobot: str = ""

    @property
    def signal(self) -> int:
        """The signal that ended it, 0 if none did."""
        if self.exit_code < 0:
            return -self.exit_code
        # What Python's own exit codes can't be; 130 and 143 are its ways to end after Ctrl-C and SIGTERM.
        return self.exit_code - SHELL_SIGNALS if self.exit_code in (132, 134, 135, 136, 137, 139) else 0

    @property
    def lines(self) -> tuple[str, ...]:
        """The log without what looks like a failure and is none."""
        kept = list[str]()
        for line in self.log:
            kept.append(line)
            if DECODER_SAYS[1] in line:
                # The last lines of a log may begin in the midst of it.
                starts = [index for index, one in enumerate(kept) if DECODER_SAYS[0] in one]
                del kept[starts[-1] if starts else 0 :]
        return tuple(line for line in kept if not HARMLESS.search(line))

    def raised(self) -> Raised:
        """Return the exception that ended it, as the hook reported it, else from the log; an empty one if none.

        What came out of a data loader's process is unwrapped, and a refused flag is told by the log alone.
        """
        if self.error and self.error.kind == "SystemExit":
            return Raised.of("SystemExit", refused_flag(self.lines) or self.error.text)
        logged = raised_in(self.lines)
        if self.error:
            return unwrapped(with_frames(self.error, logged))
        if logged:
            return unwrapped(logged[0])
        return Raised.of("SystemExit" if (refused := self._refused()) else "", refused)

    def behind(self) -> tuple[Raised, ...]:
        """Return the exceptions behind that one, as the hook reported them, else from the log."""
        logged = raised_in(self.lines)
        if self.error:
            return tuple(with_frames(cause, logged) for cause in self.causes)
        return tuple(logged[1:])

    def _refused(self) -> str:
        return refused_flag(self.lines) if self.exit_code in (1, 2) else ""


def refused_flag(lines: tuple[str, ...]) -> str:
    """What argparse or draccus say last: `error: …` and what follows; "" if they said nothing."""
    for index in range(len(lines) - 1, max(-1, len(lines) - 1 - LAST_LINES), -1):
        # The name of a program stands before it; a compiler's has a file, a line and a column there.
        if found := re.match(r"(?:[^:\s]+: )?error: (.+)", lines[index].strip()):
            return " ".join([found[1].strip(), *(line.strip() for line in lines[index + 1 : index + 6])]).strip()
    return ""

"""What is known of a trainer's end, as far as it could be seen. Gathered in workers/run/evidence.py, judged here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Exit codes above this one are a shell's or a container's way to tell of a signal.
SHELL_SIGNALS = 128
#: The last line of a traceback: an exception's name, with or without its module, and what it says.
RAISED = re.compile(r"^(?:\[rank\d+\]: ?)?(?P<kind>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Warning|Interrupt|"
                    r"Exit|OutOfResources|Unavailable|NotFound|Enabled|Timeout))(?:: ?(?P<text>.*))?$")  # fmt: skip
#: Lines of a message below its first that are read.
MESSAGE_LINES = 8
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
    #: The exception that the hook reported: its name, without its module; None if there was none.
    error: str | None = None
    #: What the exception says.
    message: str = ""
    #: The exceptions behind it, the nearest first, each `Name: text`.
    causes: tuple[str, ...] = ()
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

    def spoken(self) -> tuple[str, str]:
        """The exception that ended it, (name, text): as the hook told it, else as the log has it; ("", "") if none.

        What came out of a data loader's process is unwrapped, and a refused flag is told by the log alone.
        """
        if self.error == "SystemExit":
            return self.error, refused_flag(self.lines) or self.message
        if self.error:
            return self.error, self.message
        if (raised := self._raised())[:1]:
            return raised[0]
        refused = refused_flag(self.lines) if self.exit_code in (1, 2) else ""
        return ("SystemExit", refused) if refused else ("", "")

    def behind(self) -> tuple[str, ...]:
        """The exceptions behind that one, as the hook told them, else as the log has them."""
        if self.error:
            return self.causes
        return tuple(f"{kind}: {text}" for kind, text in self._raised()[1:])

    def _raised(self) -> list[tuple[str, str]]:
        """Exceptions that ended a traceback in the log, the last first, each with the lines that follow it."""
        found, below = list[tuple[str, str]](), list[str]()
        for line in reversed(self.lines):
            if raised := RAISED.match(line.strip()):
                text = "\n".join([raised["text"] or "", *reversed(below[-MESSAGE_LINES:])]).strip()
                found.append((raised["kind"].rpartition(".")[2], text))
            below = (
                [] if line.startswith((" ", "Traceback", "During", "The above")) or raised else [*below, line.strip()]
            )
        return found


def unwrapped(kind: str, text: str) -> tuple[str, str]:
    """What a data loader's worker really met, instead of `Caught X in DataLoader worker process 0`."""
    if not text.startswith("Caught "):
        return kind, text
    for line in reversed(text.splitlines()):
        if found := RAISED.match(line.strip()):
            return found["kind"].rpartition(".")[2], found["text"] or ""
    return kind, text


def refused_flag(lines: tuple[str, ...]) -> str:
    """What argparse or draccus say last: `error: …` and what follows; "" if they said nothing."""
    for index in range(len(lines) - 1, max(-1, len(lines) - 1 - LAST_LINES), -1):
        if found := re.search(r"(?:^|: )error: (.+)", lines[index]):
            return " ".join([found[1].strip(), *(line.strip() for line in lines[index + 1 : index + 6])]).strip()
    return ""


def others_gib(text: str) -> float:
    """VRAM that torch says other processes hold, GiB; those of the run itself are named otherwise."""
    sizes = {"KiB": 2.0**-20, "MiB": 2.0**-10, "GiB": 1.0}
    found = re.findall(r"Process \d+ has ([\d.]+) ([KMG]iB) memory in use", text)
    return sum(float(amount) * sizes[unit] for amount, unit in found)

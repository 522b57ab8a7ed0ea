"""Whether this box has its cards, or is a container that was started without them (AutoDL's 无卡模式).

Such a container costs a hundredth: it has half a core, about 2 GiB of memory and no card. `recognise` is pure.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from pi0q.queue.refusals import WithoutCards
from pi0q.workers.host import cgroup_memory

#: AutoDL gives a container that was started without its GPU 2 GiB; some images say up to 4. MiB.
SMALL_MEMORY_MIB, LARGEST_MEMORY_MIB = 3 * 1024, 4 * 1024
#: Seconds that nvidia-smi has to answer: a driver that hangs must not hold up claims.
ANSWER_SECONDS = 10.0


class Mode(str, Enum):
    """What a box has of cards."""

    CARDS = "cards"
    #: Started without the cards that it has at other times: it can do anything but train.
    NO_GPU_MODE = "no_gpu_mode"
    #: A machine without a card, or one whose cards can't be reached.
    NO_CARD = "no_card"


class Smi(str, Enum):
    """What came of `nvidia-smi -L`."""

    ABSENT = "absent"
    #: It may not be run, or may not reach the driver.
    DENIED = "denied"
    FAILED = "failed"
    #: It lists cards, whatever NVML says.
    LISTED = "listed"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What tells the mode."""

    #: Cards that NVML shows, or that are simulated.
    cards: int
    #: Memory limit of this container; None where it has none.
    limit_mib: int | None
    smi: Smi = Smi.ABSENT


def recognise(seen: Evidence) -> Mode:
    """Return the box's mode.

    A broken driver on a machine of full size is no such mode: it is a fault that someone has to mend.
    """
    if seen.cards:
        return Mode.CARDS
    if seen.limit_mib is None or seen.smi is Smi.LISTED:
        return Mode.NO_CARD
    largest = LARGEST_MEMORY_MIB if seen.smi is Smi.DENIED else SMALL_MEMORY_MIB
    return Mode.NO_GPU_MODE if seen.limit_mib <= largest else Mode.NO_CARD


def without_cards(mode: Mode, staging: str) -> WithoutCards | None:
    """Return that a box claims nothing since it has no card; None where it has, or is a machine that never fetches.

    `staging`: the setting.
    """
    if mode is Mode.NO_GPU_MODE:
        return WithoutCards(fetches=staging != "off")
    return WithoutCards(no_gpu_mode=False) if mode is Mode.NO_CARD and staging == "on" else None


def read_smi(code: int, output: str) -> Smi:
    """Return what nvidia-smi said, by its exit code and all that it printed. Pure."""
    if code == 0 and "GPU " in output:
        return Smi.LISTED
    return Smi.DENIED if "permission" in output.lower() else Smi.FAILED


def ask_smi() -> Smi:
    """Run nvidia-smi."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except PermissionError:
        return Smi.DENIED
    except FileNotFoundError:
        return Smi.ABSENT
    except (OSError, subprocess.SubprocessError):
        return Smi.FAILED
    return read_smi(done.returncode, done.stdout.decode(errors="replace"))


@dataclass
class ModeReader:
    """Tells the mode of this box; asks nvidia-smi once, and only a small container without a card."""

    limit_mib: Callable[[], int | None] = lambda: cgroup_memory.container_limit_mib(cgroup_memory.groups())
    smi: Callable[[], Smi] = ask_smi
    #: Whether PI0Q_FAKE_GPUS says what the box has, be it none.
    simulated: bool = False
    _asked: Smi | None = field(default=None, init=False)

    def mode(self, cards: int) -> Mode:
        """Return the mode of a box that shows this many cards now."""
        if cards:
            return Mode.CARDS
        limit = None if self.simulated else self.limit_mib()
        if limit is None or limit > LARGEST_MEMORY_MIB:
            return Mode.NO_CARD
        if self._asked is None:
            self._asked = self.smi()
        return recognise(Evidence(cards=cards, limit_mib=limit, smi=self._asked))

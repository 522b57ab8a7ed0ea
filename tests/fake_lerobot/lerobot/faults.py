"""FAKE: failures on demand, by FAKE_FAULT="kind@step,kind@step".

At the beginning of that step (counted from 1):
    oom       raises OutOfMemoryError("CUDA out of memory. …"), exit code 1
    error     raises RuntimeError, exit code 1
    nan, inf  that step's loss
    hang      sleeps for ever (SIGTERM does not end it: no step boundary comes)
    exitN     exits with code N
    kill      SIGKILLs itself
    hog       takes memory until it is killed
    flood     prints 20,000 long lines
    autotune  prints what torch prints as it compiles, and waits a little
    stop      stands still (SIGSTOP) until someone lets it go on
    stopsave  does so half-way through the save of that step
    enospc    from that step on, a save raises OSError(ENOSPC) half-way
    killsave  from that step on, a save SIGKILLs the process half-way
Of several ranks it is rank 0's; "kill@3#1" is rank 1's.
With FAKE_FAULT_ONCE=PATH a fault comes only while PATH does not exist, and makes it.
"""

import errno
import math
import os
import re
import signal
import sys
import time
from pathlib import Path


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def at(step: int) -> str | None:
    """The fault due at `step`; a save's faults stay due."""
    for fault in filter(None, os.environ.get("FAKE_FAULT", "").split(",")):
        fault, _, rank = fault.partition("#")
        if int(rank or 0) != int(os.environ.get("RANK", "0")):
            continue
        kind, _, when = fault.partition("@")
        due = step >= int(when) if kind in ("enospc", "killsave") else step == int(when)
        if due and not already():
            return kind
    return None


def already() -> bool:
    once = os.environ.get("FAKE_FAULT_ONCE")
    return bool(once) and Path(once or "").exists()


def remember() -> None:
    if once := os.environ.get("FAKE_FAULT_ONCE"):
        Path(once).touch()


def before_step(step: int) -> None:
    kind = at(step)
    if kind is None or kind in ("nan", "inf", "enospc", "killsave", "stopsave"):
        return
    remember()
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "oom":
        raise OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB "
            "of which 1.12 GiB is free."
        )
    if kind == "error":
        raise RuntimeError("a fault on demand")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    held: list[bytearray] = []
    while kind == "hog":
        held.append(bytearray(b"x") * (1 << 23))
    while kind == "hang":
        time.sleep(3600)
    if kind == "flood":
        sys.stderr.write(("flood " * 40 + "\n") * 20_000)
    if kind == "autotune":
        sys.stderr.write("AUTOTUNE addmm(256x4096, 256x1024, 1024x4096)\n")
        sys.stderr.flush()
        time.sleep(0.5)
    if code := re.fullmatch(r"exit(\d+)", kind):
        raise SystemExit(int(code[1]))


def loss_at(step: int, loss: float) -> float:
    kind = at(step)
    if kind in ("nan", "inf"):
        remember()
        return math.nan if kind == "nan" else math.inf
    return loss


def inside_save(step: int) -> None:
    kind = at(step)
    if kind in ("enospc", "killsave", "stopsave"):
        remember()
    if kind == "stopsave":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if kind == "killsave":
        os.kill(os.getpid(), signal.SIGKILL)


def wandb_init(run_id: str, *, offline: bool) -> None:
    """What WandB does with a run that is to be online."""
    how, _, file = os.environ.get("FAKE_WANDB", "").partition("@")
    if offline or not how or (file and not Path(file).exists()):
        return
    if how == "hang":
        time.sleep(3600)
    if how == "refused":
        raise ConnectionError("503 Server Error")
    if how == "deleted" and "." not in run_id:
        raise RuntimeError(f"run {run_id} was previously created and deleted; try a new run name")


def come_late(output_dir: object) -> None:
    """FAKE_LATE_RANK: this rank reads its flags only when another one has made the output directory."""
    if os.environ.get("FAKE_LATE_RANK") == os.environ.get("RANK", ""):
        give_up = time.monotonic() + 60
        while not Path(str(output_dir)).is_dir() and time.monotonic() < give_up:
            time.sleep(0.01)

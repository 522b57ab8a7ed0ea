"""Checks: weights that are not finite, a missing GPU; and the description of an error for its event."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from typing import Any

#: Characters of an exception's text that are sent: its head names it, its tail has a data loader's own traceback.
HEAD, TAIL = 600, 1400
#: Characters of one line of it: a list of missing parameters must not hide the lines below.
LINE = 400
#: Causes of an exception that are sent, each an event of its own.
CAUSES = 4
#: Frames that are sent, the innermost ones, and characters of each; classes that an exception is derived from.
FRAMES, FRAME, BASES = 9, 120, 8
#: LeRobot's way to go on without the GPU that it was asked to train on.
NO_GPU = re.compile(r"Device 'cuda\S*' is not available")


def causes(error: BaseException) -> list[BaseException]:
    """Return the exceptions behind one, the nearest first."""
    found, cause = list[BaseException](), cause_of(error)
    while cause is not None and len(found) < CAUSES:
        found.append(cause)
        cause = cause_of(cause)
    return found


def describe(error: BaseException) -> dict[str, Any]:
    """Return what distinguishes an exception: class, bases, text, error number, HTTP status and frames."""
    kind = type(error)
    bases = [base.__name__ for base in kind.__mro__[1:] if base not in (BaseException, object)]
    found = {
        "type": kind.__name__,
        "message": shortened(text_of(error)),
        "module": "" if kind.__module__ == "builtins" else str(kind.__module__),
        "bases": bases[:BASES],
        "errno": _whole(getattr(error, "errno", None)),
        "status": _status(error),
        "frames": frames(error),
    }
    return {name: value for name, value in found.items() if name in ("type", "message") or value not in (None, "", [])}


def text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as own:  # of a class that can't say what it is
        return f"its text can't be had ({type(own).__name__})"


def shortened(text: str) -> str:
    """Return a text with long lines cut, and its middle left out where it is still long."""
    text = "\n".join(line if len(line) <= LINE else f"{line[:LINE]} …" for line in text.split("\n"))
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]} … {text[-TAIL:]}"


def frames(error: BaseException) -> list[str]:
    """Return where it was raised, the innermost last: `lerobot/datasets/io_utils.py:load_info`."""
    walked = [(frame.f_code.co_filename, frame.f_code.co_name) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [f"{file.rpartition('-packages/')[2]}:{function}"[-FRAME:] for file, function in walked][-FRAMES:]


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _status(error: BaseException) -> int | None:
    """Return the status of the HTTP answer that it tells of, as requests, httpx, aiohttp or urllib have it."""
    response = getattr(error, "response", None)
    for holder, name in ((response, "status_code"), (response, "status"), (error, "status"), (error, "code")):
        if (status := _whole(getattr(holder, name, None))) is not None and 100 <= status < 600:
            return status
    return None


def cause_of(error: BaseException) -> BaseException | None:
    """Return what an error was raised from, or while it was handled; of a group of errors its first."""
    group = getattr(error, "exceptions", None)
    if isinstance(group, tuple) and group and isinstance(group[0], BaseException):
        return group[0]
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def not_finite(model: Any) -> str | None:
    """Return the first parameter with a NaN or infinity in it; None if all are finite.

    A checkpoint of such weights is worth nothing, though loss and gradient of its step may both have been finite.
    One number a tensor and one wait for the GPU: milliseconds, and no memory to speak of.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(model, "named_parameters"):
        return None
    named = [(name, value) for name, value in model.named_parameters() if value.is_floating_point() and value.numel()]
    with torch.no_grad():
        largest = [torch.linalg.vector_norm(value.detach(), ord=float("inf")).float() for _, value in named]
        by_device: dict[Any, list[int]] = {}
        for index, one in enumerate(largest):
            by_device.setdefault(one.device, []).append(index)
        for places in by_device.values():
            finite = torch.isfinite(torch.stack([largest[index] for index in places])).tolist()
            for index, good in zip(places, finite, strict=True):
                if not good:
                    return str(named[index][0])
    return None


class GpuWatch(logging.Filter):
    """Detects in the log that LeRobot would train on the CPU instead: a day's work would take a year."""

    def __init__(self) -> None:
        super().__init__()
        self.missing = ""
        #: most bytes that torch held of the GPU
        self.peak = 0

    def install(self) -> None:
        for name in ("", "lerobot.configs.policies"):
            logging.getLogger(name or None).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if NO_GPU.search(text := str(record.msg)):
            self.missing = text
        return True

    def check(self, device: object) -> None:
        """Raise RuntimeError where the requested GPU is not available."""
        if self.missing and not str(device).startswith("cuda"):
            raise RuntimeError(f"CUDA is not available ({torch_error()}): LeRobot would train on the {device} instead")

    def memory(self) -> dict[str, int | None]:
        """What torch holds of the GPU now and held at most, MiB, without the CUDA context."""
        torch: Any = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            return {"vram_mib": None, "vram_peak_mib": None}
        self.peak = max(self.peak, torch.cuda.max_memory_reserved())
        return {"vram_mib": torch.cuda.memory_reserved() >> 20, "vram_peak_mib": self.peak >> 20}


def torch_error() -> str:
    """Return what torch says when it initialises its GPUs."""
    torch: Any = sys.modules.get("torch")
    try:
        torch.cuda.init()
    except Exception as error:  # of any kind: it is only printed
        return str(error).strip().splitlines()[0]
    return "torch sees none"

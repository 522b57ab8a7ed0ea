"""What a run must not go on with, and what is told of an error that ended it."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

#: Characters of an exception's text that are told: its head names it, its tail has a data loader's own traceback.
HEAD, TAIL = 600, 1400
#: Exceptions behind the last one that are told, and characters of each.
CAUSES, CAUSE = 4, 200
#: LeRobot's way to go on without the GPU that it was asked to train on.
NO_GPU = re.compile(r"Device 'cuda\S*' is not available")


def told(error: BaseException) -> dict[str, Any]:
    """An exception for the event `error`: type, message, and those behind it, the nearest first."""
    text = str(error)
    if len(text) > HEAD + TAIL:
        text = f"{text[:HEAD]} … {text[-TAIL:]}"
    causes, one = list[str](), behind(error)
    while one is not None and len(causes) < CAUSES:
        causes.append(f"{type(one).__name__}: {one}"[:CAUSE])
        one = behind(one)
    return {"type": type(error).__name__, "message": text, "causes": causes}


def behind(error: BaseException) -> BaseException | None:
    """What it was raised from, or while it was handled."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def not_finite(model: Any) -> str | None:
    """The first parameter with a NaN or infinity in it; None if all are finite.

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
    """Hears LeRobot say that it will train on the CPU instead: a day's work would take a year."""

    def __init__(self) -> None:
        super().__init__()
        self.missing = ""

    def listen(self) -> None:
        for name in ("", "lerobot.configs.policies"):
            logging.getLogger(name or None).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if NO_GPU.search(text := str(record.msg)):
            self.missing = text
        return True

    def check(self, device: object) -> None:
        """Raises RuntimeError where the GPU that was asked for is not to be had."""
        if self.missing and not str(device).startswith("cuda"):
            raise RuntimeError(f"CUDA is not available ({why_not()}): LeRobot would train on the {device} instead")


def why_not() -> str:
    """Torch's word on its GPUs."""
    torch: Any = sys.modules.get("torch")
    try:
        torch.cuda.init()
    except Exception as error:  # of any kind: it is only told
        return str(error).strip().splitlines()[0]
    return "torch sees none"

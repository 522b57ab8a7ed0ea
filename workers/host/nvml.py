"""NVML, NVIDIA's management library: loaded and initialised once a process."""

from __future__ import annotations

from functools import cache
from typing import Any


class Unavailable(Exception):
    """There is no NVML to ask, and why."""


class NoError(Exception):
    """Stands for the base of NVML's errors where the binding is not installed; nothing raises it."""


@cache
def load() -> Any:
    """Return the initialised binding (pynvml). Raises Unavailable; a later call tries again."""
    try:
        import pynvml
    except ImportError as error:
        why = "nvidia-ml-py is not installed" if isinstance(error, ModuleNotFoundError) else str(error)
        raise Unavailable(why) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise Unavailable(str(error)) from None
    return pynvml


def error_type(binding: Any) -> type[Exception]:
    """Return the base class of what a binding's calls raise."""
    base: type[Exception] = getattr(binding, "NVMLError", NoError)
    return base


def text(value: Any) -> Any:
    """Decode a string of NVML: bytes in older bindings."""
    return value.decode() if isinstance(value, bytes) else value

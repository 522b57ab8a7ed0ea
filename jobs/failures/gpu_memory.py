"""Whose memory filled a GPU, by what torch says of it."""

from __future__ import annotations

import re

#: VRAM that other processes hold before they are to blame for an out-of-memory, GiB.
OTHERS_GIB = 4.0
#: What a process holds besides torch's own memory at most, GiB: CUDA's context, kernels, NCCL's buffers.
CONTEXT_GIB = 3.0
#: Figures are rounded to hundredths.
ROUNDED_GIB = 0.02

_SIZES = {"bytes": 2.0**-30, "KiB": 2.0**-20, "MiB": 2.0**-10, "GiB": 1.0, "TiB": 2.0**10}
_AMOUNT = r"([\d.]+) (bytes|[KMGT]iB)"


def others_gib(text: str) -> float:
    """Return the VRAM that torch says processes other than the run hold, GiB.

    Where torch knows its own process it names that otherwise (`this process has`). In a container whose driver shows
    the host's process numbers it does not; then one of those named is the run itself: the smallest that holds what
    torch allocated and reserved, and little more.
    """
    held = [_gib(*found) for found in re.findall(rf"Process \d+ has {_AMOUNT} memory in use", text)]
    if "this process has" not in text and (own := _own_gib(text)):
        ours = [gib for gib in held if own - ROUNDED_GIB <= gib <= own + CONTEXT_GIB]
        if ours:
            held.remove(min(ours))
    return sum(held)


def _own_gib(text: str) -> float:
    """Return what torch says that it holds itself, GiB; 0 if it does not say."""
    allocated = re.search(rf"allocated memory {_AMOUNT} is allocated by PyTorch", text)
    reserved = re.search(rf"{_AMOUNT} is reserved by PyTorch but unallocated", text)
    return sum(_gib(*found.groups()) for found in (allocated, reserved) if found)


def _gib(amount: str, unit: str) -> float:
    return float(amount) * _SIZES[unit]

"""How near the GPUs of a machine are to one another: by NVLink, else by the PCIe parts that lie between them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pi0q.workers.host import nvml

logger = logging.getLogger(__name__)

#: Distance of two GPUs that reach each other by NVLink, directly or through a switch. All others are NVML's own levels
#: (nvmlGpuTopologyLevel_t): 0 one board, 10 one PCIe switch, 20 several, 30 one host bridge, 40 one NUMA node, 50 none.
NVLINK = -1

#: Distance of each GPU to each other, by their numbers; empty where nobody tells.
Distances = tuple[tuple[int, ...], ...]


def measured(uuids: Sequence[str]) -> Distances:
    """Return the distances between GPUs by their UUIDs; empty for one GPU and where the driver does not tell."""
    return _of(tuple(uuids)) if len(uuids) > 1 else ()


# A machine's wiring does not change while a process lives; a card that is lost makes another list.
@lru_cache(maxsize=4)
def _of(uuids: tuple[str, ...]) -> Distances:
    try:
        binding = nvml.load()
    except nvml.Unavailable:
        return ()
    try:
        return read(binding, [binding.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids])
    except nvml.error_type(binding) as error:
        # Many containers hide it.
        logger.info("NVML does not tell how the GPUs are connected (%s): cards are chosen by number", error)
        return ()


def read(binding: Any, handles: Sequence[Any]) -> Distances:
    """Return the distances between these GPUs. Raises NVMLError."""
    return tuple(tuple(_distance(binding, one, other) for other in handles) for one in handles)


def _distance(binding: Any, one: Any, other: Any) -> int:
    if one is other:
        return 0
    return NVLINK if _by_nvlink(binding, one, other) else int(binding.nvmlDeviceGetTopologyCommonAncestor(one, other))


def _by_nvlink(binding: Any, one: Any, other: Any) -> bool:
    try:
        status = binding.nvmlDeviceGetP2PStatus(one, other, binding.NVML_P2P_CAPS_INDEX_NVLINK)
    except nvml.error_type(binding):
        # Drivers of cards without NVLink may not know the question.
        return False
    return bool(status == binding.NVML_P2P_STATUS_OK)

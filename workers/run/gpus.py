"""Whether the GPUs of a run live: errors of the driver (Xid) and of the memory, lost cards; by NVML and the kernel."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pi0q.jobs.evidence import GpuState

KERNEL_LOG = Path("/dev/kmsg")
XID = re.compile(r"NVRM: Xid \((?:PCI:)?(?P<bus>[0-9a-fA-F:.]+)\): (?P<number>\d+)")
#: NVML's numbers of a card that is gone: not found, lost, to be reset, unknown error.
GONE = frozenset({6, 15, 16, 999})
RECORD_BYTES = 8192


class Gpus:
    """Looked at from the start of a trainer to its end. Nothing here ever fails: what can't be read is not known."""

    def __init__(self, uuids: Sequence[str], *, nvml: Any = None, kernel_log: Path = KERNEL_LOG) -> None:
        """`uuids`: of the run's cards; simulated ones have no driver."""
        self.uuids = [uuid for uuid in uuids if not uuid.startswith("FAKE")]
        self._nvml = nvml if nvml is not None or not self.uuids else _nvml()
        self._names = {uuid: str(self._ask(uuid, "nvmlDeviceGetName") or "") for uuid in self.uuids}
        self._buses = {uuid: self._bus(uuid) for uuid in self.uuids}
        self._ecc = {uuid: self._ecc_errors(uuid) for uuid in self.uuids}
        self._xids: dict[str, list[int]] = {uuid: [] for uuid in self.uuids}
        self._events = self._listen()
        self._kernel = _open_at_end(kernel_log) if self.uuids else -1

    def states(self) -> tuple[GpuState, ...]:
        """How they are now, and what happened to them since."""
        self._hear()
        found = []
        for uuid in self.uuids:
            errors = max(0, (self._ecc_errors(uuid) or 0) - (self._ecc[uuid] or 0))
            xids = tuple(dict.fromkeys(self._xids[uuid]))
            lost, name = self._gone(uuid), self._names[uuid]
            found.append(GpuState(uuid=uuid, name=name, lost=lost, xids=xids, ecc_errors=errors))
        return tuple(found)

    def close(self) -> None:
        """Stops listening."""
        if self._kernel >= 0:
            os.close(self._kernel)
            self._kernel = -1
        if self._events is not None:
            with contextlib.suppress(Exception):
                self._nvml.nvmlEventSetFree(self._events)
            self._events = None

    # -- NVML -------------------------------------------------------------------------------------

    def _ask(self, uuid: str, call: str, *args: Any) -> Any:
        """An answer of the driver; None if it has none."""
        try:
            return _text(getattr(self._nvml, call)(self._nvml.nvmlDeviceGetHandleByUUID(uuid), *args))
        except Exception:  # pynvml makes a class an error code at run time
            return None

    def _ecc_errors(self, uuid: str) -> int | None:
        kinds = (
            getattr(self._nvml, name, None) for name in ("NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_VOLATILE_ECC")
        )
        found = self._ask(uuid, "nvmlDeviceGetTotalEccErrors", *kinds)
        return int(found) if found is not None else None

    def _bus(self, uuid: str) -> str:
        """`01:00`, the part of a PCI address that NVML and the kernel write alike."""
        info = self._ask(uuid, "nvmlDeviceGetPciInfo")
        found = re.search(r"([0-9a-f]{2}:[0-9a-f]{2})(?:\.\d)?$", str(_text(getattr(info, "busId", ""))).lower())
        return found[1] if found else ""

    def _gone(self, uuid: str) -> str:
        if self._nvml is None:
            return ""
        try:
            self._nvml.nvmlDeviceGetMemoryInfo(self._nvml.nvmlDeviceGetHandleByUUID(uuid))
        except Exception as error:
            return str(error) if getattr(error, "value", None) in GONE else ""
        return ""

    def _listen(self) -> Any:
        try:
            events = self._nvml.nvmlEventSetCreate()
            for uuid in self.uuids:
                handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
                self._nvml.nvmlDeviceRegisterEvents(handle, self._nvml.nvmlEventTypeXidCriticalError, events)
            return events if self.uuids else None
        except Exception:
            return None

    def _hear(self) -> None:
        with contextlib.suppress(Exception):
            while self._events is not None:
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
                uuid = str(_text(self._nvml.nvmlDeviceGetUUID(event.device)))
                self._xids.setdefault(uuid, []).append(int(event.eventData))
        for line in _records(self._kernel):
            if found := XID.search(line):
                self._note(found["bus"].lower(), int(found["number"]))

    def _note(self, bus: str, number: int) -> None:
        for uuid in self.uuids:
            if self._buses[uuid] and bus.endswith(self._buses[uuid]):
                self._xids[uuid].append(number)


def _nvml() -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml
    except Exception:
        return None


def _open_at_end(path: Path) -> int:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(handle, 0, os.SEEK_END)
        return handle
    except OSError:
        return -1


def _records(handle: int) -> list[str]:
    """What the kernel said since; one record a read."""
    found: list[str] = []
    while handle >= 0:
        try:
            record = os.read(handle, RECORD_BYTES)
        except BrokenPipeError:  # some were overwritten: the next read is past them
            continue
        except OSError:
            break
        if not record:
            break
        found += record.decode(errors="replace").splitlines()
    return found


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value

"""Health of a run's GPUs: driver errors (Xid), memory errors, lost cards; from NVML and the kernel's log."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pi0q.jobs.failures.evidence import GpuState
from pi0q.workers.host import nvml

KERNEL_LOG = Path("/dev/kmsg")
XID = re.compile(r"NVRM: Xid \((?:PCI:)?(?P<bus>[0-9a-fA-F:.]+)\): (?P<number>\d+)")
#: NVML's error numbers of a lost card: not found, lost, needs a reset, unknown error.
GONE = frozenset({6, 15, 16, 999})
RECORD_BYTES = 8192


class Gpus:
    """The cards of one run, watched from its start to its end; what the driver does not report is unknown."""

    def __init__(self, uuids: Sequence[str], *, binding: Any = None, kernel_log: Path = KERNEL_LOG) -> None:
        """`uuids`: of the run's cards; simulated ones have no driver. `binding`: NVML, loaded where it is left out."""
        self.uuids = [uuid for uuid in uuids if not uuid.startswith("FAKE")]
        self._nvml = binding if binding is not None or not self.uuids else _load()
        self._errors = nvml.error_type(self._nvml)
        self._names = {uuid: str(self._ask(uuid, "nvmlDeviceGetName") or "") for uuid in self.uuids}
        self._buses = {uuid: self._bus(uuid) for uuid in self.uuids}
        self._ecc = {uuid: self._ecc_errors(uuid) for uuid in self.uuids}
        self._xids: dict[str, list[int]] = {uuid: [] for uuid in self.uuids}
        self._events = self._subscribe()
        self._kernel = _open_at_end(kernel_log) if self.uuids else -1

    def states(self) -> tuple[GpuState, ...]:
        """Return how the cards are now and what happened to them since the start."""
        self._read_driver_events()
        self._read_kernel_log()
        return tuple(self._state(uuid) for uuid in self.uuids)

    def _state(self, uuid: str) -> GpuState:
        return GpuState(
            uuid=uuid,
            name=self._names[uuid],
            lost=self._lost(uuid),
            xids=tuple(dict.fromkeys(self._xids[uuid])),
            ecc_errors=max(0, (self._ecc_errors(uuid) or 0) - (self._ecc[uuid] or 0)),
        )

    def close(self) -> None:
        """Stop listening."""
        if self._kernel >= 0:
            os.close(self._kernel)
            self._kernel = -1
        if self._events is not None:
            with contextlib.suppress(self._errors):
                self._nvml.nvmlEventSetFree(self._events)
            self._events = None

    # -- NVML -------------------------------------------------------------------------------------

    def _ask(self, uuid: str, call: str, *args: Any) -> Any:
        """Return the driver's answer; None if it has none."""
        if self._nvml is None:
            return None
        try:
            return nvml.text(getattr(self._nvml, call)(self._nvml.nvmlDeviceGetHandleByUUID(uuid), *args))
        except self._errors:
            return None

    def _ecc_errors(self, uuid: str) -> int | None:
        kinds = (
            getattr(self._nvml, name, None) for name in ("NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_VOLATILE_ECC")
        )
        count = self._ask(uuid, "nvmlDeviceGetTotalEccErrors", *kinds)
        return int(count) if count is not None else None

    def _bus(self, uuid: str) -> str:
        """Return `01:00`, the part of a PCI address that NVML and the kernel write alike."""
        info = self._ask(uuid, "nvmlDeviceGetPciInfo")
        address = str(nvml.text(getattr(info, "busId", ""))).lower()
        match = re.search(r"([0-9a-f]{2}:[0-9a-f]{2})(?:\.\d)?$", address)
        return match[1] if match else ""

    def _lost(self, uuid: str) -> str:
        """Return the driver's error text for a lost card; "" if it is there."""
        if self._nvml is None:
            return ""
        try:
            self._nvml.nvmlDeviceGetMemoryInfo(self._nvml.nvmlDeviceGetHandleByUUID(uuid))
        except self._errors as error:
            return str(error) if getattr(error, "value", None) in GONE else ""
        return ""

    def _subscribe(self) -> Any:
        """Subscribe to the driver's critical errors; None where it reports none."""
        if self._nvml is None or not self.uuids:
            return None
        try:
            events = self._nvml.nvmlEventSetCreate()
            for uuid in self.uuids:
                handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
                self._nvml.nvmlDeviceRegisterEvents(handle, self._nvml.nvmlEventTypeXidCriticalError, events)
        except self._errors:
            return None
        return events

    def _read_driver_events(self) -> None:
        # NVML says by an error that no event is left.
        with contextlib.suppress(self._errors):
            while self._events is not None:
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
                uuid = str(nvml.text(self._nvml.nvmlDeviceGetUUID(event.device)))
                self._xids.setdefault(uuid, []).append(int(event.eventData))

    # -- the kernel's log ---------------------------------------------------------------------------

    def _read_kernel_log(self) -> None:
        for line in _records(self._kernel):
            if match := XID.search(line):
                self._note(match["bus"].lower(), int(match["number"]))

    def _note(self, bus: str, number: int) -> None:
        for uuid in self.uuids:
            if self._buses[uuid] and bus.endswith(self._buses[uuid]):
                self._xids[uuid].append(number)


def _load() -> Any:
    try:
        return nvml.load()
    except nvml.Unavailable:
        return None


def _open_at_end(path: Path) -> int:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(handle, 0, os.SEEK_END)
        return handle
    except OSError:
        return -1


def _records(handle: int) -> list[str]:
    """Return what the kernel logged since the last read, which gives one record."""
    lines: list[str] = []
    while handle >= 0:
        try:
            record = os.read(handle, RECORD_BYTES)
        except BrokenPipeError:  # some were overwritten: the next read is past them
            continue
        except OSError:
            break
        if not record:
            break
        lines += record.decode(errors="replace").splitlines()
    return lines

"""A made-up driver: cards that report errors, lose memory, and go."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pi0q.jobs.failures.evidence import GpuState
from pi0q.workers.host import nvml
from pi0q.workers.host.gpu_health import Gpus


class NVMLError(Exception):
    """As pynvml's: a number, and words."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __str__(self) -> str:
        return {15: "GPU is lost", 10: "Timeout", 3: "Not Supported"}[self.value]


class Nvml:
    """The calls of pynvml that are used."""

    NVMLError = NVMLError
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC, nvmlEventTypeXidCriticalError = 1, 0, 8

    def __init__(self) -> None:
        self.ecc, self.lost, self.xids, self.listens = 3, False, list[tuple[str, int]](), True

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:
        return handle.encode()

    def nvmlDeviceGetName(self, _handle: str) -> bytes:
        return b"NVIDIA H100"

    def nvmlDeviceGetPciInfo(self, handle: str) -> Any:
        return SimpleNamespace(busId=f"00000000:{'01' if handle == 'GPU-a' else '41'}:00.0".encode())

    def nvmlDeviceGetTotalEccErrors(self, _handle: str, _type: int, _kind: int) -> int:
        return self.ecc

    def nvmlDeviceGetMemoryInfo(self, _handle: str) -> None:
        if self.lost:
            raise NVMLError(15)

    def nvmlEventSetCreate(self) -> str:
        if not self.listens:
            raise NVMLError(3)
        return "set"

    def nvmlDeviceRegisterEvents(self, _handle: str, _types: int, _set: str) -> None: ...

    def nvmlEventSetWait_v2(self, _set: str, _ms: int) -> Any:
        if not self.xids:
            raise NVMLError(10)
        uuid, number = self.xids.pop(0)
        return SimpleNamespace(device=uuid, eventData=number)

    def nvmlEventSetFree(self, _set: str) -> None: ...


class Blind:
    """A driver that answers nothing."""

    NVMLError = NVMLError

    def __getattr__(self, call: str) -> Any:
        def refuse(*_: object) -> None:
            raise NVMLError(3)

        return refuse


@pytest.fixture
def kernel_log(tmp_path: Path) -> Path:
    log = tmp_path / "kmsg"
    log.write_text("NVRM: Xid (PCI:0000:01:00): 79, before the run\n")
    return log


def test_a_card_that_is_well_has_nothing_to_tell(kernel_log: Path) -> None:
    gpus = Gpus(["GPU-a"], binding=Nvml(), kernel_log=kernel_log)
    assert gpus.states() == (GpuState(uuid="GPU-a", name="NVIDIA H100"),)
    gpus.close()


def test_errors_are_those_since_the_run_began_each_of_its_own_card(kernel_log: Path) -> None:
    driver = Nvml()
    gpus = Gpus(["GPU-a", "GPU-b"], binding=driver, kernel_log=kernel_log)
    driver.ecc = 5
    driver.xids = [("GPU-a", 48), ("GPU-a", 48)]
    with kernel_log.open("a") as log:
        log.write("3,1,2,-;NVRM: Xid (PCI:0000:41:00): 79, pid=1, GPU has fallen off the bus.\n")
    first, second = gpus.states()
    assert (first.xids, first.ecc_errors, first.lost) == ((48,), 2, "")
    assert second.xids == (79,)
    gpus.close()


def test_a_lost_card_is_told_in_the_drivers_words(kernel_log: Path) -> None:
    driver = Nvml()
    gpus = Gpus(["GPU-a"], binding=driver, kernel_log=kernel_log)
    driver.lost = True
    assert gpus.states()[0].lost == "GPU is lost"
    gpus.close()


def test_without_events_there_is_the_kernels_log_and_without_both_no_fault(kernel_log: Path, tmp_path: Path) -> None:
    driver = Nvml()
    driver.listens = False
    gpus = Gpus(["GPU-a"], binding=driver, kernel_log=kernel_log)
    with kernel_log.open("a") as log:
        log.write("NVRM: Xid (PCI:0000:01:00): 95, pid=1\n")
    assert gpus.states()[0].xids == (95,)
    gpus.close()
    blind = Gpus(["GPU-a"], binding=Blind(), kernel_log=tmp_path / "absent")
    assert blind.states() == (GpuState(uuid="GPU-a"),)
    blind.close()


def test_a_fault_of_ours_is_not_taken_for_the_drivers(kernel_log: Path) -> None:
    with pytest.raises(AttributeError):
        Gpus(["GPU-a"], binding=SimpleNamespace(), kernel_log=kernel_log)


def test_without_nvml_nothing_is_known_of_the_cards(kernel_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> None:
        raise nvml.Unavailable("nvidia-ml-py is not installed")

    monkeypatch.setattr(nvml, "load", unavailable)
    gpus = Gpus(["GPU-a"], kernel_log=kernel_log)
    assert gpus.states() == (GpuState(uuid="GPU-a"),)
    gpus.close()


def test_simulated_cards_have_no_driver(kernel_log: Path) -> None:
    assert Gpus(["FAKE-box-0"], kernel_log=kernel_log).states() == ()

"""How near the GPUs are to one another, as the driver tells it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pi0q.workers.host import card_links, nvml
from pi0q.workers.host.card_links import NVLINK


class NVMLError(Exception):
    """As pynvml's."""


class Driver:
    """NVML of a machine with four cards: two on each NUMA node, 0 and 1 with a bridge of NVLink."""

    NVMLError = NVMLError
    NVML_P2P_CAPS_INDEX_NVLINK, NVML_P2P_STATUS_OK = 2, 0

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        return int(uuid.removeprefix("GPU-"))

    def nvmlDeviceGetP2PStatus(self, one: int, other: int, index: int) -> int:
        assert index == self.NVML_P2P_CAPS_INDEX_NVLINK
        return 0 if {one, other} == {0, 1} else 4

    def nvmlDeviceGetTopologyCommonAncestor(self, one: int, other: int) -> int:
        return 40 if one // 2 == other // 2 else 50


@pytest.fixture(autouse=True)
def forgotten() -> None:
    card_links._of.cache_clear()


def uuids(*numbers: int) -> list[str]:
    return [f"GPU-{number}" for number in numbers]


def test_nvlink_is_nearer_than_all_of_pcie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "load", Driver)
    assert card_links.measured(uuids(0, 1, 2, 3)) == (
        (0, NVLINK, 50, 50), (NVLINK, 0, 50, 50), (50, 50, 0, 40), (50, 50, 40, 0),
    )  # fmt: skip


def test_a_driver_that_knows_nothing_of_nvlink_tells_of_pcie(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(Driver):
        def nvmlDeviceGetP2PStatus(self, one: int, other: int, index: int) -> int:
            raise NVMLError("Not Supported")

    monkeypatch.setattr(nvml, "load", Old)
    assert card_links.measured(uuids(0, 1)) == ((0, 40), (40, 0))


def test_a_container_that_hides_the_wiring_has_no_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hidden(Driver):
        def nvmlDeviceGetTopologyCommonAncestor(self, one: int, other: int) -> int:
            raise NVMLError("Not Supported")

    monkeypatch.setattr(nvml, "load", Hidden)
    assert card_links.measured(uuids(0, 2)) == ()


def test_one_card_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "load", lambda: SimpleNamespace())
    assert card_links.measured(uuids(0)) == ()

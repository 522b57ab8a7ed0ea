"""How busy and how hot a box's cards are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pi0q.workers.host import card_gauges, nvml
from pi0q.workers.host.card_gauges import Gauge
from pi0q.workers.host.probe import Gpu

CARDS = tuple(Gpu(uuid=f"GPU-{number}", name="H100", total_mib=10, free_mib=10) for number in range(3))


class NVMLError(Exception):
    """As pynvml's."""


def binding(use: Any, celsius: Any) -> Any:
    def rates(card: str) -> Any:
        if card == "GPU-1":
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=use)

    return SimpleNamespace(
        NVMLError=NVMLError,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetUtilizationRates=rates,
        nvmlDeviceGetTemperature=lambda card, kind: celsius,
    )


def test_gauge_that_the_driver_does_not_have_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "load", lambda: binding(87, 64))
    full = Gauge(use=87, celsius=64)
    assert card_gauges.read(CARDS) == [full, Gauge(celsius=64), full]


@pytest.mark.parametrize("odd", [-1, 1000, None, "hot", True, float("nan")])
def test_number_that_no_card_has_is_unknown(monkeypatch: pytest.MonkeyPatch, odd: object) -> None:
    monkeypatch.setattr(nvml, "load", lambda: binding(odd, odd))
    assert card_gauges.read(CARDS) == [Gauge()] * 3


def test_box_without_a_driver_has_no_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> Any:
        raise nvml.Unavailable("no driver")

    monkeypatch.setattr(nvml, "load", unavailable)
    assert card_gauges.read(CARDS) == [Gauge()] * 3


def test_simulated_card_shows_what_its_description_says() -> None:
    described = ({"total_gib": 80, "use": 93.6, "celsius": 71}, {"total_gib": 80}, {"total_gib": 80, "use": "much"})
    assert card_gauges.read(CARDS, described) == [Gauge(use=94, celsius=71), Gauge(), Gauge()]

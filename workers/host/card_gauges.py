"""Gauges of a box's GPUs: how busy each is and how hot. No decision goes by them; people look at them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pi0q.workers.host import nvml
from pi0q.workers.host.probe import Gpu

#: Percent, and degrees Celsius, above which a driver's answer is no measurement.
MOST_PERCENT, MOST_CELSIUS = 100, 200


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """What one GPU's driver says; None for what it does not."""

    #: Share of the last second or less in which a kernel ran, percent (NVML's `utilization.gpu`).
    use: int | None = None
    #: Temperature of the chip, degrees Celsius.
    celsius: int | None = None


def read(gpus: Sequence[Gpu], described: Sequence[Mapping[str, Any]] | None = None) -> list[Gauge]:
    """Return the gauges of these GPUs, in their order.

    `described`: what PI0Q_FAKE_GPUS says, for simulated GPUs: `use` and `celsius` where they are given.
    """
    if described is not None:
        return [_simulated(one) for one in described[: len(gpus)]]
    try:
        binding = nvml.load()
    except nvml.Unavailable:
        return [Gauge() for _ in gpus]
    return [_measured(binding, gpu.uuid) for gpu in gpus]


def _simulated(described: Mapping[str, Any]) -> Gauge:
    return Gauge(
        use=_bounded(described.get("use"), MOST_PERCENT), celsius=_bounded(described.get("celsius"), MOST_CELSIUS)
    )


def _measured(binding: Any, uuid: str) -> Gauge:
    def ask(question: Callable[[Any], Any]) -> Any:
        # MIG slices know no use of their own, and passively cooled cards of some clouds no temperature.
        with contextlib.suppress(nvml.error_type(binding), AttributeError):
            return question(binding.nvmlDeviceGetHandleByUUID(uuid))
        return None

    use = ask(lambda card: binding.nvmlDeviceGetUtilizationRates(card).gpu)
    celsius = ask(lambda card: binding.nvmlDeviceGetTemperature(card, binding.NVML_TEMPERATURE_GPU))
    return Gauge(use=_bounded(use, MOST_PERCENT), celsius=_bounded(celsius, MOST_CELSIUS))


def _bounded(value: Any, most: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        return None
    return round(value)

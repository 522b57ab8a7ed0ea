"""NVML is loaded once a process; why it can't be is told, and tried again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pi0q.workers.host import nvml


class NVMLError(Exception):
    """As pynvml's."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    nvml.load.cache_clear()
    yield
    nvml.load.cache_clear()


def binding(init: Any) -> SimpleNamespace:
    return SimpleNamespace(NVMLError=NVMLError, nvmlInit=init)


def test_it_is_initialised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    made = binding(lambda: calls.append(1))
    monkeypatch.setitem(sys.modules, "pynvml", made)
    assert nvml.load() is nvml.load() is made and calls == [1]
    assert nvml.error_type(made) is NVMLError


def test_a_driver_that_is_not_loaded_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [NVMLError("Driver Not Loaded")]

    def init() -> None:
        if answers:
            raise answers.pop()

    monkeypatch.setitem(sys.modules, "pynvml", binding(init))
    with pytest.raises(nvml.Unavailable, match="Driver Not Loaded"):
        nvml.load()
    assert nvml.load()


def test_without_the_binding_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(nvml.Unavailable, match="nvidia-ml-py is not installed"):
        nvml.load()

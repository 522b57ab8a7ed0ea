"""The base of a resumed adapter is the one that pi0q laid on this box, wherever the adapter says it lies."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pi0q.workers.trainer.pi0q_trainer import adapter


class PeftConfig:
    """FAKE of PEFT's: what an adapter_config.json of another box says."""

    @staticmethod
    def from_pretrained(path: str, **_: Any) -> Any:
        return SimpleNamespace(base_model_name_or_path="/box-a/base", revision="main", path=path)


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("lerobot.policies.factory")
    made.PeftConfig = PeftConfig  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lerobot.policies.factory", made)
    monkeypatch.setenv("PI0Q_ADAPTER_BASE", "/box-b/base")
    return made


def read(factory: Any, *, use_peft: bool = True) -> tuple[str, str | None]:
    with adapter.base_here(SimpleNamespace(use_peft=use_peft)):
        found = factory.PeftConfig.from_pretrained("/box-b/checkpoint")
    return found.base_model_name_or_path, found.revision


def test_a_resumed_adapter_is_put_on_the_base_of_this_box(factory: ModuleType) -> None:
    assert read(factory) == ("/box-b/base", None)
    assert factory.PeftConfig is PeftConfig


def test_without_an_adapter_or_a_base_nothing_is_replaced(factory: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(factory, use_peft=False) == ("/box-a/base", "main")
    monkeypatch.setenv("PI0Q_ADAPTER_BASE", "")
    assert read(factory) == ("/box-a/base", "main")


def test_what_was_replaced_comes_back_after_an_error(factory: ModuleType) -> None:
    with pytest.raises(RuntimeError), adapter.base_here(SimpleNamespace(use_peft=True)):
        raise RuntimeError
    assert factory.PeftConfig is PeftConfig


def test_a_lerobot_without_peft_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PI0Q_ADAPTER_BASE", "/box-b/base")
    monkeypatch.delitem(sys.modules, "lerobot.policies.factory", raising=False)
    with adapter.base_here(SimpleNamespace(use_peft=True)):
        assert "lerobot.policies.factory" not in sys.modules

"""The Python that has LeRobot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pi0q.queue.settings import Settings
from pi0q.workers.trainer import interpreter
from pi0q.workers.trainer.interpreter import NoTrainer, TrainerPython

FAKE = Path(__file__).parents[2] / "fake_lerobot"


@pytest.fixture
def lerobot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python started now has LeRobot 0.6.1."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE))


@pytest.fixture
def conda(tmp_path: Path) -> Path:
    """A conda with an env `lerobot`, each with a Python that is this one."""
    for place in ("bin", "envs/lerobot/bin"):
        (tmp_path / "conda" / place).mkdir(parents=True)
        (tmp_path / "conda" / place / "python").symlink_to(sys.executable)
    return tmp_path / "conda"


def test_the_users_choice_is_taken(lerobot: None, tmp_path: Path) -> None:
    found = interpreter.find(Settings(home=tmp_path, trainer_python=sys.executable), {})
    assert found == TrainerPython(python=sys.executable, lerobot="0.6.1")


@pytest.mark.parametrize("choice", ["/bin/false", "/no/such/python"])
def test_the_users_choice_is_never_passed_over_in_silence(lerobot: None, tmp_path: Path, choice: str) -> None:
    found = interpreter.find(Settings(home=tmp_path, trainer_python=choice), {})
    assert isinstance(found, NoTrainer)
    assert found.why.startswith(f"PI0Q_TRAINER_PYTHON={choice} has no LeRobot: point it at a Python where ")


def test_condas_env_lerobot_comes_before_our_own_python_and_condas_base_last(conda: Path) -> None:
    found = list(interpreter.candidates({"CONDA_EXE": str(conda / "bin" / "conda")}))
    assert found[0] == str(conda / "envs/lerobot/bin/python")
    assert found.index(sys.executable) < found.index(str(conda / "bin/python"))


def test_a_conda_that_may_not_be_looked_into_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As below another's home: a Path raises there, as it does for too long a name."""
    monkeypatch.setattr(interpreter, "CONDA_BASES", ("/" + "x" * 300,))
    assert list(interpreter.candidates({})) == [sys.executable]


def test_without_any_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(interpreter, "candidates", lambda env: iter(["/bin/false", "/no/such/python"]))
    found = interpreter.find(Settings(home=tmp_path), {})
    assert isinstance(found, NoTrainer) and "make a conda env `lerobot`" in found.why


def test_the_first_that_has_lerobot_is_taken(lerobot: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(interpreter, "candidates", lambda env: iter(["/bin/false", sys.executable]))
    assert interpreter.find(Settings(home=tmp_path), {}) == TrainerPython(python=sys.executable, lerobot="0.6.1")

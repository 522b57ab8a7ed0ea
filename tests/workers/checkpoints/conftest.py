"""What pi0q logs in a test, as a run's log would show it; a run whose checkpoints are copied."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import helper_process
from tests.workers.checkpoints.replication import ReplicationStandIn, Run


class Logged:
    """The messages of pi0q's loggers since the last call of `take`."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def take(self) -> list[str]:
        records = [record for record in self._caplog.records if record.name.startswith("pi0q")]
        self._caplog.clear()
        return [("WARNING: " if one.levelno >= logging.WARNING else "") + one.getMessage() for one in records]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    caplog.set_level(logging.INFO, logger="pi0q")
    return Logged(caplog)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> ReplicationStandIn:
    made = ReplicationStandIn()
    monkeypatch.setattr(helper_process, "send", made.send)
    return made


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path, "/share", Settings(home=tmp_path))
    yield made
    made.close()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Run]:
    """A run whose copies go to a real directory, by the real process."""
    (tmp_path / "share").mkdir()
    made = Run(tmp_path, str(tmp_path / "share"), Settings(home=tmp_path))
    yield made
    made.close()

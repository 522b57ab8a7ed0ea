"""Trainers on the real LeRobot share its import and one dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.trainer.fork_server import ForkServer


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, standin_dataset: Path) -> Iterator[ForkServer]:
    """A fork server with a dataset in its directory."""
    place = tmp_path_factory.mktemp("fork_server")
    (place / "dataset").symlink_to(standin_dataset)
    server = ForkServer(place)
    yield server
    server.close()

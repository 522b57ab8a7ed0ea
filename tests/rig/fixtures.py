"""Fixtures of a house; a conftest imports those that its stories use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.ops import server as servers
from tests.rig.house import House
from tests.rig.server import Server


@pytest.fixture(scope="session")
def queue_server(server: servers.Server) -> Server:
    """The server of all stories but those in which it dies; each story has its own prefix on it."""
    return Server(data=Path(), port=server.port, running=server)


@pytest.fixture
def house(queue_server: Server, tmp_path: Path) -> Iterator[House]:
    """A house of one's own."""
    opened = House(tmp_path, queue_server)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def street(queue_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house for all stories of a module that leave its boxes as they were."""
    opened = House(tmp_path_factory.mktemp("street"), queue_server)
    yield opened
    opened.close()


@pytest.fixture
def frail(tmp_path: Path) -> Iterator[House]:
    """A house whose server may be killed."""
    server = Server.start(tmp_path / "server" / "data")
    opened = House(tmp_path, server)
    yield opened
    opened.close()
    # The house may have turned to another one meanwhile.
    for each in (server, opened.server):
        each.stop()

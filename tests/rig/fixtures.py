"""Fixtures of a cluster; a conftest imports those that its stories use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pi0q.ops.local import server as servers
from tests.rig import roles, signed
from tests.rig.cluster import Cluster
from tests.rig.server import Server


@pytest.fixture(scope="session")
def queue_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of all stories but those in which it dies, with TLS if it can; each has its own prefix on it."""
    if (binary := roles.binary_with_tls()) is None:
        yield without_tls(request.getfixturevalue("server"))
        return
    data = tmp_path_factory.mktemp("encrypted") / "data"
    roles.init(data, tls=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PI0Q_REDIS_BIN", str(binary))
        started = Server.start(data)
    roles.remember(data, started.port)
    with closing(started.client()) as owner:
        roles.any_box(owner)
    yield started
    started.stop()


def without_tls(server: servers.Server) -> Server:
    """The server of all other tests, as that of a cluster."""
    return Server(data=Path(), port=server.port, running=server)


@pytest.fixture
def cluster(queue_server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of one's own."""
    is_signed = signed.ON and request.node.get_closest_marker("unsigned") is None
    opened = Cluster(tmp_path, queue_server, is_signed=is_signed)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared_cluster(queue_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for all stories of a module that leave its boxes as they were."""
    opened = Cluster(tmp_path_factory.mktemp("shared"), queue_server)
    yield opened
    opened.close()


@pytest.fixture
def killable_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose server may be killed."""
    server = Server.start(tmp_path / "server" / "data")
    opened = Cluster(tmp_path, server)
    yield opened
    opened.close()
    # The cluster may have turned to another one meanwhile.
    for each in (server, opened.server):
        each.stop()

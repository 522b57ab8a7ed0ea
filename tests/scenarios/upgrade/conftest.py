"""A cluster for each story, as it was before roles and signatures: the old version knows neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.cluster import Cluster
from tests.rig.server import Server


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster on a server with one password, whose user signs nothing."""
    server = Server.start(tmp_path / "server" / "data")
    opened = Cluster(tmp_path, server, is_signed=False)
    yield opened
    opened.close()
    server.stop()

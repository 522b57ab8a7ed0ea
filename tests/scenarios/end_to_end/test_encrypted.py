"""One job over TLS, with roles and a signed job file: as `make demo` runs it, and production should."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.jobs.state import State
from pi0q.ops.server.registry import Handed, Registry
from pi0q.ops.server.roles import Role
from pi0q.ops.server.users import Access, User
from pi0q.queue.settings import Settings
from tests.ops.server.test_tls import needs_tls, with_tls
from tests.rig import roles
from tests.rig.cluster import Cluster
from tests.rig.server import Server

PREFIX = "t01234567:"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The users of a server with TLS that has not been started yet."""
    monkeypatch.setenv("PI0Q_REDIS_BIN", str(with_tls()))
    made = Registry(Settings(home=tmp_path / "queue"))
    made.init(Access(prefix=PREFIX, memory_mib=256, tls=True, hosts=("localhost",)), new_passwords=False)
    return made


@pytest.fixture
def cluster(registry: Registry, tmp_path: Path) -> Iterator[Cluster]:
    server = Server.start(registry.data)
    opened = Cluster(tmp_path, server, prefix=PREFIX)
    yield opened
    opened.close()
    server.stop()


def add_box(registry: Registry, name: str) -> Handed:
    """Adds the user of a box; what it is handed."""
    return registry.add(User(name=name, role=Role.WORKER, password_hash="0" * 64, box=name))


@needs_tls
def test_a_job_runs_on_a_box_that_reaches_the_server_by_tls_alone(
    registry: Registry, request: pytest.FixtureRequest
) -> None:
    handed = add_box(registry, "box-a")
    cluster: Cluster = request.getfixturevalue("cluster")
    # The server has got its port since.
    url = re.sub(r":\d+/0$", f":{cluster.server.port}/0", handed.url)
    box = cluster.box("box-a", PI0Q_REDIS_URL=url, PI0Q_TLS=str(handed.folder / "tls"))
    job = cluster.submit(steps=10, save_freq=5)
    record = cluster.ends(job)
    assert (record.state, record.box) == (State.SUCCEEDED, "box-a") and record.signature and record.receipt
    assert len(box.lives(job)) == 1
    assert url.startswith("rediss://box-a:")
    client = cluster.store.client
    assert roles.refused(client) == []
    assert client.config_get("port")["port"] == "0", "no other way in"

"""A real `pi0q worker` and a server that is away, full, wrongly set up, or another's; and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from pi0q.jobs.state import State
from pi0q.ops.local import server as servers
from pi0q.queue import celery_app
from pi0q.queue.box_fields import EVERY_JOB
from pi0q.queue.box_status import waits
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.host import identity
from tests.conftest import PATIENCE, Command, JobDriver, Running, Start, WaitFor
from tests.rig.server import free_port


@pytest.fixture
def port() -> Iterator[int]:
    """One that stays free until a server of the test's own takes it."""
    port, held = free_port()
    with held:
        yield port


@pytest.fixture
def own(tmp_path: Path, port: int) -> Iterator[Callable[[], redis.Redis]]:
    """Starts a server of this test's own; what it says to it."""
    started: list[Any] = []

    def own() -> redis.Redis:
        server = servers.start(tmp_path / "server", port=port, log=tmp_path / "server.log")
        client = redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=PATIENCE)
        started.extend([client, server])
        return client

    yield own
    for one in started:
        one.close() if isinstance(one, redis.Redis) else one.stop()


def url(tmp_path: Path, port: int) -> str:
    return f"redis://:{servers.password(tmp_path / 'server')}@127.0.0.1:{port}/0"


@pytest.fixture
def box(start: Start) -> Callable[..., Running]:
    """Starts a box without LeRobot: it takes no job, and says so."""

    def box(**env: str) -> Running:
        return start("worker", "--name", "box-a", **{"PI0Q_TRAINER_PYTHON": "/bin/false", **env})

    return box


def known(store: Store) -> dict[str, str]:
    return next((box for box in store.boxes(about=EVERY_JOB) if box["name"] == "box-a"), {})


def test_an_idle_box_holds_six_connections_and_answers_flower(
    box: Callable[..., Running], own: Callable[[], redis.Redis], tmp_path: Path, port: int, chosen: Settings
) -> None:
    """The standby runner's included: all boxes' together count against the server's `maxclients`."""
    client = own()
    running = box(PI0Q_REDIS_URL=url(tmp_path, port))
    running.until("ready.")
    store = Store(client, known_prefix(running))
    deadline = time.monotonic() + PATIENCE

    def standby() -> list[psutil.Process]:
        found = []
        for one in psutil.Process(running.process.pid).children():
            # What inspects the trainer ends by itself.
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [one] if one.net_connections() else []
        return found

    while not standby() and time.monotonic() < deadline:
        time.sleep(0.1)
    asking = replace(chosen, redis_url=url(tmp_path, port), prefix=store.prefix)
    with celery_app.make(asking) as app:
        assert app.control.ping(timeout=10, limit=1) == [{"pi0q@box-a": {"ok": "pong"}}]
        app.pool.force_close_all()
    pids = {running.process.pid, *(one.pid for one in standby())}
    ours = [
        one for pid in pids for one in psutil.Process(pid).net_connections() if one.raddr and one.raddr.port == port
    ]
    assert len(pids) == 2 and len(ours) <= 6, ours


# -- at the door


def test_a_server_that_is_not_there_yet_is_waited_for(
    box: Callable[..., Running], own: Callable[[], redis.Redis], tmp_path: Path, port: int
) -> None:
    """The box restarted at night, and the tunnel or the server comes up after it."""
    running = box(PI0Q_REDIS_URL=url(tmp_path, port))
    assert "can't be reached" in running.until("The queue's server at")
    running.until("Retrying every")
    store = Store(own(), known_prefix(running))
    running.until("ready.")
    assert known(store)["status"] == "ready"
    assert running.text.count("can't be reached") == 1
    assert running.end(signal.SIGTERM) == 0
    assert known(store)["status"] == "stopped"


def known_prefix(running: Running) -> str:
    return psutil.Process(running.process.pid).environ()["PI0Q_PREFIX"]


def test_a_wrong_password_is_not_waited_for(pi0q: Command, port: int, own: Callable[[], redis.Redis]) -> None:
    own()
    refused = pi0q("worker", "--name", "box-a", PI0Q_REDIS_URL=f"redis://:wrong@127.0.0.1:{port}/0")
    assert refused.returncode == 4 and "refuses the user or password" in refused.stderr


def test_a_server_that_may_drop_jobs_is_refused(
    pi0q: Command, own: Callable[[], redis.Redis], tmp_path: Path, port: int
) -> None:
    client = own()
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", "100mb")
    refused = pi0q("worker", "--name", "box-a", PI0Q_REDIS_URL=url(tmp_path, port))
    assert refused.returncode == 2
    assert "CONFIG SET maxmemory-policy noeviction" in refused.stderr and "was not started" in refused.stderr


def test_one_that_begins_to_is_told_and_gets_no_claims(
    box: Callable[..., Running], own: Callable[[], redis.Redis], tmp_path: Path, port: int, wait_for: WaitFor
) -> None:
    client = own()
    running = box(PI0Q_REDIS_URL=url(tmp_path, port))
    running.until("ready.")
    store = Store(client, known_prefix(running))
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", "100mb")
    job = JobDriver(store).submit()
    # As if its beat had come.
    client.publish(f"{store.prefix}wake", "")
    wait_for(lambda: "may drop jobs" in known(store).get("blocked", ""))
    assert "maxmemory-policy is allkeys-lru" in known(store)["note"]
    assert waits(store, store.get(job), 60.0)[0].startswith("box-a: The queue's server may drop jobs")


def rival(store: Store) -> bool:
    """Another machine says that it is box-a."""
    return store.announce_box("box-a", "another", {"status": "ready"}) is not None


def test_a_name_that_a_living_machine_has_is_refused(box: Callable[..., Running], store: Store) -> None:
    assert rival(store)
    running = box()
    running.until("Another machine already runs as box box-a; this worker claims nothing.")
    running.until("Retrying")
    # It is heard of again, so it lives.
    store.client.zincrby(f"{store.prefix}boxes", 2000, "box-a")
    assert running.end() == 2
    assert running.text.rstrip().endswith("Fix: pi0q worker --name NAME")
    assert known(store)["box_id"] == "another"


def test_a_name_of_a_machine_that_is_gone_is_waited_for(box: Callable[..., Running], store: Store) -> None:
    """It may be this very one, its data disk emptied."""
    assert rival(store)
    running = box()
    running.until("This worker waits until that machine has sent no heartbeat for 60 s.")
    store.client.zincrby(f"{store.prefix}boxes", -60_000, "box-a")
    running.until("ready.")
    assert known(store)["box_id"] != "another"
    assert running.end(signal.SIGTERM) == 0


# -- at work


def test_a_worker_whose_name_was_taken_meanwhile_takes_no_more_messages(
    box: Callable[..., Running], store: Store
) -> None:
    running = box()
    running.until("ready.")
    store.client.hset(f"{store.prefix}box:box-a", "box_id", "another")
    store.client.publish(f"{store.prefix}wake", "")
    running.until("This worker restarts")
    # Whoever is the box now gets this.
    store.client.lpush(f"{store.prefix}box.box-a", "{}")
    running.until("This worker waits until that machine has sent no heartbeat for 60 s.")
    assert store.client.llen(f"{store.prefix}box.box-a") == 1
    store.client.delete(f"{store.prefix}box.box-a", f"{store.prefix}box:box-a")
    # The other one is gone, and this is the box again: the same process.
    running.until("ready.")
    assert running.end(signal.SIGTERM) == 0


def test_a_server_out_of_memory_does_not_end_it(
    box: Callable[..., Running], own: Callable[[], redis.Redis], tmp_path: Path, port: int
) -> None:
    """Celery's consumer ends with it (`Unrecoverable error`) once it has to connect again."""
    client = own()
    client.config_set("maxmemory", "3mb")
    running = box(PI0Q_REDIS_URL=url(tmp_path, port))
    running.until("ready.")
    store = Store(client, known_prefix(running))
    began = identity.start_time(running.process.pid)
    with pytest.raises(redis.OutOfMemoryError):
        for number in range(10_000):
            client.set(f"filler{number}", "x" * 10_000)
    # Connections that are cut free some: not enough.
    client.config_set("maxmemory", "2mb")
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)
    running.until("Unrecoverable error")
    running.until("This worker restarts")
    running.until("is out of memory")
    client.config_set("maxmemory", "0")
    running.until("ready.")
    assert identity.start_time(running.process.pid) == began, "the same process"
    assert known(store)["status"] == "ready"
    assert running.end(signal.SIGTERM) == 0


def test_a_drained_box_says_so_and_takes_nothing_until_that_ends(
    box: Callable[..., Running], store: Store, driver: JobDriver, call: Command, wait_for: WaitFor
) -> None:
    running = box()
    running.until("ready.")
    call("drain", "box-a")
    wait_for(lambda: known(store)["status"] == "drained")
    job = driver.submit(needs={"gpus": 0})
    assert running.end(signal.SIGTERM) == 0
    running = box()
    running.until("ready.")
    assert known(store)["status"] == "drained", "a drain outlives a restart"
    assert "drained by" in waits(store, store.get(job), 60.0)[0]
    call("drain", "box-a", "--undo")
    wait_for(lambda: known(store)["status"] == "ready")
    assert store.get(job).state is State.QUEUED
    assert running.end(signal.SIGTERM) == 0


# -- its end


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_every_way_to_stop_it_is_a_quiet_one(box: Callable[..., Running], store: Store, sig: signal.Signals) -> None:
    # Whoever runs the tests may have said nohup.
    before = signal.signal(sig, signal.SIG_DFL)
    try:
        running = box()
    finally:
        signal.signal(sig, before)
    running.until("ready.")
    assert running.end(sig) == 0
    assert "pi0q: Stopping." in running.text and "terminat" not in running.text
    assert known(store)["status"] == "stopped"


def test_it_outlives_the_terminal_of_who_said_nohup(start: Start, env: dict[str, str], store: Store) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = start("worker", "--name", "box-a", PI0Q_TRAINER_PYTHON="/bin/false")
    finally:
        signal.signal(signal.SIGHUP, before)
    running.until("ready.")
    os.kill(running.process.pid, signal.SIGHUP)
    assert running.end(signal.SIGTERM) == 0
    assert running.text.count("Stopping.") == 1

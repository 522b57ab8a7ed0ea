"""The queue's server as it gets hurt: killed, paused, brought back with older data, replaced by its replica."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis

from pi0q.ops import file_edits
from pi0q.ops.local import server as servers

#: Below the ports that the kernel gives to outgoing connections: a dead server's port must stay free.
PORTS = range(15000, 30000)
#: Seconds that a replica may take to have everything, and a full file to be written.
PATIENCE = 60.0


def free_port() -> tuple[int, socket.socket]:
    """A port of this machine, and the socket that keeps it reserved while nothing listens there."""
    for port in random.SystemRandom().sample(PORTS, 200):
        holder = socket.socket()
        # Both sides set it, so who listens may bind beside the holder, and nobody else does.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", port))
        except OSError:
            holder.close()
            continue
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port, holder
        holder.close()
    raise OSError(f"no free port in {PORTS}")


@dataclass
class Server:
    """A real server that can be killed and started again on its data."""

    data: Path
    port: int
    running: servers.Server
    holder: socket.socket | None = field(default=None, repr=False)

    @classmethod
    def start(cls, data: Path) -> Server:
        port, holder = free_port()
        running = servers.start(data, port=port, log=data.with_suffix(".log"))
        return cls(data=data, port=port, running=running, holder=holder)

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def pid(self) -> int:
        return self.running.process.pid

    @property
    def alive(self) -> bool:
        return self.running.process.poll() is None

    def client(self) -> redis.Redis:
        """A connection of its own; the caller closes it."""
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=5, **self.running.tls_options())

    def kill(self) -> None:
        """SIGKILL: what was not yet written to the disk is lost, as AOF everysec has it."""
        self.running.process.kill()
        self.running.process.wait()

    def restart(self) -> None:
        """Starts it again on the data that it left; it has ended or is about to."""
        self.running.process.wait()
        self.running = servers.start(self.data, port=self.port, log=self.data.with_suffix(".log"))

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It stands still meanwhile."""
        self.pause()
        yield
        self.resume()

    def keep(self, place: Path) -> Path:
        """A copy of its data as they are now, for `restore`; the directory `place` must not exist."""
        with contextlib.closing(self.client()) as client:
            _until(lambda: not int(client.info("persistence")["aof_rewrite_in_progress"]), "a rewrite of the AOF")
            # With everysec a write may be answered and still wait for the file; older servers wait two seconds at most.
            client.set("rig", "keeps")
            client.delete("rig")
            with contextlib.suppress(redis.ResponseError):
                client.execute_command("WAITAOF", 1, 0, 3000)  # type: ignore[no-untyped-call]
        shutil.copytree(self.data, place, ignore=shutil.ignore_patterns("lock"))
        return place

    def restore(self, kept: Path) -> None:
        """It dies and comes back with the older data; `kept` stays as it is."""
        self.resume()
        if self.alive:
            self.kill()
        for entry in self.data.iterdir():
            if entry.name != "lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.copytree(kept, self.data, dirs_exist_ok=True)
        self.restart()

    def replica(self, data: Path) -> Server:
        """A second server that follows this one and has all of its data; `promote` makes it the one."""
        data.mkdir(parents=True)
        secret = servers.password(self.data)
        file_edits.write(data / "password", f"{secret}\n", 0o600)
        with contextlib.closing(self.client()) as client:
            # It would wait for more replicas to come.
            client.config_set("repl-diskless-sync-delay", 0)
        follower = Server.start(data)
        with contextlib.closing(follower.client()) as client:
            client.config_set("masterauth", secret)
            client.replicaof("127.0.0.1", str(self.port))
            _until(lambda: client.info("replication")["master_link_status"] == "up", "the replica's first copy")
        return follower

    def promote(self) -> None:
        """Makes a replica a server of its own, for good; point links at its port. Its run id is its own."""
        with contextlib.closing(self.client()) as client:
            client.replicaof("NO", "ONE")

    def stop(self) -> None:
        """Ends it politely, also one that is paused."""
        self.resume()
        self.running.stop()
        if self.holder is not None:
            self.holder.close()


def _until(true: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > give_up:
            raise AssertionError(f"{what} did not come to its end within {PATIENCE:.0f} s")
        time.sleep(0.02)

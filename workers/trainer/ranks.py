"""Ranks: the processes of one trainer on several GPUs, one for each.

The runner starts them itself instead of torch's launcher (torch.distributed.run), which starts ranks in sessions of
their own, kills them 30 s after SIGTERM (a save of full-size pi0 takes as long), and turns each exit code into 1.
Here each rank is the runner's child: it dies with the runner, gets its signals directly, ends with its own exit code
and has a log of its own. torch meets by its usual variables; the port is held from before the start, so that no other
process can take it, and handed to rank 0.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pi0q.jobs.outcome import EXIT_SAVED_AND_STOPPED
from pi0q.workers.host import process_tree

#: As pi0q_trainer/exits.py has it: this rank had nothing more to do, since another one had ended.
PEER_GONE = 79
#: Tokens that rank 0 alone needs: it alone speaks to WandB.
_OF_RANK_0 = ("WANDB_API_KEY", "PI0Q_CARD", "PI0Q_SWANLAB")


@dataclass(frozen=True, kw_only=True)
class RankEnd:
    """How one rank ended."""

    rank: int
    #: As subprocess has it: negative for a signal.
    code: int
    #: When, by a monotonic clock.
    at: float

    @property
    def ends_all(self) -> bool:
        """Whether the other ranks have nothing more to do: a rank other than 0 may end well before it."""
        return self.rank == 0 or self.code not in (0, EXIT_SAVED_AND_STOPPED)


def decisive(ends: Sequence[RankEnd]) -> RankEnd:
    """Return the end that tells why the run ends: the first one that ends all and is no consequence of another.

    `ends`: of at least one rank. Where all are consequences it is the first of them.
    """
    causes = [end for end in ends if end.ends_all and end.code != PEER_GONE]
    return min(causes or [end for end in ends if end.ends_all] or ends, key=lambda end: (end.at, end.rank))


class Ranks:
    """Starts the ranks at once and follows them to their ends."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, count: int) -> None:
        """`count`: how many; of one it is the plain trainer, with nothing added."""
        self.processes = _start(argv, env=env, cwd=cwd, count=count)
        self._ends: list[RankEnd] = []
        self._lock = threading.Lock()
        #: Readable once a rank has ended that ends all.
        self.exit, self._exited = os.pipe()
        self._waiting = [threading.Thread(target=self._await, args=(rank,), daemon=True) for rank in range(count)]
        for thread in self._waiting:
            thread.start()

    def _await(self, rank: int) -> None:
        code = self.processes[rank].wait()
        end = RankEnd(rank=rank, code=code, at=time.monotonic())
        with self._lock:
            self._ends.append(end)
            if end.ends_all and self._exited >= 0:
                os.close(self._exited)
                self._exited = -1

    def wait_all(self) -> RankEnd:
        """Wait until all have ended, which they were killed for; return the end that tells why."""
        for thread in self._waiting:
            thread.join()
        return decisive(self._ends)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]

    def outputs(self) -> list[int]:
        """Return the handles of what each rank prints, rank 0's first; they do not block."""
        handles = []
        for process in self.processes:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            handles.append(process.stdout.fileno())
        return handles

    def close(self) -> None:
        os.close(self.exit)
        for process in self.processes:
            assert process.stdout is not None
            process.stdout.close()


class Meeting:
    """What the ranks of one life find each other by: a socket pair of rank 0 with each other, and a port for torch.

    A context manager: the ranks have inherited its handles when it ends.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._ours = contextlib.ExitStack()

    def __enter__(self) -> Meeting:
        self._store = self._ours.enter_context(socket.create_server(("127.0.0.1", 0)))
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(self.count - 1)]
        for pair in pairs:
            for end in pair:
                self._ours.enter_context(end)
        self._pairs = [(first.fileno(), second.fileno()) for first, second in pairs]
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()

    def handles(self, rank: int) -> list[int]:
        """Return the handles that a rank inherits."""
        return self._sockets(rank) + ([self._store.fileno()] if rank == 0 else [])

    def _sockets(self, rank: int) -> list[int]:
        return [ours for ours, _ in self._pairs] if rank == 0 else [self._pairs[rank - 1][1]]

    def env(self, base: Mapping[str, str], rank: int) -> dict[str, str]:
        """Return the environment of one rank; torch and accelerate read all but the last."""
        store = {"PI0Q_STORE": str(self._store.fileno())} if rank == 0 else {}
        return {
            # gloo would look the machine's name up and listen there.
            "GLOO_SOCKET_IFNAME": "lo",
            **{name: value for name, value in base.items() if rank == 0 or name not in _OF_RANK_0},
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self.count),
            "LOCAL_WORLD_SIZE": str(self.count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.getsockname()[1]),
            # Rank 0 serves the store on a handle that it inherits, and is its client as the others are.
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "PI0Q_RANKS": ",".join(map(str, self._sockets(rank))),
            **store,
        }


def _start(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, count: int) -> list[subprocess.Popen[bytes]]:
    if count == 1:
        return [process_tree.spawn(argv, env=env, cwd=cwd)]
    started: list[subprocess.Popen[bytes]] = []
    with Meeting(count) as meeting:
        try:
            for rank in range(count):
                handles = meeting.handles(rank)
                started.append(process_tree.spawn(argv, env=meeting.env(env, rank), cwd=cwd, handles=handles))
        except OSError:
            for process in started:
                process_tree.send(process.pid, signal.SIGKILL)
            raise
    return started

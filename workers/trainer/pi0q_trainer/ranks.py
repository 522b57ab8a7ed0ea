"""Ranks: the trainers of one job on several GPUs, which save and stop at the same step.

Each rank holds one end of a socket pair to rank 0, made by the runner (workers/trainer/ranks.py). Of each step:
    every other rank sends its request (a signal that it got, its VRAM) before the step;
    rank 0 reads all requests after the step, adds its own and sends the decision;
    every other rank reads the decision.
Where the decision is to save, LeRobot enters its save on all ranks, and each sends its random state behind that.
Sockets, and not a collective of torch: they work before torch is there, need no address and have no time-out.

No rank waits for ever. All ranks take the same steps and enter the same saves, since these follow from the decision
and from numbers that all have, so that each message is awaited exactly where its sender is past the point of sending
it or comes to it without waiting for this rank. A rank that ends closes its sockets: whoever waits for it exits with
PEER_GONE, and the runner, which sees each rank's exit itself, ends the others. A rank that lives and comes to no step
is a hang, which ends by the runner's watchdog as that of a single trainer does.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .exits import PEER_GONE, leave

#: What each message begins with: a message that is not the awaited one is a fault of ours, not to be trained on.
REQUEST, DECISION, STATE = b"q", b"d", b"s"
#: stop, VRAM now and at most, MiB (-1: unknown)
_REQUEST = struct.Struct("<?qq")
#: save, stop
_DECISION = struct.Struct("<??")
#: Bytes of a random state at most; Python's, NumPy's, torch's and the GPU's take 13 KB.
STATE_BYTES = 128 * 1024


@dataclass(frozen=True)
class Decision:
    """What all ranks do at the end of this step."""

    save: bool = False
    stop: bool = False


class Ranks:
    """This trainer's place among the trainers of its job."""

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        handles = [int(handle) for handle in env.get("PI0Q_RANKS", "").split(",") if handle]
        #: Sockets: of rank 0 to each other rank, in their order; of any other rank to rank 0.
        self.sockets = [socket.socket(fileno=handle) for handle in handles]
        self.rank = int(env["RANK"]) if handles else 0
        self.count = int(env["WORLD_SIZE"]) if handles else 1
        #: VRAM now and at most of each other rank, MiB, as of the last step; rank 0 has it.
        self.vram: list[tuple[int, int]] = []
        #: For the step that has just ended.
        self.decision = Decision()
        self._store: Any = None

    def host_store(self, torch: Any, env: Mapping[str, str] = os.environ) -> None:
        """Serve the store at which torch's ranks meet, on the port that the runner has reserved for it; on rank 0."""
        handle = env.get("PI0Q_STORE")
        if self._store is not None or not handle or torch is None:
            return
        self._store = torch.distributed.TCPStore(
            env["MASTER_ADDR"],
            int(env["MASTER_PORT"]),
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=int(handle),
        )

    def request(self, *, stop: bool, vram: Mapping[str, int | None]) -> None:
        """Tell rank 0 of a stop and of this rank's VRAM; before the step."""
        now, peak = (vram.get(name) for name in ("vram_mib", "vram_peak_mib"))
        self._send(0, REQUEST + _REQUEST.pack(stop, -1 if now is None else now, -1 if peak is None else peak))

    def decide(self, *, save: bool, stop: bool) -> None:
        """Decide for all ranks what they do at the end of this step, by their requests and these; on rank 0."""
        requests = [_REQUEST.unpack(self._receive(at, REQUEST)) for at in range(len(self.sockets))]
        self.vram = [(now, peak) for _, now, peak in requests]
        stop = stop or any(asked for asked, *_ in requests)
        self.decision = Decision(save=save or stop, stop=stop)
        for at in range(len(self.sockets)):
            self._send(at, DECISION + _DECISION.pack(self.decision.save, self.decision.stop))

    def await_decision(self) -> None:
        """Take over what rank 0 decided for this step."""
        self.decision = Decision(*_DECISION.unpack(self._receive(0, DECISION)))

    def send_state(self, state: bytes) -> None:
        """Send this rank's random state for the checkpoint that rank 0 writes."""
        self._send(0, STATE + state)

    def states(self) -> dict[int, bytes]:
        """Return the random state of each other rank, by its number; on rank 0."""
        return {at + 1: self._receive(at, STATE) for at in range(len(self.sockets))}

    def peer_gone(self) -> bool:
        """Return whether a rank at the other end of a socket has ended."""
        poll = select.poll()
        for one in self.sockets:
            poll.register(one, select.POLLHUP)
        return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))

    def _send(self, at: int, message: bytes) -> None:
        try:
            self.sockets[at].send(message)
        except OSError:
            leave(PEER_GONE)

    def _receive(self, at: int, kind: bytes) -> bytes:
        try:
            message = self.sockets[at].recv(STATE_BYTES)
        except OSError:
            message = b""
        if not message:
            leave(PEER_GONE)
        if message[:1] != kind:
            raise RuntimeError(f"pi0q's ranks do not agree on their step: {message[:1]!r} came instead of {kind!r}")
        return message[1:]

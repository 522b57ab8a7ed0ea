"""One life of LeRobot's trainer, a process for each GPU: start, read what it prints and sends, signal, and end it.

It knows nothing of why a trainer is stopped; that is the supervisor's business (workers/runner/supervisor.py).
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pi0q.workers.host import process_tree
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.trainer.launch import TrainerCommand
from pi0q.workers.trainer.ranks import RankEnd, Ranks

READ_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class Received:
    """What one wait for the trainer brought."""

    #: Bytes that the trainer printed; of several ranks rank 0.
    output: bytes = b""
    #: The same of other ranks, by their numbers.
    of_ranks: Mapping[int, bytes] = field(default_factory=dict)
    #: Bytes of the hook's events.
    events: bytes = b""
    #: Whether `wake` was called.
    woken: bool = False
    #: Whether the trainer's own process has ended; of several ranks one whose end ends all.
    exited: bool = False


class TrainerProcess:
    """Starts the trainer at once. One thread uses it; any thread may call `wake`."""

    def __init__(self, command: TrainerCommand, *, directory: RunDirectory, job_id: str, epoch: int) -> None:
        """`directory`: where the trainer runs, with the event pipe; job and claim mark its processes."""
        self._job_id, self._epoch = job_id, epoch
        #: Processes of the run that SIGKILL did not end.
        self.undead: list[int] = []
        # Read-write, so that it has no end when a writer leaves.
        self._pipe = os.open(directory.pipe, os.O_RDWR | os.O_NONBLOCK)
        self._woken, self._wake = os.pipe()
        self._open, self._open_lock = True, threading.Lock()
        self._ranks = Ranks(command.argv, env=command.env, cwd=directory.path, count=command.ranks)
        #: Of rank 0, to which all signals go: it tells the others.
        self.pid = self._ranks.pids[0]
        self._outputs = self._ranks.outputs()
        self._selector = selectors.DefaultSelector()
        for source in (*self._outputs, self._pipe, self._woken, self._ranks.exit):
            self._selector.register(source, selectors.EVENT_READ)

    # -- reading --------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> Received:
        """Wait for output, events, `wake` or the trainer's exit, at most so long."""
        ready = {key.fd for key, _ in self._selector.select(seconds)}
        printed = {rank: self._read_output(handle) for rank, handle in enumerate(self._outputs) if handle in ready}
        if self._woken in ready:
            os.read(self._woken, READ_BYTES)
        return Received(
            output=printed.pop(0, b""),
            of_ranks=printed,
            events=self._read_events() if self._pipe in ready else b"",
            woken=self._woken in ready,
            exited=self._ranks.exit in ready,
        )

    def _read_output(self, handle: int) -> bytes:
        if not (output := _read(handle)):
            self._selector.unregister(handle)
        return output

    def wake(self) -> None:
        """Let `wait` return at once; does nothing after `close`."""
        with self._open_lock:
            if self._open:
                os.write(self._wake, b".")

    def _read_events(self) -> bytes:
        data = b""
        while chunk := _read(self._pipe):
            data += chunk
        return data

    # -- stopping -------------------------------------------------------------------------------------

    def send(self, signum: int) -> None:
        """Send a signal to the trainer's own process, of several ranks to rank 0."""
        process_tree.send(self.pid, signum)

    def request_stacks(self) -> None:
        """Ask the trainer and its data loaders to print the stacks of their threads."""
        for rank in self._ranks.pids:
            for pid in process_tree.that_catch(signal.SIGUSR2, [rank, *process_tree.descendants(rank)]):
                process_tree.send(pid, signal.SIGUSR2)

    def interrupt(self) -> None:
        """End the trainer by SIGINT, and what is left after some seconds by SIGKILL."""
        self.undead = process_tree.end(self._ranks.processes[0], self._job_id, self._epoch)

    def kill(self) -> None:
        """SIGKILL every process of the run."""
        self.undead = process_tree.kill_all(self._job_id, self._epoch)

    # -- the end --------------------------------------------------------------------------------------

    def reap(self) -> RankEnd:
        """Kill what the trainer left behind and return how it ended, of several ranks the one whose end ended all."""
        # Data loaders that outlive the trainer would keep the GPU and the pipe.
        self.undead = self.undead or process_tree.kill_all(self._job_id, self._epoch)
        if not self.undead:
            return self._ranks.wait_all()
        return RankEnd(rank=0, code=-signal.SIGKILL, at=0.0)

    def drain(self) -> Iterator[Received]:
        """Yield what was not read yet."""
        for rank, handle in enumerate(self._outputs):
            while output := _read(handle):
                yield Received(output=output) if rank == 0 else Received(of_ranks={rank: output})
        yield Received(events=self._read_events())

    def close(self) -> None:
        """Close all handles."""
        self._selector.close()
        with self._open_lock:
            self._open = False
            for handle in (self._pipe, self._woken, self._wake):
                os.close(handle)
        self._ranks.close()


def _read(handle: int) -> bytes:
    """Read what is there; nothing at the end, or where nothing came."""
    try:
        return os.read(handle, READ_BYTES)
    except BlockingIOError:
        return b""

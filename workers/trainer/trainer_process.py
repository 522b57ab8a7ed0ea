"""One process of LeRobot's trainer: start it, read what it prints and sends, signal it, and end it with its children.

It knows nothing of why a trainer is stopped; that is the supervisor's business (workers/runner/supervisor.py).
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pi0q.workers.host import process_tree
from pi0q.workers.runs.run_directory import RunDirectory

READ_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class Received:
    """What one wait for the trainer brought."""

    #: Bytes that the trainer printed.
    output: bytes = b""
    #: Bytes of the hook's events.
    events: bytes = b""
    #: Whether `wake` was called.
    woken: bool = False
    #: Whether the trainer's own process has ended.
    exited: bool = False


class TrainerProcess:
    """Starts the trainer at once. One thread uses it; any thread may call `wake`."""

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str], directory: RunDirectory, job_id: str, epoch: int
    ) -> None:
        """`directory`: where the trainer runs, with the event pipe; job and claim mark its processes."""
        self._job_id, self._epoch = job_id, epoch
        #: Processes of the run that SIGKILL did not end.
        self.undead: list[int] = []
        # Read-write, so that it has no end when a writer leaves.
        self._pipe = os.open(directory.pipe, os.O_RDWR | os.O_NONBLOCK)
        self._woken, self._wake = os.pipe()
        self._open, self._open_lock = True, threading.Lock()
        self._process = process_tree.spawn(argv, env=env, cwd=directory.path)
        self.pid = self._process.pid
        self._exit, self._exited = os.pipe()
        threading.Thread(target=self._await_exit, daemon=True).start()
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._selector = selectors.DefaultSelector()
        for source in (self._output, self._pipe, self._woken, self._exit):
            self._selector.register(source, selectors.EVENT_READ)

    def _await_exit(self) -> None:
        self._process.wait()
        os.close(self._exited)

    # -- reading --------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> Received:
        """Wait for output, events, `wake` or the trainer's exit, at most so long."""
        ready = {key.fd for key, _ in self._selector.select(seconds)}
        output = b""
        if self._output in ready and not (output := _read(self._output)):
            self._selector.unregister(self._output)
        if self._woken in ready:
            os.read(self._woken, READ_BYTES)
        return Received(
            output=output,
            events=self._read_events() if self._pipe in ready else b"",
            woken=self._woken in ready,
            exited=self._exit in ready,
        )

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
        """Send a signal to the trainer's own process."""
        process_tree.send(self.pid, signum)

    def request_stacks(self) -> None:
        """Ask the trainer and its data loaders to print the stacks of their threads."""
        for pid in process_tree.that_catch(signal.SIGUSR2, [self.pid, *process_tree.descendants(self.pid)]):
            process_tree.send(pid, signal.SIGUSR2)

    def interrupt(self) -> None:
        """End the trainer by SIGINT, and what is left after some seconds by SIGKILL."""
        self.undead = process_tree.end(self._process, self._job_id, self._epoch)

    def kill(self) -> None:
        """SIGKILL every process of the run."""
        self.undead = process_tree.kill_all(self._job_id, self._epoch)

    # -- the end --------------------------------------------------------------------------------------

    def reap(self) -> int:
        """Kill what the trainer left behind and return its exit code, negative for a signal."""
        # Data loaders that outlive the trainer would keep the GPU and the pipe.
        self.undead = self.undead or process_tree.kill_all(self._job_id, self._epoch)
        return -signal.SIGKILL if self.undead else self._process.wait()

    def drain(self) -> Iterator[Received]:
        """Yield what was not read yet."""
        while output := _read(self._output):
            yield Received(output=output)
        yield Received(events=self._read_events())

    def close(self) -> None:
        """Close all handles."""
        self._selector.close()
        with self._open_lock:
            self._open = False
            for handle in (self._pipe, self._woken, self._wake, self._exit):
                os.close(handle)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _read(handle: int) -> bytes:
    """Read what is there; nothing at the end, or where nothing came."""
    try:
        return os.read(handle, READ_BYTES)
    except BlockingIOError:
        return b""

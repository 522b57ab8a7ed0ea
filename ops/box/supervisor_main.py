"""The box's supervisor: a small process that keeps the worker running where no systemd does.

    start -> tick: [worker] ... ends ... [worker] ...

Worker and trainings outlive it. A lock allows one per home; `keeper.json` names it (see pidfile).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pi0q.ops.box import control, pidfile, tunnel
from pi0q.ops.supervisor import Failed, Process, Started, Supervisor
from pi0q.queue import settings as all_settings

#: Seconds between two checks of the log's size.
CHECK_SECONDS = 30.0
#: Seconds between two checks whether a worker that is no child of ours still runs.
FOREIGN_CHECK_SECONDS = 2.0
#: At this size the log is begun anew; one older file is kept.
LOG_BYTES = 20 * 2**20
HANDLED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

log = logging.getLogger("pi0q.ops.supervisor")


def wait_for_signal(seconds: float) -> signal.Signals | None:
    """Return the next handled signal; None after so many seconds."""
    received = signal.sigtimedwait(HANDLED, seconds)
    return signal.Signals(received.si_signo) if received else None


class WorkerSupervisor:
    """Keeps one worker running until SIGTERM; SIGHUP restarts it with what its files say by then."""

    def __init__(
        self,
        home: Path,
        *,
        spawn: Callable[[], Process] | None = None,
        wait: Callable[[float], signal.Signals | None] = wait_for_signal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.home, self.wait = home, wait
        self.child = Supervisor(spawn or self._spawn, clock=clock)
        #: The process that keeps the ssh tunnel open, where setup asked for one.
        self.tunnel = Supervisor(self._spawn_tunnel, clock=clock)

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT."""
        self.record()
        while True:
            received = self.wait(self._advance())
            self.trim_log()
            if received is signal.SIGHUP:
                self._restart()
            elif received in (signal.SIGTERM, signal.SIGINT):
                self._end_worker()
                if kept := self.tunnel.release():
                    kept.terminate()
                    kept.wait()
                return

    def _advance(self) -> float:
        """Start tunnel and worker if they are due and none runs; return the seconds until the next check."""
        tunnelled = tunnel.read(self.home) is not None
        if tunnelled and isinstance(failed := self.tunnel.tick(), Failed):
            log.warning("the tunnel's process ended (%s). Restarting in %.0f s.", failed.exit_code, failed.delay)
        # Only when a start is due: a worker that is being killed may hold its lock a moment longer.
        if self.child.seconds_until_due == 0 and self._foreign_worker():
            return FOREIGN_CHECK_SECONDS
        change = self.child.tick()
        if isinstance(change, Started):
            # On a full disk the lock alone says that a worker runs.
            with contextlib.suppress(OSError):
                self.record()
        elif isinstance(change, Failed):
            self._report(change)
        waits = [self.child.seconds_until_due, *([self.tunnel.seconds_until_due] if tunnelled else [])]
        return min([CHECK_SECONDS, *(due for due in waits if due is not None)])

    def record(self) -> None:
        """Write the pid file. Raises OSError."""
        worker = self.child.process or control.worker(self.home)
        pidfile.write(self.home, worker_pid=worker.pid if worker else None)

    def trim_log(self) -> None:
        """Begin the log anew when it is long; a process that writes to it continues in the same file."""
        file = control.worker_log(self.home)
        with contextlib.suppress(OSError):
            if file.stat().st_size > LOG_BYTES:
                shutil.copyfile(file, file.with_suffix(".log.1"))
                os.truncate(file, 0)

    def _foreign_worker(self) -> bool:
        """Return whether a worker runs that is no child of ours: started by hand, or by a supervisor that was killed.

        One that is starting has a pid but not its lock yet.
        """
        return control.worker_locked(self.home) or control.worker(self.home) is not None

    def _spawn(self) -> Process:
        file = control.worker_log(self.home)
        file.parent.mkdir(exist_ok=True)
        with file.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "pi0q.queue.cli", "worker"],
                env={**os.environ, **control.read_environment(self.home)},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_unblock_signals,
            )

    def _spawn_tunnel(self) -> Process:
        with control.worker_log(self.home).open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "pi0q.ops.box.tunnel_main"],
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_unblock_signals,
            )

    def _report(self, failed: Failed) -> None:
        if failed.exit_code is None:
            log.error("can't start the worker (%s). Retrying in %.0f s.", failed.error, failed.delay)
        else:
            text = "the worker ended with %d. Restarting in %.0f s; trainings continue."
            log.warning(text, failed.exit_code, failed.delay)

    def _restart(self) -> None:
        if self.child.process is not None:
            self._end_worker()
            log.info("restarting the worker.")
        elif left := control.worker(self.home):
            left.signal(signal.SIGTERM)
        else:
            self.child.release()

    def _end_worker(self) -> None:
        process = self.child.release()
        if process is None:
            return
        # The worker alone: trainings in its process group outlive it.
        process.terminate()
        try:
            process.wait(control.STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[bool]:
    """Yield whether this is the only supervisor of the home; inside the block it stays the only one."""
    lock = os.open(home / "keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        yield alone
    finally:
        os.close(lock)


def main() -> None:
    """Supervise the worker of PI0Q_HOME, unless another supervisor does."""
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s supervisor: %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )
    # A full disk under the log loses lines and nothing else.
    logging.raiseExceptions = False
    home = all_settings.load().home
    home.mkdir(parents=True, exist_ok=True)
    with _only_one(home) as alone:
        if alone:
            signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
            WorkerSupervisor(home).run()


if __name__ == "__main__":
    main()

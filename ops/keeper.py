"""The keeper: a small process that holds a box's worker up where no systemd does, and what starts and ends it.

    start -> keep: [worker] … dies … [worker] …

Worker and trainings live on without it. There is one per home, by a lock; who it is says `keeper.json` by pid and
start time, since AutoDL gives pids of the last life to other processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pi0q.jobs.errors import Pi0qError
from pi0q.queue import settings as all_settings
from pi0q.workers import identity

#: Seconds before a worker that died is started again: doubled each time, from the first up to the second.
BACKOFF_SECONDS = (1.0, 60.0)
#: Seconds of life after which an earlier death is forgotten.
HEALTHY_SECONDS = 60.0
#: Seconds that a worker has to stop by itself; its trainings go on either way.
STOP_SECONDS = 30.0
#: Seconds that a keeper has to say who it is; one that dies is not waited for.
HELLO_SECONDS = 60.0
#: Seconds between two looks at the size of the log, and at a worker that someone else has started.
LOOK_SECONDS = 30.0
#: From this size on the log is begun anew; one older one is kept.
LOG_BYTES = 20 * 2**20
#: Of a shell: what is kept in files, where a later change must win over what this shell has now.
SHED = {f"PI0Q_{name.upper()}" for name in all_settings.READERS} | {"HF_TOKEN", "HF_HOME", "WANDB_API_KEY", "TMPDIR"}
#: Those that this process started; they outlive it.
_started: list[subprocess.Popen[bytes]] = []
HEARD = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


@dataclass(frozen=True, kw_only=True)
class Living:
    """A process that lives: a pid, and the start time without which it says nothing."""

    pid: int
    start: int

    def signal(self, sig: signal.Signals) -> None:
        """Signals it, if it is still the same."""
        if self.lives:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    @property
    def lives(self) -> bool:
        return identity.start_time(self.pid) == self.start


def log_of(home: Path) -> Path:
    return home / "logs" / "worker.log"


def environment_file(home: Path) -> Path:
    """What the worker gets beside its settings: cache directories, the WandB key."""
    return home / "box.env"


def read_environment(home: Path) -> dict[str, str]:
    """The lines NAME=VALUE of that file; empty if there is none."""
    try:
        lines = environment_file(home).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return {}
    return dict(line.partition("=")[::2] for line in lines if "=" in line and not line.startswith("#"))


def keeper(home: Path) -> Living | None:
    """The keeper of this home, if it lives."""
    return _living(home, "keeper")


def worker(home: Path) -> Living | None:
    """The worker that the keeper started, if it lives; it may outlive the keeper."""
    return _living(home, "worker")


def _living(home: Path, who: str) -> Living | None:
    try:
        told = json.loads((home / "keeper.json").read_text(encoding="utf-8"))
        found = Living(pid=int(told[who]["pid"]), start=int(told[who]["start"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Start times begin anew with the host.
    return found if told.get("boot") == identity.boot() and found.lives else None


def locked(home: Path, name: str = "worker.lock") -> bool:
    """Whether a process holds this lock, whoever started it."""
    try:
        opened = os.open(home / name, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(opened)
    return False


def start(home: Path, env: Mapping[str, str]) -> Living:
    """The keeper that lives, or a new one, detached from whoever calls. Raises Pi0qError if it does not come up."""
    if found := keeper(home):
        return found
    log = log_of(home)
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in env.items() if name not in SHED}
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pi0q.ops.keeper"],
            env=kept | {"PI0Q_HOME": str(home)},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)
    give_up = time.monotonic() + HELLO_SECONDS
    while time.monotonic() < give_up:
        # Another one may have been faster.
        if found := keeper(home):
            return found
        if process.poll() not in (None, 0):
            break
        time.sleep(0.05)
    raise Pi0qError(f"The box's keeper did not start; nothing runs. The end of {log}:\n{_end_of(log)}")


def stop(home: Path) -> bool:
    """Ends keeper and worker, in this order; trainings go on. Whether there was one."""
    found, below = keeper(home), worker(home)
    for living, patience in ((found, 2 * STOP_SECONDS), (below, STOP_SECONDS)):
        if living is None:
            continue
        living.signal(signal.SIGTERM)
        give_up = time.monotonic() + patience
        while living.lives and time.monotonic() < give_up:
            time.sleep(0.05)
        living.signal(signal.SIGKILL)
    (home / "keeper.json").unlink(missing_ok=True)
    return bool(found or below)


def _end_of(log: Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(f"  {line}" for line in log.read_text(errors="replace")[-2000:].splitlines()[-5:])
    return "  (there is none)"


# -- the process itself -------------------------------------------------------------------------------


class Keeper:
    """Holds one worker up."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.delay = BACKOFF_SECONDS[0]
        self.worker: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Until SIGTERM. SIGHUP gives the worker a new life, with what its files say now."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        self.write()
        while True:
            if self.someone_elses():
                heard = self.hear(LOOK_SECONDS)
                if heard is signal.SIGHUP and (left := worker(self.home)):
                    left.signal(signal.SIGTERM)
            else:
                began = time.monotonic()
                heard = self.attend() if self.begin() else None
                if heard is None:
                    heard = self.pause(time.monotonic() - began)
            if heard in (signal.SIGTERM, signal.SIGINT):
                self.end()
                return

    def someone_elses(self) -> bool:
        """Whether a worker runs already: by hand, or left by a keeper that was killed."""
        # One that starts has not taken its lock yet.
        return self.worker is None and (locked(self.home) or worker(self.home) is not None)

    def begin(self) -> bool:
        """Starts the worker; whether it could be."""
        log = log_of(self.home)
        try:
            log.parent.mkdir(exist_ok=True)
            with log.open("ab") as out:
                self.worker = subprocess.Popen(
                    [sys.executable, "-m", "pi0q.queue.cli", "worker"],
                    env={**os.environ, **read_environment(self.home)},
                    cwd=self.home,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_hear_all,
                )
        except OSError as error:
            self.say(f"the worker can't be started ({error}); tried again in {self.delay:.0f} s")
            return False
        # On a full disk the lock alone says that it runs.
        with contextlib.suppress(OSError):
            self.write()
        return True

    def attend(self) -> signal.Signals | None:
        """Waits for the worker's end (None) or for a signal."""
        assert self.worker is not None
        while self.worker.poll() is None:
            heard = self.hear(LOOK_SECONDS)
            if heard is signal.SIGHUP:
                self.end()
                self.say("the worker starts anew")
                self.delay = BACKOFF_SECONDS[0]
                return heard
            if heard in (signal.SIGTERM, signal.SIGINT):
                return heard
        code, self.worker = self.worker.returncode, None
        self.say(f"the worker ended with {code}; it is started again in {self.delay:.0f} s, trainings go on")
        return None

    def pause(self, lived: float) -> signal.Signals | None:
        """Waits before the next life, longer each time unless the last one was long."""
        until = time.monotonic() + self.delay
        self.delay = BACKOFF_SECONDS[0] if lived > HEALTHY_SECONDS else min(2 * self.delay, BACKOFF_SECONDS[1])
        while (left := until - time.monotonic()) > 0:
            heard = self.hear(left)
            if heard is not None and heard is not signal.SIGCHLD:
                return heard
        return None

    def hear(self, seconds: float) -> signal.Signals | None:
        """The next signal; None after so many seconds."""
        told = signal.sigtimedwait(HEARD, seconds)
        self.trim()
        return signal.Signals(told.si_signo) if told else None

    def end(self) -> None:
        """Ends the worker."""
        if self.worker is None:
            return
        self.worker.terminate()
        try:
            self.worker.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.worker.kill()
            self.worker.wait()
        self.worker = None

    def say(self, text: str) -> None:
        # The log's disk may be full: what is said then comes later, or never.
        with contextlib.suppress(OSError):
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} keeper: {text}", flush=True)

    def write(self) -> None:
        """Says who we are."""
        told: dict[str, object] = {"boot": identity.boot(), "keeper": _who(os.getpid())}
        if self.worker:
            told["worker"] = _who(self.worker.pid)
        elif self.someone_elses() and (left := worker(self.home)):
            told["worker"] = _who(left.pid)
        part = self.home / f".keeper.{os.getpid()}"
        part.write_text(json.dumps(told), encoding="utf-8")
        part.replace(self.home / "keeper.json")

    def trim(self) -> None:
        """Begins the log anew when it is long; whoever writes to it goes on doing so."""
        log = log_of(self.home)
        with contextlib.suppress(OSError):
            if log.stat().st_size > LOG_BYTES:
                shutil.copyfile(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)


def _who(pid: int) -> dict[str, int | None]:
    return {"pid": pid, "start": identity.start_time(pid)}


def _hear_all() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@contextlib.contextmanager
def _sole(home: Path) -> Iterator[bool]:
    """Whether we are the only one; for as long as the block lasts no other will be."""
    opened = os.open(home / "keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        yield alone
    finally:
        os.close(opened)


def main() -> None:
    """Keeps the worker of PI0Q_HOME up, unless someone does."""
    home = all_settings.load().home
    home.mkdir(parents=True, exist_ok=True)
    with _sole(home) as alone:
        if alone:
            Keeper(home).run()


if __name__ == "__main__":
    main()

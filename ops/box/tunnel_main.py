"""Keeps the ssh tunnel of this machine open until SIGTERM: a connection that ends is made again, later each time."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from datetime import datetime

from pi0q.ops.box import tunnel
from pi0q.ops.supervisor import Failed, Process, Started, Supervisor, log_tail
from pi0q.queue import settings as all_settings

#: Seconds between two looks at ssh.
CHECK_SECONDS = 0.5
#: Size at which the log is begun anew.
LOG_BYTES = 2**20


def main() -> None:
    """Keep the tunnel of PI0Q_HOME open."""
    home = all_settings.load().home
    found = tunnel.read(home)
    if found is None:
        sys.exit(f"{home / tunnel.FILE} names no tunnel.\nFix: pi0q box setup --tunnel USER@HOST")
    log = tunnel.log_file(home)
    log.parent.mkdir(exist_ok=True)

    def spawn() -> Process:
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.unlink()
        with log.open("ab") as out:
            return subprocess.Popen(found.argv(), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)

    def say(text: str) -> None:
        print(f"{datetime.now():%Y-%m-%d %H:%M:%S} tunnel: {text}", flush=True)

    stopping = threading.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda *_: stopping.set())
    child = Supervisor(spawn)
    while True:
        change = child.tick()
        if isinstance(change, Failed):
            why = change.error or f"ssh ended with {change.exit_code}: {' '.join(log_tail(log)[-1:])}"
            say(f"{why}. Trying again in {change.delay:.0f} s; by hand: {' '.join(found.argv())}")
        elif isinstance(change, Started):
            say(f"open: {found}")
        if stopping.wait(CHECK_SECONDS):
            break
    if process := child.release():
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()

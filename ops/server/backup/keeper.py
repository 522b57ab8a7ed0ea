"""Thread of `pi0q up` that keeps a backup of the jobs' records and reports those that somebody damaged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import redis

from pi0q.jobs.job_id import is_job_id
from pi0q.ops import file_edits
from pi0q.ops.server.backup.damage import Kept, damage_of
from pi0q.ops.server.backup.journal import Journal
from pi0q.queue import damage_report
from pi0q.queue.connection import connect
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store, heard

#: Seconds between two looks; and between the beginnings of two rounds through all jobs.
LOOK_SECONDS, ROUND_SECONDS = 1.0, 10.0
#: Jobs of a round that one look takes, and changed ones: bounded, so that the server and this machine do other things.
ROUND_JOBS, CHANGED_JOBS = 100, 500
#: Damaged records that one look names; the others are counted.
NAMED = 3


class BackupKeeper(threading.Thread):
    """Write each record that changed into the backup, and look through all for damage."""

    def __init__(self, settings: Settings, stopping: threading.Event, say: Callable[[str], object]) -> None:
        super().__init__(name="backup", daemon=True)
        self.store = Store(connect(settings), settings.prefix)
        self.home, self.stopping, self.say = settings.home, stopping, say
        self.damage: dict[str, str] = {}
        self._journal: Journal | None = None
        self._round: list[str] = []
        self._round_at = -ROUND_SECONDS
        self._fault = ""

    @property
    def data(self) -> Path:
        """The server's directory, in which the backup lies."""
        return self.home / "server"

    def run(self) -> None:
        """Keep the backup until `stopping`; `pi0q up` itself reports a server that is unreachable."""
        listening = None
        while not self.stopping.is_set():
            try:
                listening = listening or self.store.subscribe("changes")
                self.look(sorted(set(heard(listening, LOOK_SECONDS))))
                self._fault = ""
            except redis.RedisError:
                listening = None
            except OSError as error:
                self._tell_once(f"The backup of the jobs' records can't be written: {error.strerror}: {self.data}.")
            self.stopping.wait(LOOK_SECONDS)

    def close(self) -> None:
        """Close the connection and the file, where `run` has not been started."""
        self.store.client.close()
        if self._journal is not None:
            self._journal.close()

    def look(self, changed: Sequence[str] = ()) -> None:
        """Look at the jobs that changed, and at the next of a round. Raises redis.RedisError, OSError."""
        journal = self._journal = self._journal or Journal(self.data, time.time())
        told = [job for job in changed if is_job_id(job)][:CHANGED_JOBS]
        for job in (*told, *self._next_of_the_round(journal)):
            self._judge(journal, job)
        journal.flush(time.time())

    def _next_of_the_round(self, journal: Journal) -> list[str]:
        if not self._round and time.monotonic() - self._round_at >= ROUND_SECONDS:
            self._round_at, prefix = time.monotonic(), self.store.prefix
            on_server: set[str] = set()
            for name in ("live", "ended"):
                on_server.update(map(str, self.store.client.zrange(prefix + name, 0, -1)))
            self._round = sorted({*journal.marks, *filter(is_job_id, on_server)}, reverse=True)
        taken, self._round = self._round[-ROUND_JOBS:], self._round[:-ROUND_JOBS]
        return taken

    def _judge(self, journal: Journal, job: str) -> None:
        prefix, known = self.store.prefix, journal.marks.get(job)
        pipe = self.store.client.pipeline(transaction=True)
        pipe.hgetall(f"{prefix}job:{job}")
        pipe.lrange(f"{prefix}history:{job}", 0, -1)
        pipe.zscore(f"{prefix}removed", job)
        raw, history, removed = pipe.execute(raise_on_error=False)
        fields = {str(name): str(text) for name, text in raw.items()} if isinstance(raw, dict) else {}
        if found := damage_of(job, fields, known, removed=isinstance(removed, float)):
            self._damaged({**self.damage, job: found}, journal)
            return
        if job in self.damage:
            self._damaged({name: why for name, why in self.damage.items() if name != job}, journal)
        if not fields:
            if known is not None:
                journal.remove(job)
            return
        kept = Kept(fields=fields, history=tuple(map(str, history)) if isinstance(history, list) else ())
        if known is None or kept.mark != known:
            journal.add(job, kept)

    def _damaged(self, found: dict[str, str], journal: Journal) -> None:
        """Report what is damaged now, where that changed."""
        if found == self.damage:
            return
        new = [job for job, why in found.items() if self.damage.get(job) != why]
        self.damage = found
        file_edits.write(damage_report.path_of(self.home), damage_report.dumps(found), 0o600)
        for job in new if len(found) <= NAMED else ():
            restorable = job in journal.marks
            self.say(
                f"The record of job {job} was damaged: {found[job]}. No box runs a job whose record can't be read, and "
                "none whose signed file was changed.\n"
                + (f"Fix: pi0q server restore {job}" if restorable else f"Fix: pi0q cancel {job}")
            )
        if new and len(found) == NAMED + 1:
            self.say("Records of more jobs were damaged: pi0q doctor names them.\nFix: pi0q server restore")

    def _tell_once(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            with suppress(OSError):
                self.say(fault)

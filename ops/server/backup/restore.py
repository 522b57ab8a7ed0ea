"""`pi0q server restore`: bring damaged records back from the backup, and leave all others as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pi0q.jobs.errors import BadRecord, UsageError
from pi0q.ops.server.backup import journal
from pi0q.ops.server.backup.damage import damage_of, repair

if TYPE_CHECKING:
    from pi0q.queue.store import Store


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one job's record."""

    job: str
    #: `back`, `good` (nothing was wrong with it), `changed` or `owned` (somebody was faster), or `lost`.
    result: str
    #: What was wrong with it, or why it could not be brought back.
    detail: str = ""


class Restorer:
    """Restores records of one server from one backup."""

    def __init__(self, store: Store, data: Path, *, chosen: Path | None = None) -> None:
        """`chosen`: the backup; else the newest. Raises UsageError where there is none."""
        found = journal.files(data)
        if chosen is None and not found:
            raise UsageError(
                f"There is no backup in {data / journal.FOLDER}: `pi0q up` writes it. Nothing was changed.\n"
                "Fix: run it on the server's machine, or name a copy of a backup with --from FILE"
            )
        self.store, self.path = store, chosen or found[0]
        self.places = journal.read(self.path)

    def jobs(self, names: Sequence[str]) -> list[str]:
        """Return the jobs that are meant: ids or their beginnings, all without any. Raises UsageError."""
        if not names:
            return sorted(self.places)
        found = []
        for name in names:
            meant = [job for job in self.places if job.startswith(name)] if name else []
            if len(meant) != 1:
                what = "holds no job" if not meant else f"holds {len(meant)} jobs whose ids begin with"
                raise UsageError(f"{self.path} {what} {name!r}. Nothing was changed.\nFix: ls {self.path.parent}")
            found += meant
        return found

    def restore(self, jobs: Sequence[str], *, text: str) -> Iterator[Outcome]:
        """Restore these jobs, each in one step of the server. Raises redis.RedisError."""
        for job in jobs:
            yield self._restored(job, text)

    def _restored(self, job: str, text: str) -> Outcome:
        kept = journal.kept_at(self.path, self.places[job])
        if kept is None:
            return Outcome(job=job, result="lost", detail=f"its line in {self.path} can't be read")
        raw = self.store.raw(job)
        removed = not raw and self.store.client.zscore(f"{self.store.prefix}removed", job) is not None
        what = damage_of(job, raw, kept.mark, removed=removed)
        if not what:
            return Outcome(job=job, result="good")
        try:
            plan = repair(job, raw, kept)
        except BadRecord as error:
            return Outcome(job=job, result="lost", detail=f"the backup's is damaged, too: its field {error.damage}")
        if plan is None:
            return Outcome(job=job, result="good")
        result = self.store.put_back(job, plan.seen, plan.fields, kept.history, text=f"{text}: {what}")
        return Outcome(job=job, result=result, detail=what)

"""A run's compiled kernels: brought from another box before its trainer starts, packed for others after its first save.

    off      (the default) nothing is written and nothing is read
    own      an archive that the job's own record names: an earlier box of this job packed it
    listed   and any archive below a directory that this box's owner lists in PI0Q_COPY_ROOTS

Kernels are code that the trainer runs. Nothing here ends a run: without an archive the trainer compiles by itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pi0q.jobs import compiled_kernels, replicas
from pi0q.jobs.compiled_kernels import CompiledFor
from pi0q.jobs.printable import printable
from pi0q.jobs.record import Saved
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import helper_process as copies
from pi0q.workers.host import cache_paths, helper_process, usage_locks
from pi0q.workers.host.helper_process import ChildFailed, Helper
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.run_context import RunContext

log = logging.getLogger(__name__)

HELPER = Helper(
    argv=helper_process.module("pi0q.workers.compiled.compiled_main"),
    name="the process that copies compiled kernels",
    silence="nothing moved",
    excluded=True,
)
#: Archives that a record names at most, of the newest keys.
MOST_NAMED = 8
#: Seconds that the thread has to end at the end of the run.
JOIN_SECONDS = 10.0


def place_of(spec: Spec, settings: Settings) -> str:
    """Return the directory through which a job's kernels travel on this box; "" if they do not."""
    place = replicas.place_of(spec)
    shared = settings.share_compiled != "off" and compiled_kernels.compiles(spec.train)
    return place if shared and place and not replicas.repository(place) else ""


class CompiledKernels(TrainerListener):
    """Shares the kernels of one run; a listener that packs them after the first sealed checkpoint."""

    def __init__(self, context: RunContext, progress: Progress, *, place: str, compiled_for: CompiledFor) -> None:
        self.settings, self.progress = context.settings, progress
        self.place, self.compiled_for, self.key = place, compiled_for, compiled_for.key
        self.directory = cache_paths.compiled(context.settings) / self.key
        #: SHA-256 of the manifests that the record vouches for, by key.
        self.named = dict(context.record.compiled)
        self._request = {
            "place": place,
            "key": self.key,
            "roots": list(map(str, context.settings.copy_roots)),
            "job": context.job_id,
            "lease": str(context.directory.lease),
        }
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    # -- before the trainer ---------------------------------------------------------------------------

    def bring(self) -> None:
        """Unpack another box's kernels unless this box has its own; a line of the log says what came of it.

        Marks the kernels of this key as in use until this process ends.
        """
        marks, name = usage_locks.of_box(self.settings.home), cache_paths.compiled_name(self.directory)
        with usage_locks.alone(marks, name) as free:
            # Another run of this box may compile into it right now.
            if free and not (self.directory / compiled_kernels.MANIFEST).is_file():
                self._fetch()
        usage_locks.hold(marks, name)

    def _fetch(self) -> None:
        began, trust = time.monotonic(), self._trust()
        if not trust["named"] and not trust["all_here"]:
            return
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        self.progress.update(phase="looking for compiled kernels")
        end = self._ask({"act": "unpack", "into": str(self.directory), **trust})
        self.progress.update(phase="")
        for why in end.get("refused", ()):
            log.warning("refused compiled kernels in %s: %s", self.place, printable(why))
        if found := end.get("unpacked"):
            size, took = replicas.amount(found["bytes"]), time.monotonic() - began
            log.info("brought the compiled kernels of job %s, %s in %.0f s", found["job"], size, took)
        elif "failed" in end:
            why = printable(end["failed"])
            log.warning("compiled kernels can't be brought: %s; the trainer compiles by itself", why)

    def environment(self) -> Mapping[str, str]:
        """Return where the trainer's compilers keep their kernels: apart from those of all other jobs."""
        return cache_paths.kernel_caches(self.directory)

    def _trust(self) -> dict[str, Any]:
        named = {self.named[self.key]} if self.key in self.named else set[str]()
        listed = self.settings.share_compiled == "listed" and any(
            Path(self.place).resolve().is_relative_to(root.resolve()) for root in self.settings.copy_roots
        )
        return {"named": sorted(named), "all_here": listed}

    # -- beside the trainer ---------------------------------------------------------------------------

    def on_sealed(self, saved: Saved | None) -> None:
        if saved and self._thread is None:
            self._thread = threading.Thread(target=self._pack, name="compiled-kernels", daemon=True)
            self._thread.start()

    def on_exit(self) -> None:
        """End the thread and its process; what is half packed counts for nothing."""
        self._over.set()
        if self._thread:
            self._thread.join(JOIN_SECONDS)

    def _pack(self) -> None:
        if self._ask({"act": "look", **self._trust()}).get("there"):
            return
        end = self._ask({"act": "pack", "caches": str(self.directory), "compiled_for": self.compiled_for.to_json()})
        if digest := end.get("packed"):
            size = replicas.amount(int(end["bytes"]))
            log.info("packed the compiled kernels for other boxes: %d files, %s", end["files"], size)
            self.named.pop(self.key, None)
            self.named[self.key] = str(digest)
            for old in list(self.named)[:-MOST_NAMED]:
                del self.named[old]
            self.progress.update(compiled=dict(self.named))
        elif "failed" in end:
            log.warning("the compiled kernels are not packed: %s; the training goes on", printable(end["failed"]))

    def _ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the last line of the helper; {} where the run ended first."""
        last = dict[str, Any]()
        running = helper_process.run_jsonl(
            HELPER,
            {**self._request, **request},
            env=copies.environment(self.place, self.settings),
            stall_seconds=self.settings.stall_seconds,
            stop=self._over,
        )
        try:
            with closing(running):
                for line in running:
                    last = line or last
        except ChildFailed as error:
            return {"failed": str(error)}
        return last if "alive" not in last else {}

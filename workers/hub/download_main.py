"""Helper process that downloads repositories; started anew for each route, so that a hung one can be killed.

as in helper_base.py, and "plan_only": true        on stdin: only say what each fetch takes
{"n": 0, "whole": true}                            on stdout besides: fetch 0 is in the cache
{"n": 0, "brought": 3}                             so many of its files came over this route
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from pi0q.workers.host import helper_base
from pi0q.workers.hub import blobs, snapshots
from pi0q.workers.hub.blobs import Blob
from pi0q.workers.hub.errors import WrongBytes
from pi0q.workers.hub.helper_base import HubHelper
from pi0q.workers.hub.modelscope import some
from pi0q.workers.hub.plans import Plan

#: Files of a repository that are downloaded at once.
AT_ONCE = 8
#: Seconds between two tries of a lock that another download holds.
LOCK_LOOK_SECONDS = 0.2


class DownloadHelper(HubHelper):
    """Downloads what is missing of each fetch."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(request)
        self._cancelled = threading.Event()

    def count(self, size: int) -> None:
        """Note that bytes came. Raises Cancelled in a thread whose sibling failed."""
        super().count(size)
        if self._cancelled.is_set():
            raise Cancelled

    def run(self) -> None:
        """Ask what each fetch takes, then download one after the other."""
        self.import_hub()
        self.start_heartbeat()
        plans = [plan for n, fetch in enumerate(self.fetches) if (plan := self.plan(n, fetch))]
        for plan in () if self.request.get("plan_only") else plans:
            with self.reporting(plan.n, plan.fetch):
                self.download(plan)
                self.emit(n=plan.n, whole=True)

    def download(self, plan: Plan) -> None:
        """Download all of a fetch, under the one lock that its repository has on this box."""
        folder = plan.fetch.folder(self.hf_home)
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        with self._repository_lock(folder):
            verified = snapshots.VerifiedBlobs(folder)
            missing = {
                blob: name
                for name, blob in plan.files.items()
                if not verified.holds(blob, self.count) and not verified.adopt(folder / name, blob, self.count)
            }
            verified.save()
            snapshots.begin(plan.fetch, self.hf_home, plan.sha)
            here = {blob: name for blob, name in missing.items() if name not in plan.elsewhere}
            differing = self._download_blobs(plan, here, folder)
            brought = {blob: name for blob, name in here.items() if name not in differing}
            verified.save(brought)
            if brought:
                self.emit(n=plan.n, brought=len(brought))
            if lacking := [name for name in missing.values() if name in plan.elsewhere or name in differing]:
                raise WrongBytes(f"it lacks {some(lacking)}, or has other contents there")
            if plan.uncompared:
                snapshots.mark_uncompared(plan.fetch, self.hf_home, plan.sha)
            snapshots.materialize(plan.fetch, self.hf_home, plan.sha, plan.files)

    def _download_blobs(self, plan: Plan, missing: Mapping[Blob, str], folder: Path) -> list[str]:
        """Download several at once; the first error ends the others, which keep their parts.

        Return the files of a repository on ModelScope that turned out to be others: they end nothing.
        """
        headers, differing = self.headers(), list[str]()

        def download(blob: Blob, name: str) -> None:
            with self._blob_lock(folder, blob):
                if not (folder / "blobs" / blob.name).exists():
                    source = blobs.Source(url=self.url(plan, name), headers=headers, count=self.count)
                    try:
                        blobs.download(source, blob, folder / "blobs")
                    except WrongBytes:
                        if not self.from_modelscope:
                            raise
                        differing.append(name)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            # Large ones first: the small ones come beside them.
            ordered = sorted(missing.items(), key=lambda item: -item[0].size)
            futures = [pool.submit(download, blob, name) for blob, name in ordered]
            done, rest = wait(futures, return_when=FIRST_EXCEPTION)
            failed = [error for future in done if (error := future.exception())]
            if failed:
                self._cancelled.set()
                for future in rest:
                    future.cancel()
        self._cancelled.clear()
        if failed:
            raise failed[0]
        return differing

    @contextlib.contextmanager
    def _repository_lock(self, folder: Path) -> Iterator[None]:
        """Allow one download per repository and box; the kernel frees the lock when this process dies."""
        path = folder.parent / ".locks" / folder.name / "pi0q.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    # Another download works for us: the parent must not take that for silence.
                    self.count(1)
                    time.sleep(LOCK_LOOK_SECONDS)
            yield

    @contextlib.contextmanager
    def _blob_lock(self, folder: Path, blob: Blob) -> Iterator[None]:
        """Take huggingface_hub's own lock: a user may run `hf download` on this box."""
        from filelock import FileLock, Timeout

        lock = FileLock(folder.parent / ".locks" / folder.name / f"{blob.name}.lock")
        while True:
            try:
                lock.acquire(timeout=LOCK_LOOK_SECONDS)
                break
            except Timeout:
                self.count(1)
        try:
            # Parts of huggingface_hub 1.x, which never resumes one.
            for part in (folder / "blobs").glob(f"{blob.name}.????????.incomplete"):
                part.unlink(missing_ok=True)
            yield
        finally:
            lock.release()


class Cancelled(Exception):
    """Another file of the same repository failed."""


def main() -> None:
    helper_base.main(DownloadHelper)


if __name__ == "__main__":
    main()

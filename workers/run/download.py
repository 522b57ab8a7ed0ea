"""The process that talks to the Hub: started anew for each way to it, so that a hung one can be killed.

    {"fetches": [...], "pins": {...}, "hf_home": ..., "endpoint": ..., "trusted": ..., "parent": ...}   on stdin
    {"n": 0, "sha": ..., "ref": ..., "blobs": [[name, size], ...]}     what fetch 0 will take
    {"n": 0, "whole": true} | {"n": 0, "refused": {...}}               how it ended
    {"say": ...} {"alive": 123456}                                     on stdout, a line each

The token is read from the environment and the cache's own token file, as huggingface_hub does, and goes to a
trusted endpoint only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pi0q.workers.run import blobs, snapshots
from pi0q.workers.run.fetches import Fetch
from pi0q.workers.run.refusals import WrongBytes, refusal
from pi0q.workers.run.transfer import Blob

#: Seconds that the Hub has to say what a repository holds; huggingface_hub would wait for ever.
PATIENCE_SECONDS = 30.0
#: Seconds between two signs of life while bytes come.
PULSE_SECONDS = 0.25
#: Files of a repository under way at once.
AT_ONCE = 8
#: Seconds between two looks at a lock that another download holds.
LOCK_LOOK_SECONDS = 0.2
_PDEATHSIG = 1
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a fetch takes at one commit."""

    n: int
    fetch: Fetch
    sha: str
    #: Branch or tag that named the commit.
    ref: str | None
    #: Content of each file, by its path in the repository.
    files: Mapping[str, Blob]


class Desk:
    """One order over one way."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.hf_home = Path(order["hf_home"])
        self.endpoint: str = order["endpoint"]
        self.trusted: bool = order["trusted"]
        self.pins: Mapping[str, str] = order["pins"]
        self.fetches = [Fetch.from_json(one) for one in order["fetches"]]
        self.where = "the Hub" if self.trusted else f"the mirror {self.endpoint.partition('//')[2]}"
        # None: whatever token this box has.
        self.token: bool | None = None if self.trusted else False
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._lock = threading.Lock()
        self._bytes = 0
        self._stop = threading.Event()

    def tell(self, **line: object) -> None:
        with self._lock:
            print(json.dumps(line), file=self._out, flush=True)

    def tick(self, size: int) -> None:
        """Bytes came; ends a thread whose sibling failed."""
        self._bytes += size
        if self._stop.is_set():
            raise Stopped

    def pulse(self) -> None:
        """Tells that bytes come, for as long as they do."""
        before = 0
        while True:
            time.sleep(PULSE_SECONDS)
            if self._bytes != before:
                before = self._bytes
                self.tell(alive=before)

    def run(self) -> None:
        """Asks for all, then brings one after the other."""
        import huggingface_hub  # noqa: F401

        # From here on silence is the network's.
        self.tell(alive=0)
        threading.Thread(target=self.pulse, daemon=True).start()
        plans = [plan for n, fetch in enumerate(self.fetches) if (plan := self.planned(n, fetch))]
        for plan in plans:
            with self.told(plan.n, plan.fetch):
                self.bring(plan)
                self.tell(n=plan.n, whole=True)

    @contextlib.contextmanager
    def told(self, n: int, fetch: Fetch) -> Iterator[None]:
        """Turns an error of the Hub, the network or the disk into a line."""
        try:
            yield
        except Exception as error:
            refused = refusal(error, f"{fetch.kind} {fetch.repo_id}", fetch.pin, where=self.where)
            if refused is None:
                raise
            self.tell(n=n, refused=refused.to_json())

    # -- what is there ------------------------------------------------------------------------------

    def planned(self, n: int, fetch: Fetch) -> Plan | None:
        with self.told(n, fetch):
            plan = self.plan(n, fetch)
            self.tell(n=n, sha=plan.sha, ref=plan.ref, blobs=[[blob.name, blob.size] for blob in plan.files.values()])
            return plan
        return None

    def plan(self, n: int, fetch: Fetch) -> Plan:
        pin = self.pins.get(fetch.pin)
        try:
            ref, info = self.ask(fetch, pin)
        except Exception as error:
            if not (self.trusted and self.token is None and _token_is_unknown(error)):
                raise
            self.tell(say="the Hub does not know this box's token any more (run `hf auth login`): going on without it")
            self.token = False
            ref, info = self.ask(fetch, pin)
        sha, files = str(info.sha), {}
        if (pin and sha != pin) or not snapshots.COMMIT.fullmatch(sha):
            raise WrongBytes(f"it names commit {sha[:12]}")
        for file in info.siblings or []:
            if fetch.takes(file.rfilename):
                name = str(file.lfs.sha256 if file.lfs else file.blob_id)
                files[_safe(file.rfilename)] = _blob(name, file.lfs.size if file.lfs else file.size)
        return Plan(n=n, fetch=fetch, sha=sha, ref=ref, files=files)

    def ask(self, fetch: Fetch, pin: str | None) -> tuple[str | None, Any]:
        """What the Hub holds at the pin, else under the first name that exists, and that name."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RevisionNotFoundError

        api = HfApi(self.endpoint, token=self.token, library_name="pi0q")
        *likely, last = [pin] if pin else snapshots.names(fetch)
        for name in [*likely, last]:
            try:
                info = api.repo_info(
                    fetch.repo_id,
                    repo_type=fetch.repo_type,
                    revision=name,
                    files_metadata=True,
                    timeout=PATIENCE_SECONDS,
                )
            except RevisionNotFoundError:
                if name == last:
                    raise
            else:
                return (None if pin else name), info
        raise AssertionError("the last name either answers or raises")

    # -- bringing it --------------------------------------------------------------------------------

    def bring(self, plan: Plan) -> None:
        """All of a fetch, under the one lock that its repository has on this box."""
        folder = plan.fetch.folder(self.hf_home)
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        with self.locked(folder):
            good = snapshots.Good(folder)
            missing = {
                blob: name
                for name, blob in plan.files.items()
                if not good.holds(blob, self.tick) and not good.adopts(folder / name, blob, self.tick)
            }
            good.save()
            snapshots.begin(plan.fetch, self.hf_home, plan.sha)
            self.bring_blobs(plan, missing, folder)
            good.save(missing)
            snapshots.lay(plan.fetch, self.hf_home, plan.sha, plan.files)

    def bring_blobs(self, plan: Plan, missing: Mapping[Blob, str], folder: Path) -> None:
        """Several at once; the first error ends the others, which keep their parts."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        headers = build_hf_headers(token=self.token, library_name="pi0q")
        fetch = plan.fetch

        def bring(blob: Blob, name: str) -> None:
            url = hf_hub_url(fetch.repo_id, name, repo_type=fetch.repo_type, revision=plan.sha, endpoint=self.endpoint)
            with self.lock_of_blob(folder, blob):
                if not (folder / "blobs" / blob.name).exists():
                    blobs.bring(blobs.Source(url=url, headers=headers, tick=self.tick), blob, folder / "blobs")

        with ThreadPoolExecutor(AT_ONCE) as pool:
            # Large ones first: the small ones come beside them.
            ordered = sorted(missing.items(), key=lambda one: -one[0].size)
            waiting = [pool.submit(bring, blob, name) for blob, name in ordered]
            done, rest = wait(waiting, return_when=FIRST_EXCEPTION)
            failed = [error for one in done if (error := one.exception())]
            if failed:
                self._stop.set()
                for one in rest:
                    one.cancel()
        self._stop.clear()
        if failed:
            raise failed[0]

    @contextlib.contextmanager
    def locked(self, folder: Path) -> Iterator[None]:
        """One download per repository and box; the kernel lets go of it when this process dies."""
        path = folder.parent / ".locks" / folder.name / "pi0q.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self.tick(1)
                    time.sleep(LOCK_LOOK_SECONDS)
            yield

    @contextlib.contextmanager
    def lock_of_blob(self, folder: Path, blob: Blob) -> Iterator[None]:
        """huggingface_hub's own lock: someone may run `hf download` on this box by hand."""
        from filelock import FileLock, Timeout

        lock = FileLock(folder.parent / ".locks" / folder.name / f"{blob.name}.lock")
        while True:
            try:
                lock.acquire(timeout=LOCK_LOOK_SECONDS)
                break
            except Timeout:
                self.tick(1)
        try:
            # Parts of huggingface_hub 1.x, which itself never takes one up again.
            for part in (folder / "blobs").glob(f"{blob.name}.????????.incomplete"):
                part.unlink(missing_ok=True)
            yield
        finally:
            lock.release()


class Stopped(Exception):
    """Another file of the same repository failed."""


def _blob(name: str, size: int | None) -> Blob:
    if not _DIGEST.fullmatch(name) or size is None:
        raise WrongBytes("its list of files names no hashes or sizes")
    return Blob(name=name, size=size)


def _safe(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise WrongBytes(f"its list of files holds {name[:100]!r}")
    return name


def _token_is_unknown(error: Exception) -> bool:
    response = getattr(error, "response", None)
    told = response.headers.get("X-Error-Message") if response is not None else ""
    return getattr(response, "status_code", 0) == 401 and told == "Invalid credentials in Authorization header"


def main(kind: type[Desk] = Desk) -> None:
    """Carries out the order on standard input; `kind` says in which way."""
    order = json.loads(sys.stdin.readline())
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order["parent"]:
        return
    desk = kind(order)
    # Whatever a library prints is no line of ours.
    os.dup2(2, 1)
    try:
        desk.run()
    except Exception:
        desk.tell(bug=traceback.format_exc(limit=-6))
    # Threads that wait for the network would keep the process.
    os._exit(0)


if __name__ == "__main__":
    main()

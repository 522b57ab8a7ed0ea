"""The caches before the trainer: what a run needs of the Hub, at pinned commits, on the data disk.

    wanted -> prepare -> at_home, offline_env

After `prepare` the trainer can start with the network cut; `fetches` says how it is told where things lie.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pi0q.jobs.outcome import Reason
from pi0q.workers.run.fetches import Fetch, at_home, needs_network, offline_env, wanted
from pi0q.workers.run.refusals import Refused, lacking, refusal
from pi0q.workers.run.transfer import Blob, shown

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo, ModelInfo

__all__ = ["Fetch", "Refused", "at_home", "needs_network", "offline_env", "prepare", "wanted"]

Say = Callable[[str], None]

#: The tag that both LeRobots ask a dataset for (CODEBASE_VERSION in 0.4.4 and 0.6.1); main if there is none.
DATASET_TAG = "v3.0"
#: A snapshot without any of these is not one.
ESSENTIAL = {
    "dataset": ("meta/info.json",),
    "base": ("model.safetensors", "adapter_model.safetensors"),
    "tokenizer": ("tokenizer.json", "tokenizer.model"),
}
#: Seconds that the Hub has to say what a repository holds; huggingface_hub would wait for ever.
PATIENCE_SECONDS = 30.0
#: Before each further try of a download that the network broke off.
PAUSES_SECONDS = (0.0, 2.0, 10.0)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REF = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class _Plan:
    fetch: Fetch
    sha: str
    #: What the commit consists of; None: the Hub was not asked, the cache will do.
    blobs: tuple[Blob, ...] | None
    #: The branch or tag that named the commit.
    ref: str | None = None


def prepare(fetches: Iterable[Fetch], *, hf_home: Path, pins: Mapping[str, str], say: Say) -> dict[str, str]:
    """Brings everything into the cache; gives the commit of each, by `Fetch.pin`.

    Args:
        pins: Commits of an earlier run of this job; they win over what the Hub has now.
        say: Told a line at a time what goes on, at most twice a second; also from another thread.

    Raises:
        Refused: The Hub would not, or the disk, and the cache does not hold all of it either.
    """
    plans = [_plan(fetch, hf_home, pins.get(fetch.pin), say) for fetch in fetches]
    asked = {plan.fetch.folder(hf_home) / "blobs": plan.blobs for plan in plans if plan.blobs}
    with shown(asked, say):
        done = [_fetched(plan, hf_home, pins.get(plan.fetch.pin), say) for plan in plans]
    return {plan.fetch.pin: plan.sha for plan in done}


def _plan(fetch: Fetch, hf_home: Path, pin: str | None, say: Say) -> _Plan:
    try:
        ref, info = _ask(fetch, pin)
    except Exception as error:
        return _from_cache(fetch, hf_home, pin, error, say)
    blobs = tuple(
        Blob(name=str(file.lfs.sha256 if file.lfs else file.blob_id), size=file.size or 0)
        for file in info.siblings or []
        if fetch.takes(file.rfilename)
    )
    return _Plan(fetch=fetch, sha=str(info.sha), blobs=blobs, ref=ref)


def _ask(fetch: Fetch, pin: str | None) -> tuple[str | None, ModelInfo | DatasetInfo]:
    """What the Hub holds at the pin, else under the first name that exists, and that name."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    *likely, last = [pin] if pin else _names(fetch)
    for name in [*likely, last]:
        try:
            info = HfApi(library_name="pi0q").repo_info(
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
            return (None if pin else name), info  # type: ignore[return-value]
    raise AssertionError("the last name either answers or raises")


def _fetched(plan: _Plan, hf_home: Path, pin: str | None, say: Say) -> _Plan:
    """Downloads what the cache lacks of it, or finds that the cache will do."""
    fetch, folder = plan.fetch, plan.fetch.folder(hf_home)
    if plan.blobs is not None:
        mark = _mark(folder, plan.sha)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _drop_orphans(folder)
            mark.touch()
            _download(fetch, plan.sha, hf_home / "hub")
            mark.unlink(missing_ok=True)
        except Exception as error:
            plan = _from_cache(fetch, hf_home, pin, error, say)
    if not _is_whole(fetch, hf_home, plan.sha):
        raise lacking(f"{fetch.kind} {fetch.repo_id}", ESSENTIAL[fetch.kind][0], plan.sha)
    for name in {plan.ref, "main" if fetch.repo_type == "model" and not fetch.revision else None} - {None}:
        _point(folder, str(name), plan.sha)
    return plan


def _download(fetch: Fetch, sha: str, cache: Path) -> None:
    """Takes up again what a cut left, a few times; huggingface_hub itself does so for some cuts only."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    patterns = list(fetch.patterns) if fetch.patterns else None
    for pause in (*PAUSES_SECONDS, None):
        try:
            snapshot_download(
                fetch.repo_id, repo_type=fetch.repo_type, revision=sha, cache_dir=cache, allow_patterns=patterns
            )
            return
        except Exception as error:
            refused = refusal(error, fetch.kind, fetch.pin)
            if pause is None or refused is None or refused.reason is not Reason.NETWORK:
                raise
        time.sleep(pause)


def _from_cache(fetch: Fetch, hf_home: Path, pin: str | None, error: Exception, say: Say) -> _Plan:
    """The commit that the cache holds whole, since the Hub failed us; raises if there is none."""
    refused = refusal(error, f"{fetch.kind} {fetch.repo_id}", fetch.pin)
    if refused is None:
        raise error
    folder = fetch.folder(hf_home)
    cached = [pin] if pin else [_read_ref(folder, name) for name in _names(fetch)]
    for sha in cached:
        if sha and refused.reason is not Reason.DISK_FULL and _is_whole(fetch, hf_home, sha):
            say(f"{refused.why}; going on with the copy in this box's cache (commit {sha[:8]})")
            return _Plan(fetch=fetch, sha=sha, blobs=None)
    raise refused from error


def _is_whole(fetch: Fetch, hf_home: Path, sha: str) -> bool:
    snapshot = fetch.snapshot(hf_home, sha)
    return (
        any((snapshot / name).is_file() for name in ESSENTIAL[fetch.kind])
        and not _mark(fetch.folder(hf_home), sha).exists()
        and all(path.exists() for path in snapshot.rglob("*"))
    )


def _mark(folder: Path, sha: str) -> Path:
    """Is there while a download of that commit is under way, or was broken off."""
    return folder / f".pi0q-fetching-{sha}"


def _drop_orphans(folder: Path) -> None:
    """Removes part files of killed downloads: huggingface_hub 1.x never takes one up again."""
    from filelock import FileLock, Timeout

    for part in (folder / "blobs").glob("*.????????.incomplete"):
        lock = folder.parent / ".locks" / folder.name / f"{part.name.partition('.')[0]}.lock"
        with contextlib.suppress(Timeout, OSError), FileLock(lock, timeout=0):
            part.unlink(missing_ok=True)


def _point(folder: Path, name: str, sha: str) -> None:
    """Lets a branch or tag name this commit in the cache."""
    if not _REF.fullmatch(name) or _COMMIT.fullmatch(name) or _read_ref(folder, name) == sha:
        return
    path = folder / "refs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(sha)
    fresh.replace(path)


def _read_ref(folder: Path, name: str) -> str | None:
    if _COMMIT.fullmatch(name):
        return name
    path = folder / "refs" / name
    return path.read_text().strip() if _REF.fullmatch(name) and path.is_file() else None


def _names(fetch: Fetch) -> list[str]:
    """Branches and tags that may name the commit wanted, likeliest first."""
    if fetch.revision:
        return [fetch.revision]
    return [DATASET_TAG, "main"] if fetch.repo_type == "dataset" else ["main"]

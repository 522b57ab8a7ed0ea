"""Copies of a job's checkpoints in a private repository of the Hub, below a directory of the job's id.

A copy is one commit, its manifest in it: it is there whole or not at all. What of it has come to the Hub before that
is never sent again: the Hub says so of each large file.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0q.jobs.checkpoint import MANIFEST, File, Manifest, step_of
from pi0q.jobs.copies import HUB, path_of, superfluous
from pi0q.workers.run import blobs, copy_files
from pi0q.workers.run.copy_directory import NotThere
from pi0q.workers.run.copy_files import Damaged, Watched, WrongBytes
from pi0q.workers.run.transfer import Blob

#: Commits that others may slip in before ours is given up for this time.
TRIES = 8
#: Seconds that the Hub has for an answer.
PATIENCE_SECONDS = 60.0
#: HTTP: the branch has moved since `parent_commit`.
_MOVED = 412
LOGIN = "run `hf auth login` on the box with a token that may write"


@dataclass(frozen=True, kw_only=True)
class Head:
    """What the repository holds now."""

    sha: str
    #: Its content by path; a blob's name is a SHA-256 for a large file, else git's hash.
    files: Mapping[str, Blob]


class Repository:
    """The copies of one job."""

    def __init__(self, repo_id: str, job: str, *, endpoint: str, watched: Watched) -> None:
        from huggingface_hub import HfApi

        self.repo_id, self.job, self.endpoint, self.watched = repo_id, job, endpoint, watched
        self.api = HfApi(endpoint, library_name="pi0q")

    def names(self) -> dict[int, str]:
        """The copies that have a manifest, by step."""
        return self._names(self._head())

    def put(self, checkpoint: Path, manifest: Manifest, text: str) -> str:
        """Copies a checkpoint; its path. Raises NotThere, Damaged, WrongBytes, Lost, and errors of the Hub."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        name, below = checkpoint.name, f"{self.job}/{checkpoint.name}/"
        head = self._head(make=True)
        path = path_of(HUB + self.repo_id, self.job, name)
        known = head.files.get(below + MANIFEST)
        if known and known.name in _names_of(text.encode()):
            return path
        self.watched.expect(manifest.bytes)
        changes: list[Any] = []
        for file, what in sorted(manifest.files.items()):
            add = CommitOperationAdd(below + file, checkpoint / file)
            if (add.upload_info.size, add.upload_info.sha256.hex()) != (what.bytes, what.sha256):
                raise Damaged(f"{file} has other bytes than were saved")
            self.watched.must()
            self.api.preupload_lfs_files(self.repo_id, [add])
            self.watched.tick(what.bytes)
            changes.append(add)
        changes.append(CommitOperationAdd(below + MANIFEST, text.encode()))
        # Of another try or epoch, and no part of this checkpoint.
        ours = {change.path_in_repo for change in changes}
        changes += [CommitOperationDelete(old) for old in head.files if old.startswith(below) and old not in ours]
        self._verify(self._commit(changes, f"{self.job}: checkpoint {name}"), below, checkpoint, manifest)
        return path

    def prune(self, keep: int, spared: Collection[int]) -> list[int]:
        """Removes what newer copies replace, and its bytes from the account's storage; the steps that went."""
        from huggingface_hub import CommitOperationDelete

        head = self._head()
        names = self._names(head)
        gone = superfluous(names, keep, spared)
        below = tuple(f"{self.job}/{names[step]}/" for step in gone)
        if below and (old := [path for path in head.files if path.startswith(below)]):
            steps = ", ".join(map(str, gone))
            self._commit([CommitOperationDelete(path) for path in old], f"{self.job}: without {steps}")
            self._free({head.files[path].name for path in old})
        return gone

    def fetch(self, name: str, target: Path) -> None:
        """Brings a copy back, to `target`, whole or not at all. Raises Damaged, WrongBytes, Lost, OSError …"""
        head, below = self._head(), f"{self.job}/{name}/"
        target.mkdir(parents=True, exist_ok=True)
        place = target / f"{MANIFEST}.came"
        self._bring(head, below + MANIFEST, place)
        text = place.read_bytes().decode("utf-8", "replace")
        place.unlink()
        manifest = copy_files.parsed(text, step_of(name))

        def bring(path: str, place: Path, file: File) -> None:
            blob = head.files.get(below + path)
            if blob is None or blob.size != file.bytes or (_is_large(blob) and blob.name != file.sha256):
                raise Damaged(f"{path} is gone" if blob is None else f"{path} has other bytes than were saved")
            self._bring(head, below + path, place)
            if not _is_large(blob) and copy_files.digest(place, self.watched) != file.sha256:
                raise Damaged(f"{path} has other bytes than were saved")

        copy_files.lay(target, manifest, text, bring=bring, watched=self.watched)

    def set_aside(self, name: str) -> None:
        """Left as it is: the Hub keeps its hashes itself."""

    def _bring(self, head: Head, path: str, place: Path) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = hf_hub_url(self.repo_id, path, revision=head.sha, endpoint=self.endpoint)
        source = blobs.Source(url=url, headers=build_hf_headers(library_name="pi0q"), tick=self.watched.tick)
        blob = head.files[path]
        blobs.bring(source, blob, place.parent)
        self.watched.must()
        (place.parent / blob.name).replace(place)

    # -- what is there --------------------------------------------------------------------------------

    def _head(self, *, make: bool = False, revision: str | None = None) -> Head:
        """Raises NotThere for a repository that everyone can read."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = self._ask(revision)
        except RepositoryNotFoundError:
            if not make:
                return Head(sha="", files={})
            self.watched.must()
            self.api.create_repo(self.repo_id, private=True, exist_ok=True)
            info = self._ask(None)
        if not info.private:
            raise NotThere(
                f"{HUB}{self.repo_id} is public, and copies go to private repositories only: make it private in its "
                "settings, or name another"
            )
        found = {}
        for file in info.siblings or []:
            name, size = (file.lfs.sha256, file.lfs.size) if file.lfs else (file.blob_id, file.size)
            found[str(file.rfilename)] = Blob(name=str(name), size=int(size or 0))
        return Head(sha=str(info.sha), files=found)

    def _ask(self, revision: str | None) -> Any:
        return self.api.repo_info(self.repo_id, revision=revision, files_metadata=True, timeout=PATIENCE_SECONDS)

    def _names(self, head: Head) -> dict[int, str]:
        found = {}
        for path in head.files:
            job, _, rest = path.partition("/")
            name, _, file = rest.partition("/")
            if (job, file) == (self.job, MANIFEST) and (step := step_of(name)) is not None:
                found[step] = name
        return found

    def _verify(self, sha: str, below: str, checkpoint: Path, manifest: Manifest) -> None:
        found = self._head(revision=sha).files
        for path, file in manifest.files.items():
            blob = found.get(below + path)
            good = {file.sha256} if blob and _is_large(blob) else _names_of((checkpoint / path).read_bytes())
            if blob is None or blob.size != file.bytes or blob.name not in good:
                raise WrongBytes(f"the Hub holds {path} with other bytes than were sent")

    # -- changing it ----------------------------------------------------------------------------------

    def _commit(self, changes: list[Any], message: str) -> str:
        """One commit on top of what was there while the lease held: whoever comes too late is refused."""
        from huggingface_hub.errors import HfHubHTTPError

        for left in reversed(range(TRIES)):
            head = self.api.repo_info(self.repo_id, timeout=PATIENCE_SECONDS).sha
            self.watched.must()
            try:
                done = self.api.create_commit(self.repo_id, changes, commit_message=message, parent_commit=head)
                return str(done.oid)
            except HfHubHTTPError as error:
                # Another job's copy came between.
                if not left or getattr(error.response, "status_code", 0) != _MOVED:
                    raise
        raise AssertionError("the last try either returns or raises")

    def _free(self, names: Collection[str]) -> None:
        """What no commit of main shows any more still counts as the account's storage until it is removed itself."""
        with contextlib.suppress(Exception):
            shown = {blob.name for blob in self._head().files.values()}
            below = f"{self.job}/"
            gone = [
                file
                for file in self.api.list_lfs_files(self.repo_id)
                if file.oid in set(names) - shown and file.filename.startswith(below)
            ]
            self.watched.must()
            self.api.permanently_delete_lfs_files(self.repo_id, gone, rewrite_history=False)


def _is_large(blob: Blob) -> bool:
    return len(blob.name) == 64


def _names_of(body: bytes) -> set[str]:
    """What the Hub may call a file of this content."""
    return {hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest(), hashlib.sha256(body).hexdigest()}

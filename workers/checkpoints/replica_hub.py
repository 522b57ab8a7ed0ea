"""Copies of a job's checkpoints in a private repository of the Hub, below a directory named after the job.

A copy is one commit with its manifest: it is complete or not there at all. Large files that came to the Hub before a
kill are not sent again: the Hub knows them by their hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0q.jobs.checkpoint import MANIFEST, File, Manifest, step_of, to_remove
from pi0q.jobs.replicas import HUB, path_of
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.workers.checkpoints import transfer
from pi0q.workers.checkpoints.replica_directory import TargetUnusable
from pi0q.workers.checkpoints.transfer import Damaged, TransferCorrupted, TransferHooks
from pi0q.workers.hub import blobs
from pi0q.workers.hub.blobs import Blob
from pi0q.workers.hub.errors import classify

#: Tries to commit while others commit in between.
TRIES = 8
#: Timeout of one request to the Hub, seconds.
PATIENCE_SECONDS = 60.0
#: HTTP status: the branch has moved since `parent_commit`.
_MOVED = 412
LOGIN = "run `hf auth login` on the box with a token that may write"


@dataclass(frozen=True, kw_only=True)
class Head:
    """The repository's content at one commit."""

    sha: str
    #: Files by path; a blob's name is a SHA-256 for a large file, else git's hash.
    files: Mapping[str, Blob]


class ReplicaRepository:
    """The copies of one job."""

    def __init__(self, repo_id: str, job: str, *, endpoint: str, hooks: TransferHooks) -> None:
        from huggingface_hub import HfApi

        self.repo_id, self.job, self.endpoint, self.hooks = repo_id, job, endpoint, hooks
        self.api = HfApi(endpoint, library_name="pi0q")

    def names(self) -> dict[int, str]:
        """Return the names of the complete copies by step."""
        return self._names(self._head())

    def put(self, checkpoint: Path, manifest: Manifest, text: str) -> str:
        """Copy a checkpoint; return the path of the copy.

        Raises TargetUnusable, Damaged, TransferCorrupted, OwnershipLost, and errors of the Hub.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        name, below = checkpoint.name, f"{self.job}/{checkpoint.name}/"
        head = self._head(make=True)
        path = path_of(HUB + self.repo_id, self.job, name)
        known = head.files.get(below + MANIFEST)
        if known and known.name in _names_of(text.encode()):
            return path
        self.hooks.expect(manifest.bytes)
        changes: list[Any] = []
        for file, what in sorted(manifest.files.items()):
            add = CommitOperationAdd(below + file, checkpoint / file)
            if (add.upload_info.size, add.upload_info.sha256.hex()) != (what.bytes, what.sha256):
                raise Damaged(f"{file} has other bytes than were saved")
            self.hooks.require_lease()
            self.api.preupload_lfs_files(self.repo_id, [add])
            self.hooks.count(what.bytes)
            changes.append(add)
        changes.append(CommitOperationAdd(below + MANIFEST, text.encode()))
        # Left by another try or claim, and no part of this checkpoint.
        ours = {change.path_in_repo for change in changes}
        changes += [CommitOperationDelete(old) for old in head.files if old.startswith(below) and old not in ours]
        self._verify(self._commit(changes, f"{self.job}: checkpoint {name}"), below, checkpoint, manifest)
        return path

    def prune(self, keep: int, spared: Collection[int], *, newest: int | None = None) -> list[int]:
        """Remove what newer copies replace, also from the account's storage; return the removed steps.

        `newest` as for copies in a directory.
        """
        from huggingface_hub import CommitOperationDelete

        head = self._head()
        names = {step: name for step, name in self._names(head).items() if newest is None or step <= newest}
        gone = to_remove(names, keep, spared)
        below = tuple(f"{self.job}/{names[step]}/" for step in gone)
        if below and (old := [path for path in head.files if path.startswith(below)]):
            steps = ", ".join(map(str, gone))
            self._commit([CommitOperationDelete(path) for path in old], f"{self.job}: without {steps}")
            self._free({head.files[path].name for path in old})
        return gone

    def fetch(self, name: str, target: Path, *, known: Collection[str] | None = None, below: str = "") -> None:
        """Bring a copy back to `target`, complete or not at all; `known` are the accepted manifests (SHA-256).

        `below`: only the files whose paths begin so.

        Raises Damaged (also Foreign), TransferCorrupted, OwnershipLost, OSError and errors of the Hub.
        """
        head, folder = self._head(), f"{self.job}/{name}/"
        target.mkdir(parents=True, exist_ok=True)
        place = target / f"{MANIFEST}.came"
        self._download(head, folder + MANIFEST, place)
        text = place.read_bytes().decode("utf-8", "replace")
        place.unlink()
        transfer.require_known(text, known)
        manifest = transfer.parse_manifest(text, step_of(name))
        self.hooks.judge(manifest)

        def fetch(path: str, place: Path, file: File) -> None:
            blob = head.files.get(folder + path)
            if blob is None or blob.size != file.bytes or (_is_large(blob) and blob.name != file.sha256):
                raise Damaged(f"{path} is gone" if blob is None else f"{path} has other bytes than were saved")
            self._download(head, folder + path, place)
            if not _is_large(blob) and transfer.sha256_of(place, self.hooks) != file.sha256:
                raise Damaged(f"{path} has other bytes than were saved")

        transfer.assemble(target, manifest.part(below), text, fetch=fetch, hooks=self.hooks)

    def set_aside(self, name: str) -> None:
        """Do nothing: the Hub checks the hashes of its files itself."""

    def _download(self, head: Head, path: str, place: Path) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = hf_hub_url(self.repo_id, path, revision=head.sha, endpoint=self.endpoint)
        source = blobs.Source(url=url, headers=build_hf_headers(library_name="pi0q"), count=self.hooks.count)
        blob = head.files[path]
        blobs.download(source, blob, place.parent)
        self.hooks.require_lease()
        (place.parent / blob.name).replace(place)

    # -- what is there --------------------------------------------------------------------------------

    def _head(self, *, make: bool = False, revision: str | None = None) -> Head:
        """Return the present content. Raises TargetUnusable for a public repository."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = self._ask(revision)
        except RepositoryNotFoundError:
            if not make:
                return Head(sha="", files={})
            self.hooks.require_lease()
            self.api.create_repo(self.repo_id, private=True, exist_ok=True)
            info = self._ask(None)
        if not info.private:
            raise TargetUnusable(
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
                raise TransferCorrupted(f"the Hub holds {path} with other bytes than were sent")

    # -- changing it ----------------------------------------------------------------------------------

    def _commit(self, changes: list[Any], message: str) -> str:
        """Commit on top of what was there while the lease held: a commit of a former owner is refused."""
        from huggingface_hub.errors import HfHubHTTPError

        for left in reversed(range(TRIES)):
            head = self.api.repo_info(self.repo_id, timeout=PATIENCE_SECONDS).sha
            self.hooks.require_lease()
            try:
                done = self.api.create_commit(self.repo_id, changes, commit_message=message, parent_commit=head)
                return str(done.oid)
            except HfHubHTTPError as error:
                # Another job's copy was committed in between.
                if not left or getattr(error.response, "status_code", 0) != _MOVED:
                    raise
        raise AssertionError("the last try either returns or raises")

    def _free(self, names: Collection[str]) -> None:
        """Delete large files that `main` shows no more: until then they count as the account's storage.

        Where the Hub, the network or the lease does not allow it they stay; the copies are removed all the same.
        """
        try:
            shown = {blob.name for blob in self._head().files.values()}
            gone = [
                file
                for file in self.api.list_lfs_files(self.repo_id)
                if file.oid in set(names) - shown and file.filename.startswith(f"{self.job}/")
            ]
            self.hooks.require_lease()
            self.api.permanently_delete_lfs_files(self.repo_id, gone, rewrite_history=False)
        except OwnershipLost:
            return
        except Exception as error:
            if classify(error, f"the copies in {HUB}{self.repo_id}", self.repo_id) is None:
                raise


def _is_large(blob: Blob) -> bool:
    return len(blob.name) == 64


def _names_of(body: bytes) -> set[str]:
    """Return the names that the Hub may give a file of this content."""
    return {hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest(), hashlib.sha256(body).hexdigest()}

"""Helper process that pushes a policy to the Hub, see push.py; hub/helper_base.py has what is common to all.

    ..., "push": {"repo": ..., "private": ..., "folder": ..., "sha256": {name: ...}, "texts": {name: ...},
                 "xet": true}                                                                            on stdin
    {"pushed": address, "commit": sha} | {"n": 0, "refused": {...}}                                      on stdout

The Hub addresses content by its hash, so what it has from a try that was cut is not sent again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi0q.jobs.outcome import Reason
from pi0q.workers.host import helper_base
from pi0q.workers.hub.errors import HubError
from pi0q.workers.hub.helper_base import HubHelper
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.postrun.push import SUFFIXES

#: LeRobot's own commit message.
MESSAGE = "Upload policy weights, train config and readme"
#: Added to the niceness: a training comes first.
NICE = 10
#: Bytes between two heartbeats that the check itself reads, at most.
LOOK_BYTES = 4096


class PushHelper(HubHelper):
    """Pushes one policy over one route."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(request)
        self.push: Mapping[str, Any] = request["push"]
        self.repo = str(self.push["repo"])
        self._read = 0

    def run(self) -> None:
        """Create the repository where there is none, send what it lacks, then make one commit of it."""
        if not self.push["xet"]:
            os.environ["HF_HUB_DISABLE_XET"] = "1"
        os.nice(NICE)
        self.import_hub()
        self._read = _bytes_read()
        self.start_heartbeat()
        with self.reporting(0, Fetch(kind="repository", repo_id=self.repo, repo_type="model")):
            try:
                self.send()
            except HubError as error:
                self.emit(n=0, refused=error.to_json())

    def progressed(self) -> bool:
        """Return whether files were read, which is what happens while they are hashed and sent."""
        before, self._read = self._read, _bytes_read()
        self.counted = self._read - before
        # This check itself reads some.
        return self.counted > LOOK_BYTES

    def send(self) -> None:
        """Push. Raises HubError, and errors of the Hub and the network."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import BadRequestError, HfHubHTTPError

        api = HfApi(self.endpoint, token=self.token, library_name="pi0q")
        try:
            api.create_repo(self.repo, private=self.push["private"], exist_ok=True)
            additions = self.additions()
            size = sum(addition.upload_info.size for addition in additions)
            self.emit(say=f"uploading {size / 1e9:.1f} GB" if size > 1e8 else f"uploading {size / 1e6:.1f} MB")
            api.preupload_lfs_files(self.repo, additions=additions)
            done = api.create_commit(self.repo, operations=additions, commit_message=MESSAGE)
        except (BadRequestError, HfHubHTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (400, 422):
                answer = str(getattr(error, "server_message", "") or "").strip() or f"HTTP {status}"
                why = f"the Hub rejected the push to {self.repo}: {answer}"
                raise HubError(reason=Reason.SPEC_REFUSED, why=why) from None
            raise
        self.emit(pushed=f"{self.endpoint}/{self.repo}", commit=str(done.oid))

    def additions(self) -> list[Any]:
        """Return what goes into the commit. Raises HubError where a file is not what was verified."""
        from huggingface_hub import CommitOperationAdd

        folder, texts = Path(self.push["folder"]), self.push["texts"]
        additions = [CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.suffix in SUFFIXES and path.is_file() and name not in texts:
                self.emit(say=f"reading {name}")
                addition = CommitOperationAdd(name, str(path))
                if addition.upload_info.sha256.hex() != self.push["sha256"].get(name):
                    why = f"{path} is damaged: its SHA-256 is not that of the verified checkpoint"
                    raise HubError(reason=Reason.SPEC_REFUSED, why=why)
                additions.append(addition)
        return additions


def _bytes_read() -> int:
    """Return how many bytes this process has read from files and connections."""
    with open("/proc/self/io", encoding="ascii") as file:  # noqa: PTH123 (no file of ours)
        return int(file.readline().split()[1])


def main() -> None:
    helper_base.main(PushHelper)


if __name__ == "__main__":
    main()

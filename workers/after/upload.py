"""The process that pushes a policy to the Hub, see push.py; download.py says how it is ordered and heard.

    ..., "push": {"repo": ..., "private": ..., "folder": ..., "sha256": {name: ...}, "texts": {name: ...},
                 "xet": true}                                                                            on stdin
    {"pushed": address, "commit": sha} | {"n": 0, "refused": {...}} | {"say": ...} | {"alive": 1234}     on stdout

Content is addressed by its hash on the Hub, so what is there already, from a try that was cut, is not sent again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi0q.jobs.outcome import Reason
from pi0q.workers.after.push import SUFFIXES
from pi0q.workers.run import download
from pi0q.workers.run.fetches import Fetch
from pi0q.workers.run.refusals import Refused

#: What LeRobot says of its commit.
MESSAGE = "Upload policy weights, train config and readme"
#: How much more polite this is than a training.
NICE = 10
#: Bytes between two looks that are more than the look itself.
LOOK_BYTES = 4096


class Upload(download.Desk):
    """One push over one way."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        super().__init__(order)
        self.push: Mapping[str, Any] = order["push"]
        self.repo = str(self.push["repo"])

    def run(self) -> None:
        """Makes the repository where there is none, sends what it lacks, then makes one commit of it."""
        if not self.push["xet"]:
            os.environ["HF_HUB_DISABLE_XET"] = "1"
        import huggingface_hub  # noqa: F401

        os.nice(NICE)
        self.tell(alive=0)
        threading.Thread(target=self.pulse, daemon=True).start()
        with self.told(0, Fetch(kind="repository", repo_id=self.repo, repo_type="model")):
            try:
                self.send()
            except Refused as refused:
                self.tell(n=0, refused=refused.to_json())

    def pulse(self) -> None:
        """Tells that files are read, which is what happens while they are hashed and sent."""
        before = _bytes_read()
        while True:
            time.sleep(download.PULSE_SECONDS)
            read, before = _bytes_read() - before, _bytes_read()
            # This look itself reads some.
            if read > LOOK_BYTES:
                self.tell(alive=read)

    def send(self) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import BadRequestError, HfHubHTTPError

        api = HfApi(self.endpoint, token=self.token, library_name="pi0q")
        try:
            api.create_repo(self.repo, private=self.push["private"], exist_ok=True)
            additions = self.additions()
            size = sum(one.upload_info.size for one in additions)
            self.tell(say=f"uploading {size / 1e9:.1f} GB" if size > 1e8 else f"uploading {size / 1e6:.1f} MB")
            api.preupload_lfs_files(self.repo, additions=additions)
            done = api.create_commit(self.repo, operations=additions, commit_message=MESSAGE)
        except (BadRequestError, HfHubHTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (400, 422):
                said = str(getattr(error, "server_message", "") or "").strip() or f"HTTP {status}"
                raise Refused(
                    reason=Reason.SPEC_REFUSED, why=f"the Hub takes {self.repo} not: {said}", detail=""
                ) from None
            raise
        self.tell(pushed=f"{self.endpoint}/{self.repo}", commit=str(done.oid))

    def additions(self) -> list[Any]:
        """What goes into the commit; raises Refused where a file is not what was verified."""
        from huggingface_hub import CommitOperationAdd

        folder, texts = Path(self.push["folder"]), self.push["texts"]
        found = [CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.suffix in SUFFIXES and path.is_file() and name not in texts:
                self.tell(say=f"reading {name}")
                one = CommitOperationAdd(name, str(path))
                if one.upload_info.sha256.hex() != self.push["sha256"].get(name):
                    why = f"{path} is not what was verified when it was saved: it is damaged"
                    raise Refused(reason=Reason.SPEC_REFUSED, why=why, detail=why)
                found.append(one)
        return found


def _bytes_read() -> int:
    """Bytes that this process has read from files and connections."""
    with open("/proc/self/io", encoding="ascii") as file:  # noqa: PTH123 (no file of ours)
        return int(file.readline().split()[1])


if __name__ == "__main__":
    download.main(Upload)

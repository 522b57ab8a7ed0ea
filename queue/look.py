"""A look at the Hub while a job is submitted: what can be known here and now, in a second, and no more.

Each box asks again with its own token before it takes the job; so only what is wrong for certain is a fault here.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from pi0q.jobs import dataset
from pi0q.jobs.dataset import Facts
from pi0q.jobs.errors import UsageError
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings

#: Seconds that a submit waits for the Hub; without its answer the job is queued all the same.
PATIENCE_SECONDS = 1.5
#: Bytes of `meta/info.json` that are read; a real one has some thousands.
MOST_BYTES = 1 << 20
#: The tag that LeRobot asks a dataset for first.
TAG = "v3.0"


class Look:
    """Looks at the datasets of some jobs, beside whatever else is done meanwhile."""

    def __init__(self, specs: Sequence[Spec], settings: Settings) -> None:
        self.settings, self._until = settings, time.monotonic() + PATIENCE_SECONDS
        self._answers: dict[str, int | Facts] = {}
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            specs = ()
        self.specs = [spec for spec in specs if not spec.train.get("dataset.root")]
        self._threads = [threading.Thread(target=self._look, args=(spec,), daemon=True) for spec in self.specs[:20]]
        for thread in self._threads:
            thread.start()

    def notes(self) -> list[str]:
        """What the user should know. Raises UsageError for what no box could train."""
        for thread in self._threads:
            thread.join(max(0.0, self._until - time.monotonic()))
        told, faults = [], []
        for spec in self.specs:
            name = str(spec.train["dataset.repo_id"])
            answer = self._answers.get(name)
            if isinstance(answer, Facts) and (why := dataset.fault(answer, spec.train)):
                faults.append(f"  {spec.name}: {why}")
            elif answer in (401, 403, 404):
                told.append(
                    f"{spec.name}: the Hub shows this machine no dataset {name} (HTTP {answer}). If it is private, a "
                    "box's token may read it; if not, the job ends before it takes a GPU."
                )
        if faults:
            raise UsageError("\n".join(["No box could train this; nothing was queued.", *faults]))
        return told

    def _look(self, spec: Spec) -> None:
        name = str(spec.train["dataset.repo_id"])
        named = spec.train.get("dataset.revision")
        answer: int | Facts = 0
        for revision in [str(named)] if named else [TAG, "main"]:
            # Where a mirror is set, the Hub itself would be silent for longer than a submit waits.
            hub = self.settings.hf_mirror or self.settings.hf_endpoint
            answer = self._ask(f"{hub}/datasets/{name}/resolve/{revision}/meta/info.json")
            if answer != 404:
                break
        self._answers[name] = answer

    def _ask(self, address: str) -> int | Facts:
        """What the dataset says of itself, or the status of a refusal; 0 where nobody answered."""
        asked = urllib.request.Request(address, headers={"User-Agent": "pi0q"})
        if not self.settings.hf_mirror and (token := _token()):
            # Not followed to where large files lie: only the Hub itself gets it.
            asked.add_unredirected_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:
                return Facts.read(json.loads(answer.read(MOST_BYTES)))
        except urllib.error.HTTPError as refused:
            refused.close()
            return refused.code
        except (OSError, ValueError, RecursionError, HTTPException):
            # Whoever answers may be no Hub at all: a login page, a broken proxy.
            return 0


def _token() -> str:
    if told := os.environ.get("HF_TOKEN"):
        return told.strip()
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    try:
        return (Path(home).expanduser() / "token").read_text(encoding="utf-8").strip()
    except (OSError, ValueError, RuntimeError):
        return ""

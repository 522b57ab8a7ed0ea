"""Questions to the Hub while a job is submitted: what can be known here and now, in a second, and no more.

Each box asks again with its own token before it takes the job; so only what is wrong for certain is a fault here.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from pi0q.jobs import dataset
from pi0q.jobs.dataset import DatasetInfo, Images
from pi0q.jobs.errors import UsageError
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings

#: Seconds that a submit waits for the Hub; without its answer the job is queued all the same.
PATIENCE_SECONDS = 1.5
#: Bytes of `meta/info.json` that are read; a real one has some thousands.
MOST_BYTES = 1 << 20
#: Seconds for which a good answer is remembered, and how many are. A fault is asked about anew: it may be mended.
REMEMBERED_SECONDS, MOST_REMEMBERED = 600.0, 200
#: The tag that LeRobot asks a dataset for first.
TAG = "v3.0"


class RememberedAnswers:
    """Good answers of the last minutes, in a file: who submits ten files of one dataset asks once."""

    def __init__(self, path: Path, now: float) -> None:
        """`now`: seconds since 1970."""
        self.path, self.now = path, now
        self._answers: dict[str, tuple[float, dict[str, object]]] = {}
        try:
            for address, (at, info) in json.loads(path.read_text(encoding="utf-8")).items():
                if 0 <= now - float(at) < REMEMBERED_SECONDS:
                    self._answers[str(address)] = (float(at), dict(info))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            pass

    def get(self, address: str) -> DatasetInfo | None:
        """Return what the dataset said of itself; None where nothing is remembered."""
        try:
            info = DatasetInfo(**self._answers[address][1])  # type: ignore[arg-type]
        except (KeyError, TypeError):
            return None
        return info if isinstance(info.format, str) and isinstance(info.episodes, int | None) else None

    def keep(self, new: dict[str, DatasetInfo]) -> None:
        """Remember these, too; where the file cannot be written nothing is."""
        if not new:
            return
        self._answers |= {address: (self.now, asdict(info)) for address, info in new.items()}
        newest = sorted(self._answers.items(), key=lambda item: -item[1][0])[:MOST_REMEMBERED]
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.touch(mode=0o600)
            fresh.write_text(json.dumps(dict(newest)), encoding="utf-8")
            fresh.replace(self.path)
        except OSError:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)


class DatasetLookup:
    """Asks the Hub about the datasets of some jobs, in threads of its own."""

    def __init__(self, specs: Sequence[Spec], settings: Settings) -> None:
        self.settings, self._until = settings, time.monotonic() + PATIENCE_SECONDS
        self._answers: dict[str, int | DatasetInfo] = {}
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            specs = ()
        self.specs = [spec for spec in specs if not spec.train.get("dataset.root")]
        self._remembered = RememberedAnswers(settings.home / "hub_answers.json", time.time())
        for spec in self.specs:
            known = self._remembered.get(self._address(spec))
            if known and not dataset.fault(known, spec.train):
                self._answers[str(spec.train["dataset.repo_id"])] = known
        asked = [spec for spec in self.specs if spec.train["dataset.repo_id"] not in self._answers]
        self._threads = [threading.Thread(target=self._look_up, args=(spec,), daemon=True) for spec in asked[:20]]
        for thread in self._threads:
            thread.start()

    def notes(self) -> list[str]:
        """Return what the user should know. Raises UsageError for what no box could train."""
        for thread in self._threads:
            thread.join(max(0.0, self._until - time.monotonic()))
        told, faults, good = [], [], dict[str, DatasetInfo]()
        for spec in self.specs:
            name = str(spec.train["dataset.repo_id"])
            answer = self._answers.get(name)
            if isinstance(answer, DatasetInfo):
                if why := dataset.fault(answer, spec.train):
                    faults.append(f"  {spec.name}: {why}")
                elif self._remembered.get(self._address(spec)) is None:
                    good[self._address(spec)] = answer
            elif answer in (401, 403, 404):
                told.append(
                    f"{spec.name}: the Hub shows this machine no dataset {name} (HTTP {answer}). If it is private, a "
                    "box's token may read it; if not, the job ends before it takes a GPU."
                )
        self._remembered.keep(good)
        if faults:
            raise UsageError("\n".join(["No box could train this; nothing was queued.", *faults]))
        return told

    def images(self, spec: Spec) -> Images | None:
        """Return the images of the job's dataset as far as the Hub has stated them; call it after `notes`."""
        answer = self._answers.get(str(spec.train.get("dataset.repo_id")))
        return answer.images if isinstance(answer, DatasetInfo) and not spec.train.get("dataset.root") else None

    def _address(self, spec: Spec) -> str:
        """Return where the dataset is asked for and which revision: what an answer is remembered by."""
        hub = self.settings.hf_mirror or self.settings.hf_endpoint
        return f"{hub} {spec.train['dataset.repo_id']} {spec.train.get('dataset.revision') or ''}"

    def _look_up(self, spec: Spec) -> None:
        name = str(spec.train["dataset.repo_id"])
        named = spec.train.get("dataset.revision")
        answer: int | DatasetInfo = 0
        for revision in [str(named)] if named else [TAG, "main"]:
            # Where a mirror is set, the Hub itself would be silent for longer than a submit waits.
            hub = self.settings.hf_mirror or self.settings.hf_endpoint
            answer = self._ask(f"{hub}/datasets/{name}/resolve/{revision}/meta/info.json")
            if answer != 404:
                break
        self._answers[name] = answer

    def _ask(self, address: str) -> int | DatasetInfo:
        """Return the dataset's own description, or the HTTP status of a refusal; 0 where nobody answered."""
        import urllib.error
        import urllib.request
        from http.client import HTTPException

        asked = urllib.request.Request(address, headers={"User-Agent": "pi0q"})
        if not self.settings.hf_mirror and (token := hub_token()):
            # Not followed to where large files lie: only the Hub itself gets it.
            asked.add_unredirected_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:
                return DatasetInfo.read(json.loads(answer.read(MOST_BYTES)))
        except urllib.error.HTTPError as refused:
            refused.close()
            return refused.code
        except (OSError, ValueError, RecursionError, HTTPException):
            # Whoever answers may be no Hub at all: a login page, a broken proxy.
            return 0


def hub_token() -> str:
    """Return the user's token of the Hub on this machine; "" if there is none."""
    if told := os.environ.get("HF_TOKEN"):
        return told.strip()
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    try:
        return (Path(home).expanduser() / "token").read_text(encoding="utf-8").strip()
    except (OSError, ValueError, RuntimeError):
        return ""

"""Questions to the Hub at submit about the weights that jobs start from: config.json and safetensors headers, some kB.

Only the first bytes of a file of weights are read. Whoever answers is not trusted: base_facts checks each number. What
a commit holds is remembered; which commit a branch means is asked again after ten minutes.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pi0q.jobs.estimates import base_facts, policy_sizes
from pi0q.jobs.estimates.base_facts import ADAPTER, CONFIG, INDEX, MOST_CONFIG, MOST_INDEX, WEIGHTS, BaseFacts, Tensor
from pi0q.jobs.schema import trained_model
from pi0q.jobs.spec import Spec
from pi0q.queue.hub_lookup import PATIENCE_SECONDS, REMEMBERED_SECONDS, hub_token
from pi0q.queue.settings import Settings

#: Bases of one submit that are asked about, and commits that are remembered.
MOST_ASKED, MOST_REMEMBERED = 20, 200
#: Where the commit of an answer stands.
COMMIT = "X-Repo-Commit"


class BaseLookup:
    """Asks the Hub about the bases of some jobs, in threads of its own."""

    def __init__(self, specs: Sequence[Spec], settings: Settings) -> None:
        self.settings, self._until = settings, time.monotonic() + PATIENCE_SECONDS
        self._memory = _Memory(settings.home / "hub_bases.json", time.time())
        self._facts: dict[tuple[str, str], BaseFacts] = {}
        wanted = dict.fromkeys(one for spec in specs if (one := _repository(spec)))
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            wanted = {}
        self._threads = [
            threading.Thread(target=self._look_up, args=one, daemon=True) for one in [*wanted][:MOST_ASKED]
        ]
        for thread in self._threads:
            thread.start()

    def facts(self, spec: Spec) -> BaseFacts | None:
        """Return what the Hub told of the job's base within the patience of a submit; None where it told nothing."""
        for thread in self._threads:
            thread.join(max(0.0, self._until - time.monotonic()))
        self._memory.write()
        wanted = _repository(spec)
        return self._facts.get(wanted) if wanted else None

    def _look_up(self, repo: str, revision: str) -> None:
        hub = self.settings.hf_mirror or self.settings.hf_endpoint
        named = f"{hub} {repo} {revision}"
        if known := self._memory.of_name(named):
            self._facts[repo, revision] = known
            return
        place = f"{hub}/{repo}/resolve/{revision or 'main'}"
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            if (answer := self._get(f"{place}/{CONFIG}", MOST_CONFIG)) is None:
                return
            config, commit = answer
            found = self._memory.of_commit(f"{repo}@{commit}") if commit else None
            if found is None:
                found = self._read(f"{hub}/{repo}/resolve/{commit or revision or 'main'}", config)
            if found:
                self._facts[repo, revision] = found
                self._memory.keep(named, f"{repo}@{commit}" if commit else "", found)

    def _read(self, place: str, config: bytes) -> BaseFacts | None:
        """Return the facts of a model; None where its files can't be read."""
        if (header := self._header(f"{place}/{WEIGHTS}")) is not None:
            return base_facts.facts(config, header)
        if index := self._get(f"{place}/{INDEX}", MOST_INDEX):
            parts = [self._header(f"{place}/{name}") for name in base_facts.files_of(index[0])]
            return None if None in parts else base_facts.facts(config, [one for part in parts for one in part or ()])
        adapter = self._get(f"{place}/{ADAPTER}", MOST_CONFIG)
        return base_facts.facts(config, (), adapter=True) if adapter else None

    def _header(self, address: str) -> list[Tensor] | None:
        """Return the tensors that a file of weights names; None where there is no such file, or no answer."""
        first = self._get(address, 8, begin=0)
        if first is None:
            return None
        size = base_facts.header_bytes(first[0])
        header = self._get(address, size, begin=8)
        return base_facts.tensors(header[0]) if header and len(header[0]) == size else None

    def _get(self, address: str, most: int, begin: int | None = None) -> tuple[bytes, str] | None:
        """Return the first `most` bytes of a file, from `begin` on, and the commit; None for any refusal."""
        import urllib.error
        import urllib.request
        from http.client import HTTPException

        asked = urllib.request.Request(address, headers={"User-Agent": "pi0q"})
        if begin is not None:
            asked.add_header("Range", f"bytes={begin}-{begin + most - 1}")
        if not self.settings.hf_mirror and (token := hub_token()):
            # Not followed to where large files lie: only the Hub itself gets it.
            asked.add_unredirected_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:
                if begin is not None and answer.status != 206:
                    # All of the file would come.
                    skipped = answer.read(begin)
                    return (answer.read(most), "") if len(skipped) == begin else None
                body = answer.read(most if begin is not None else most + 1)
                commit = str(answer.headers.get(COMMIT) or "")
                good = len(commit) == 40 and set(commit) <= set("0123456789abcdef")
                return body, commit if good else ""
        except (OSError, ValueError, HTTPException, urllib.error.URLError):
            return None


def _repository(spec: Spec) -> tuple[str, str] | None:
    """Return the repository and revision of the weights that the job starts from; None where none are on the Hub."""
    if not policy_sizes.is_on_hub(spec):
        return None
    return str(policy_sizes.base(spec)), str(
        spec.train.get(f"{trained_model.section(spec.train)}.pretrained_revision") or ""
    )


class _Memory:
    """What commits hold, and which commits names meant in the last minutes, in a file."""

    def __init__(self, path: Path, now: float) -> None:
        self.path, self.now, self._changed = path, now, False
        self._lock = threading.Lock()
        self._names: dict[str, tuple[float, str]] = {}
        self._commits: dict[str, BaseFacts] = {}
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            found = json.loads(path.read_text(encoding="utf-8"))
            self._commits = {str(name): base_facts.from_json(told) for name, told in found["commits"].items()}
            self._names = {str(name): (float(at), str(commit)) for name, (at, commit) in found["names"].items()}

    def of_name(self, name: str) -> BaseFacts | None:
        """Return what a name meant in the last minutes."""
        at, commit = self._names.get(name, (0.0, ""))
        return self._commits.get(commit) if 0 <= self.now - at < REMEMBERED_SECONDS else None

    def of_commit(self, commit: str) -> BaseFacts | None:
        """Return what a commit holds."""
        return self._commits.get(commit)

    def keep(self, name: str, commit: str, found: BaseFacts) -> None:
        """Remember an answer; one that names no commit is not remembered."""
        if commit:
            with self._lock:
                self._commits[commit], self._names[name] = found, (self.now, commit)
                self._changed = True

    def write(self) -> None:
        """Write what is new; where the file cannot be written nothing is remembered."""
        with self._lock:
            if not self._changed:
                return
            self._changed = False
            names = dict(sorted(self._names.items(), key=lambda item: -item[1][0])[:MOST_REMEMBERED])
            commits = {
                commit: self._commits[commit].to_json() for _, commit in names.values() if commit in self._commits
            }
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.touch(mode=0o600)
            fresh.write_text(json.dumps({"names": names, "commits": commits}), encoding="utf-8")
            fresh.replace(self.path)
        except OSError:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)

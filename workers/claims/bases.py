"""What is known of the weights that jobs start from: of the record, else of this box's own directories and cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pi0q.jobs import start_point
from pi0q.jobs.estimates import policy_sizes
from pi0q.jobs.estimates.base_facts import BaseFacts
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import start_sources
from pi0q.workers.host import base_files
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.trainer import owner_rules

#: Directories of which the facts are remembered.
MOST_REMEMBERED = 200


@dataclass
class Bases:
    """Reads bases of this box, each once as long as its config.json stays the same."""

    settings: Settings
    _known: dict[tuple[Path, float], BaseFacts | None] = field(default_factory=dict)

    def of(self, job: Record, spec: Spec) -> BaseFacts | None:
        """Return the facts of the job's base; None where none are known."""
        if job.base:
            return job.base
        directory = self._directory(job, spec)
        try:
            key = (directory, (directory / "config.json").stat().st_mtime) if directory else None
        except OSError:
            return None
        if directory is None or key is None:
            return None
        if key not in self._known:
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[key] = base_files.read(directory)
        return self._known[key]

    def _directory(self, job: Record, spec: Spec) -> Path | None:
        """Return where the base lies on this box; None where it does not."""
        base = policy_sizes.base(spec)
        if not base:
            return None
        if base.startswith("/"):
            return None if owner_rules.weights_problem(spec, self.settings) else Path(base)
        if start_point.parse(base):
            found = start_sources.on_disk(self.settings.runs, job.starts_from) if job.starts_from else None
            return found / "pretrained_model" if found else None
        sha = job.pins.get(base)
        return Fetch(kind="base", repo_id=base, repo_type="model").snapshot(self.settings.hf_home, sha) if sha else None

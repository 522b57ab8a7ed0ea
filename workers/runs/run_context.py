"""Run context: the facts of one run that do not change while it goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pi0q.jobs.checkpoint import Manifest
from pi0q.jobs.errors import BadRecord, Pi0qError
from pi0q.jobs.job_id import is_job_id
from pi0q.jobs.record import Record, from_hash
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.runs import ledger as ledgers
from pi0q.workers.runs.job_trust import JobTrust
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.run_request import RunRequest

log = logging.getLogger(__name__)


def _own_manifests(directory: RunDirectory) -> frozenset[str]:
    ledger = ledgers.read(directory.ledger)
    try:
        return from_hash(ledger.fields).known_manifests if ledger else frozenset()
    except BadRecord:
        return frozenset()


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """One run of one job under one claim."""

    request: RunRequest
    #: The record as it was when the run began.
    record: Record
    #: The same as it lies on the server, with what only another version of pi0q knows, for the box's ledger.
    raw: Mapping[str, str]
    spec: Spec
    settings: Settings
    directory: RunDirectory
    #: The box that owns the job.
    box: str
    #: SHA-256 of the manifests of the checkpoints that this box's ledger of an earlier run names.
    own_manifests: frozenset[str] = frozenset()

    @cached_property
    def trust(self) -> JobTrust:
        """Whose job files and checkpoints this box trusts."""
        return JobTrust(self.settings.home, self.settings.prefix)

    def sign_manifest(self, manifest: Manifest) -> Manifest:
        """Return a checkpoint's manifest with this box's signature; unsigned where that can't be made now.

        A training is worth more than the signature of one of its checkpoints.
        """
        try:
            return self.trust.sign_manifest(manifest, job=self.job_id, box=self.box)
        except (Pi0qError, OSError, ModuleNotFoundError) as error:
            log.warning("checkpoint %d is not signed: %s", manifest.step, error)
            return manifest

    @property
    def lineage(self) -> frozenset[str]:
        """The job, and the ended jobs whose checkpoints are its own by what its submitter signed."""
        signature = self.record.any_signature
        return frozenset({self.job_id, *(signature.lineage if signature else ())})

    @classmethod
    def load(cls, request: RunRequest, settings: Settings, store: Store) -> RunContext:
        """Read the job from the queue.

        Raises NotFound, BadRecord, NotTrustedJob where this box does not trust its file, and SpecError for a spec that
        is none.
        """
        if not is_job_id(request.job_id):
            raise BadRecord(request.job_id, "id", "is not a job's id")
        record, raw = store.get_with_raw(request.job_id)
        # Again: the record may have changed since the claim.
        JobTrust(settings.home, settings.prefix).require(record)
        directory = RunDirectory(settings.runs / request.job_id)
        return cls(
            request=request,
            record=record,
            raw=raw,
            spec=Spec.from_json(record.spec),
            settings=settings,
            directory=directory,
            box=request.box or str(record.box),
            own_manifests=_own_manifests(directory),
        )

    @property
    def job_id(self) -> str:
        return self.request.job_id

    @property
    def epoch(self) -> int:
        """The claim number."""
        return self.request.epoch

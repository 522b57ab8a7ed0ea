"""What a report about a failed job holds: record, evidence, end of the log, versions; names redacted. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pi0q.jobs.failures.redaction import Redactor
from pi0q.jobs.record import Record

#: Grows when a reader of reports must know.
FORMAT = 1
#: Names of the files in a report.
REPORT, LOG, READ_ME = "report.json", "log.txt", "README.txt"
#: Bytes of the log's end, and events of the history, that are kept.
LOG_BYTES, EVENTS = 64 * 1024, 40
#: Keys of the job file that hold a repository, a path or a name of the user's.
_REPOSITORIES = (
    "dataset.repo_id", "policy.repo_id", "policy.path", "policy.pretrained_path", "reward_model.path",
    "reward_model.pretrained_path", "policy.text_tokenizer_name", "checkpoints.copy_to",
)  # fmt: skip
#: Keys of the job file that are nobody's business.
_PRIVATE = ("wandb.notes", "wandb.run_id", "job_name")
_TEXT = """\
A report about one failed job of pi0q, to be attached to an issue.
report.json: the job's flags, what was seen of its end, and versions. log.txt: the last lines of its log.
Secrets, users, hosts, owners of repositories and WandB entities were replaced by stand-ins like <owner-1>; please look
through both files before you publish them.
A developer takes it into the tests with: python -m tests.corpus add FILE
"""


@dataclass(frozen=True, kw_only=True)
class Source:
    """All that a report is made of."""

    record: Record
    #: The job's `train`, flat.
    train: Mapping[str, Any]
    log: str
    #: What its box announces; empty if it is not known.
    box: Mapping[str, str]
    #: Names of things -> versions, of the machine that makes the report.
    versions: Mapping[str, str]
    #: Directories on this machine and on the box -> their stand-ins; users and hosts of this machine.
    paths: Mapping[str, str]
    users: Sequence[str] = ()
    hosts: Sequence[str] = ()


def files(source: Source, redactor: Redactor) -> dict[str, str]:
    """Return the files of a report, name -> text, without secrets and names."""
    record = source.record
    _teach(source, redactor)
    content = {
        "format": FORMAT,
        "versions": dict(source.versions) | {"pi0q of the box": source.box.get("version", "")},
        "job": {
            "id": record.id,
            "state": record.state.value,
            "reason": record.reason.value if record.reason else "",
            "detail": record.detail,
            "attempt": record.attempt,
            "claim": record.epoch,
            "needs": dict(record.needs),
            "steps": record.steps,
            "vram_peak_mib": record.vram_peak_mib,
        },
        "train": {name: value for name, value in source.train.items() if name not in _PRIVATE},
        "seen": list(map(str, record.evidence.get("seen") or ())),
        "fix": str(record.evidence.get("cure") or ""),
        "facts": record.facts,
        "gpus": _cards(source.box.get("gpus", "")),
        "history": [
            {"state": event.state.value, "reason": event.reason.value if event.reason else "", "text": event.text}
            for event in record.history[-EVENTS:]
        ],
    }
    shown = json.dumps(redactor.value(content), indent=2, ensure_ascii=False, default=str)
    return {READ_ME: _TEXT, REPORT: shown + "\n", LOG: redactor.text(source.log[-LOG_BYTES:])}


def _teach(source: Source, redactor: Redactor) -> None:
    """Tell the redactor each name that the record and this machine know."""
    record, train = source.record, source.train
    for path, stand_in in source.paths.items():
        redactor.path(path, stand_in)
    user, _, host = record.submitter.partition("@")
    for one in (user, *source.users):
        redactor.name(one, "user")
    for one in (host, *source.hosts):
        redactor.name(one, "host")
    redactor.name(record.box, "box")
    redactor.name(record.name, "job")
    for key in _REPOSITORIES:
        redactor.repository(train.get(key))
    for pin in record.pins:
        redactor.repository(pin)
    redactor.repository(record.push.get("repo"))
    redactor.name(str(train.get("wandb.entity") or ""), "entity")
    redactor.name(str(train.get("wandb.project") or ""), "project")
    facts = json.dumps(record.facts, ensure_ascii=False, default=str)
    redactor.learn(
        [
            source.log,
            record.wandb_url or "",
            record.swanlab_url or "",
            record.detail,
            facts,
            *(event.text for event in record.history),
        ]
    )


def _cards(told: str) -> list[dict[str, Any]]:
    """Return name and size of a box's GPUs; no UUIDs."""
    try:
        cards = json.loads(told or "[]")
    except ValueError:
        return []
    kept = ("name", "total_mib", "simulated")
    return [{name: card.get(name) for name in kept} for card in cards if isinstance(card, dict)][:16]

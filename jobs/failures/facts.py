"""The evidence of a trainer's end as values of JSON: in the record, in a report, in the corpus of the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pi0q.jobs.failures.evidence import Evidence, GpuState, Memory
from pi0q.jobs.failures.raised import Raised

#: Characters of an exception's text and of each text behind it that are kept; exceptions behind it, frames of each.
TEXT, CAUSE_TEXT, CAUSES, FRAMES = 2000, 600, 4, 9
#: Numbers that are kept by their names.
_NUMBERS = ("step", "silent_seconds", "shm_mib", "shm_free_mib", "disk_free_mib", "disk_free_inodes", "vram_peak_mib")
_MEMORY = ("oom_kills", "limit_mib", "used_mib", "peak_mib")


def dump(evidence: Evidence) -> dict[str, Any]:
    """Return all of the evidence but the log and the job's own values; what is unknown is left out."""
    found: dict[str, Any] = {"exit": evidence.exit_code, "heard": evidence.heard, "lerobot": evidence.lerobot}
    found |= {name: getattr(evidence, name) for name in _NUMBERS}
    found["memory"] = _known(asdict(evidence.memory))
    found["gpus"] = [_known({**asdict(gpu), "uuid": "", "xids": list(gpu.xids)}) for gpu in evidence.gpus]
    if error := evidence.raised():
        found["error"] = _raised(error, TEXT)
        found["causes"] = [_raised(cause, CAUSE_TEXT) for cause in evidence.behind()[:CAUSES]]
    return _known(found)


def load(told: Mapping[str, Any], *, train: Mapping[str, Any], log: Sequence[str]) -> Evidence:
    """Return the evidence of `dump`; what is of the wrong type counts as unknown."""
    memory, gpus = told.get("memory"), told.get("gpus")
    known = memory if isinstance(memory, dict) else {}
    return Evidence(
        exit_code=whole(told.get("exit")) or 0,
        error=Raised.from_json(told.get("error")),
        causes=tuple(cause for one in _list(told.get("causes"))[:CAUSES] if (cause := Raised.from_json(one))),
        log=tuple(log),
        heard=str(told.get("heard") or "")[:20],
        memory=Memory(container=known.get("container") is True, **{name: whole(known.get(name)) for name in _MEMORY}),
        gpus=tuple(_gpu(one) for one in _list(gpus)[:64] if isinstance(one, dict)),
        train=train,
        lerobot=str(told.get("lerobot") or "")[:40],
        **{name: whole(told.get(name)) for name in _NUMBERS},
    )


def whole(value: Any) -> int | None:
    """Return a number as a whole one; None for what is none."""
    return (
        int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53 else None
    )


def _raised(raised: Raised, length: int) -> dict[str, Any]:
    return _known({
        "type": raised.kind, "module": raised.module, "message": raised.text[:length], "bases": list(raised.bases),
        "errno": raised.errno, "status": raised.status, "frames": list(raised.frames[-FRAMES:]),
    })  # fmt: skip


def _gpu(told: Mapping[str, Any]) -> GpuState:
    xids = (whole(number) for number in _list(told.get("xids"))[:64])
    return GpuState(
        uuid="",
        name=str(told.get("name") or "")[:80],
        lost=str(told.get("lost") or "")[:200],
        xids=tuple(number for number in xids if number is not None),
        ecc_errors=whole(told.get("ecc_errors")) or 0,
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", [], {}, ()) and value is not False}

"""Each log of the corpus is given its class, and what its user reads says what happened and what to do."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.failures import facts
from pi0q.jobs.failures.classify import diagnose
from pi0q.jobs.failures.diagnosis import Diagnosis, judge
from pi0q.jobs.failures.evidence import Evidence, GpuState, Memory
from pi0q.jobs.failures.raised import Raised
from pi0q.jobs.outcome import OUTCOMES, Next, Reason

CORPUS = Path(__file__).with_name("corpus")
#: Words that a user can do nothing with, alone.
BARE = re.compile(r"^(?:the trainer ended with )?(?:exit (?:code|status) )?-?\d+\.?$|^SystemExit: ?\d*$|^\w+: ?$")


@dataclass(frozen=True)
class Log:
    """One log and what its header says of it."""

    name: str
    head: dict[str, Any]
    lines: tuple[str, ...]

    def evidence(self, *, hooked: bool = True) -> Evidence:
        """What a box would have seen; without a hook only exit code and log."""
        if "facts" in self.head:
            told = facts.load(self.head["facts"], train=self.head["train"], log=self.lines)
            return told if hooked else replace(told, error=None, causes=())
        gpus = tuple(
            GpuState(uuid="GPU-1", **{**gpu, "xids": tuple(gpu.get("xids", ()))}) for gpu in self.head.get("gpus", ())
        )
        return Evidence(
            exit_code=self.head["exit"],
            error=raised(self.head["error"]) if hooked and self.head.get("error") else None,
            causes=tuple(map(raised, self.head.get("causes", ()))) if hooked else (),
            step=self.head.get("step"),
            log=self.lines,
            heard=self.head.get("heard", ""),
            memory=Memory(oom_kills=(self.head.get("memory") or {}).get("oom_kill")),
            shm_mib=self.head.get("shm_mib"),
            gpus=gpus,
            train=train(self.head.get("argv", "")),
            lerobot=self.head["lerobot"],
        )


def raised(told: Any) -> Raised:
    """An exception as the hook sends it, as `[name, text]`, or as the hook of older entries: `Name: text`."""
    if isinstance(told, dict):
        found = Raised.from_json(told)
        assert found
        return found
    kind, text = told.split(": ", 1) if isinstance(told, str) else told
    return Raised.of(kind, text)


def train(argv: str) -> dict[str, Any]:
    flags = dict(re.findall(r"--([\w.]+)=(\S+)", argv))
    return {name: int(value) if value.isdigit() else value for name, value in flags.items()}


def read(path: Path) -> Log:
    head, _, log = path.read_text(encoding="utf-8").partition("\n\n")
    told = dict(line.removeprefix("# ").split(": ", 1) for line in head.splitlines())
    return Log(path.stem, {key: json.loads(value) for key, value in told.items()}, tuple(log.splitlines()))


LOGS = [read(path) for path in sorted(CORPUS.glob("*.log"))]
NAMES = [log.name for log in LOGS]


def test_it_holds_real_runs_of_both_versions_and_quotes_that_name_their_source() -> None:
    real = [log for log in LOGS if log.head["source"].startswith("a real run")]
    assert {log.head["lerobot"] for log in real} == {"0.6.1", "0.4.4"} and len(real) >= 80
    assert all(
        log.head["source"].startswith(("a real run", "a real exception", "a report of pi0q", "https://"))
        for log in LOGS
    )


@pytest.mark.parametrize("log", LOGS, ids=NAMES)
def test_each_has_its_class(log: Log) -> None:
    assert diagnose(log.evidence()).value == log.head["reason"]


@pytest.mark.parametrize("log", [log for log in LOGS if not log.head.get("unhooked_differs")], ids=lambda log: log.name)
def test_the_log_alone_says_it_too(log: Log) -> None:
    """A LeRobot that can't be hooked, or a trainer that died before it could tell."""
    assert diagnose(log.evidence(hooked=False)).value == log.head["reason"]


@pytest.mark.parametrize("log", LOGS, ids=NAMES)
def test_what_is_read_is_never_a_bare_exit_code(log: Log) -> None:
    found = judge(log.evidence())
    reads_well(found)
    reads_well(judge(log.evidence(hooked=False)))
    for word in log.head.get("says", ()):
        assert word in f"{found.detail} {found.fix}"


def reads_well(found: Diagnosis) -> None:
    assert found.detail and not BARE.match(found.detail), found.detail
    assert len(found.detail) < 900 and "\n" not in found.detail
    assert len(found.fix.split()) >= 4 and found.fix[0].isupper()


def test_every_class_that_a_trainer_can_end_with_is_in_it() -> None:
    """Those of the box, the link and the user come from elsewhere than a trainer's end."""
    elsewhere = {
        Reason.FINISHED, Reason.CANCELLED_BY_USER, Reason.REHEARSAL_FAILED, Reason.CRASH_LOOP, Reason.RUNNER_LOST,
        Reason.BOX_RESTARTED, Reason.LEASE_EXPIRED, Reason.HELD, Reason.DISK_LOW, Reason.PLATFORM_KILLED,
        Reason.UNSAFE_WEIGHTS, Reason.TIME_LIMIT, Reason.EARLY_STOP,
        Reason.AFTER_JOB, Reason.AFTER_TIME, Reason.AFTER_FAILED, Reason.SWEEP, Reason.SWEEP_TURN,
        Reason.NOT_TRUSTED,
    }  # fmt: skip
    assert set(Reason) - elsewhere - {Reason(log.head["reason"]) for log in LOGS} == set()


def test_a_deterministic_failure_is_not_tried_again() -> None:
    lasting = [log for log in LOGS if OUTCOMES[Reason(log.head["reason"])].next is Next.FAIL]
    assert len(lasting) >= 40
    assert not [log.name for log in lasting if log.head["reason"] in ("trainer_killed", "network", "gpu_lost")]

"""When a job is held because no box has what it reads: pure, from what boxes announced."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from pi0q.queue import job_inputs, refusals
from pi0q.queue.refusals import BadInput, Problem, Refusal

SILENT = 30.0
JOB = Record(id="a1b2c3d4e5f6", name="x", state=State.QUEUED, priority="normal", submitter="", spec={},
             needs={"gpus": 1, "vram_mib": 40_000}, created_ms=1, updated_ms=1)  # fmt: skip
LACK = BadInput(what="weights", why="/data/w is not on this box", reason="weights_damaged")


def box(name: str, *why: Refusal, gib: int = 80, free: int = 80, **more: Any) -> dict[str, str]:
    """A box that announced these refusals of the job."""
    card = {"total_mib": gib * 1024, "free_mib": free * 1024, "name": "card", "uuid": f"GPU-{name}"}
    told = {"name": name, "seen_seconds": "1", "status": "ready", "slots": "1", "running": "0"}
    told |= {"gpus": json.dumps([card]), "free_mib": json.dumps([free * 1024])}
    if why:
        told["refusals"] = refusals.dumps({JOB.id: why})
    return {**told, **more}


def test_a_job_is_held_once_every_box_that_is_up_lacks_what_it_reads() -> None:
    found = job_inputs.verdict(JOB, [box("a", LACK), box("b", LACK)], SILENT)
    assert found is not None
    assert found.why == "weights: /data/w is not on this box (looked: a, b)"


@pytest.mark.parametrize(
    "other",
    [box("b"), box("b", Problem(text="disk")), box("b", free=1), box("b", drain="drain")],
    ids=["has not looked", "has it, and lacks something else", "is busy", "is drained"],
)
def test_a_job_waits_on_while_a_box_that_is_up_may_have_it(other: dict[str, str]) -> None:
    assert job_inputs.verdict(JOB, [box("a", LACK), other], SILENT) is None


@pytest.mark.parametrize("off", [{"status": "stopped"}, {"seen_seconds": "500"}], ids=["off", "lost"])
def test_a_box_that_is_off_or_lost_has_not_looked_whatever_it_announced(off: dict[str, str]) -> None:
    gone = {**box("c", LACK), **off}
    assert job_inputs.verdict(JOB, [gone], SILENT) is None, "nobody has looked"
    found = job_inputs.verdict(JOB, [box("a", LACK), gone], SILENT)
    assert found is not None
    assert found.why.endswith("(looked: a; c is off and did not look)")


def test_a_box_whose_card_is_too_small_for_the_job_is_not_waited_for() -> None:
    assert job_inputs.verdict(JOB, [box("a", LACK), box("small", gib=24, free=24)], SILENT) is not None
    on_cpu = replace(JOB, needs={"gpus": 0})
    assert job_inputs.verdict(on_cpu, [box("a", LACK), box("small", gib=24)], SILENT) is None


def test_what_one_box_can_mend_comes_before_what_is_in_the_file() -> None:
    in_file = BadInput(what="dataset", why="cameras", reason="spec_refused", in_file=True)
    found = job_inputs.verdict(JOB, [box("a", in_file), box("b", LACK)], SILENT)
    assert found is not None and not found.in_file
    alone = job_inputs.verdict(JOB, [box("a", in_file)], SILENT)
    assert alone is not None and alone.in_file

"""What a measured peak means for the next job of its shape."""

from __future__ import annotations

import json
import math

import pytest

from pi0q.jobs.vram_peak import CONTEXT_MIB, MARGIN, OOM_MARGIN, Peak, read, worst

PEAK = Peak(peak_mib=70_000, job="a1a1a1a1a1a1", box="box-a", at_ms=1_764_331_200_000)


def test_need_is_the_peak_with_context_and_margin_whatever_the_estimate_was() -> None:
    for estimate in (10, 200_000):
        assert PEAK.need_mib(estimate) == math.ceil((70_000 + CONTEXT_MIB) * MARGIN)


def test_need_after_an_out_of_memory_is_more_than_what_did_not_suffice() -> None:
    short = Peak(**{**PEAK.to_json(), "oom_mib": 80_000})
    assert short.need_mib(10) == math.ceil(80_000 * OOM_MARGIN)
    never_ran = Peak(**{**PEAK.to_json(), "peak_mib": 0, "oom_mib": 1000})
    assert never_ran.need_mib(5000) == 5000 and never_ran.need_mib(100) == math.ceil(1000 * OOM_MARGIN)


def test_sentence_names_job_box_and_day_and_the_estimate() -> None:
    assert PEAK.sentence(75_674) == ("measured on job a1a1a1a1a1a1 (box-a, 2025-11-28); the estimate said 73.9 GiB")
    short = Peak(**{**PEAK.to_json(), "oom_mib": 80_000})
    assert "ran out of memory with 78.1 GiB, job a1a1a1a1a1a1 (box-a, 2025-11-28)" in short.sentence(1)


def test_worst_is_the_one_of_which_most_is_needed() -> None:
    more = Peak(**{**PEAK.to_json(), "peak_mib": 70_001})
    assert worst([]) is None and worst([PEAK, more]) == more


@pytest.mark.parametrize(
    "change",
    [{"peak_mib": -1}, {"peak_mib": 2**40}, {"oom_mib": "5"}, {"job": "x"}, {"box": "a b"}, {"at_ms": 2**60}, {"x": 1}],
)
def test_read_takes_nothing_that_pi0q_does_not_write(change: dict[str, object]) -> None:
    assert read(json.dumps(PEAK.to_json())) == PEAK
    with pytest.raises(ValueError):
        read(json.dumps(PEAK.to_json() | change))

"""What a box without cards announces of its fetching: bounded, and read again only if it has that form."""

from __future__ import annotations

import json

import pytest

from pi0q.queue import box_fields
from pi0q.workers.staging.state import LONGEST, MOST_NAMED, MOST_PROBLEMS, StagingState


def test_what_is_announced_stays_short() -> None:
    jobs = tuple(f"job-{number}" for number in range(500))
    state = StagingState(ready=jobs, left=3, problems=dict.fromkeys(jobs, "x" * 9000))
    told = json.loads(state.to_json(no_gpu_mode=True, fetches=True))
    assert (told["ready_count"], len(told["ready"]), len(told["problems"])) == (500, MOST_NAMED, MOST_PROBLEMS)
    assert {len(text) for text in told["problems"].values()} == {LONGEST}
    assert box_fields.readable({"staging": json.dumps(told)})


def test_a_box_that_may_not_fetch_says_no_more() -> None:
    assert json.loads(StagingState().to_json(no_gpu_mode=True, fetches=False)) == {
        "no_gpu_mode": True,
        "fetches": False,
        "cards": [],
    }


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("staging", "[]"),
        ("staging", '{"phase": 1}'),
        ("staging", '{"left": -1}'),
        ("staging", '{"problems": ["x"]}'),
        ("staging", '{"problems": {"a": {}}}'),
        ("staging", '{"cards": {}}'),
        ("staging", '{"cards": [{"name": "x"}]}'),
        ("staging", '{"cards": [{"name": "x", "total_mib": -1}]}'),
        ("caches", "{}"),
        ("caches", '[{"name": "a/b"}]'),
        ("caches", '[{"name": 1, "mib": 2}]'),
        ("caches", '[{"name": "a/b", "mib": -2}]'),
        ("caches", json.dumps([{"name": "a/b", "mib": 1}] * 21)),
    ],
)
def test_what_no_box_can_have_announced_is_not_read(field: str, text: str) -> None:
    assert box_fields.readable({field: text, "note": "kept"}) == {"note": "kept"}

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs.estimates import duration
from pi0q.jobs.spec import Spec

PI0 = Spec(name="x", train={"dataset.repo_id": "a/b", "policy.type": "pi0", "batch_size": 32})


def test_the_guides_job_takes_hours() -> None:
    """0.71 s a step on an H100: 50,000 of them are ten hours."""
    assert 8 < duration.seconds(PI0, steps=50_000) / 3600 < 11


def test_the_jobs_own_speed_wins() -> None:
    assert duration.seconds(PI0, steps=100, step_seconds=2.0) == 200.0


@pytest.mark.parametrize(
    ("change", "steps", "wanted"),
    [
        ({}, 50_000, True),
        ({}, 500, False),
        ({"rehearse": "never"}, 50_000, False),
        ({"rehearse": "always"}, 5, True),
        ({"rehearsal": True, "rehearse": "always"}, 5, False),
        ({"train": {"policy.path": "a/b"}}, 50_000, False),
        ({"train": {"policy.type": "pi0_fast"}}, 50_000, False),
        ({"train": {"policy.type": "act", "policy.device": "cpu"}}, 20_000, True),
        ({"train": {"policy.type": "act"}}, 20_000, False),
    ],
)
def test_what_is_rehearsed(change: dict[str, Any], steps: int, wanted: bool) -> None:
    assert duration.wants_rehearsal(replace(PI0, **change), steps=steps) is wanted

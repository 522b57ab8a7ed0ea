from __future__ import annotations

from dataclasses import asdict

import pytest

from pi0q.queue.settings import Settings
from pi0q.queue.timing import timing


def test_the_default_lease_has_the_measured_times() -> None:
    known = Settings().timing
    assert (known.lease, known.fence, known.renew, known.socket) == (600.0, 480.0, 10.0, 5.0)
    assert (known.beat, known.sweep, known.silent, known.claim_holdoff) == (10.0, 30.0, 60.0, 60.0)


@pytest.mark.parametrize("lease", [3.0, 5.0, 60.0, 600.0, 86400.0])
def test_several_tries_fit_between_the_last_renewal_and_the_fence(lease: float) -> None:
    known = timing(lease, 0.8)
    assert known.renew + 2 * (known.socket + known.retry) < known.fence < known.lease
    # A server that came back hears every living box before any lease runs out.
    assert known.beat + known.socket + known.retry < known.claim_holdoff


def test_no_lease_makes_anything_slower_than_the_default() -> None:
    short, default = asdict(timing(60.0, 0.8)), asdict(timing(600.0, 0.8))
    assert all(short[name] <= default[name] for name in default)

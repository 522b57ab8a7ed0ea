"""A few inputs of each property, always the same ones; `make fuzz` tries more."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.properties import PROPERTIES, Property

#: Inputs of each property in CI.
EXAMPLES = 80


@pytest.mark.parametrize("one", PROPERTIES, ids=lambda one: one.name)
def test_property(one: Property) -> None:
    fixed = settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    fixed(given(one.inputs)(one.check))()

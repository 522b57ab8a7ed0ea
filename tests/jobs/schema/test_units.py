from __future__ import annotations

import pytest

from pi0q.jobs.schema.units import Size, Span
from pi0q.jobs.schema.value_types import Value, ValueType
from pi0q.jobs.schema.yaml_nodes import compose


def read(kind: ValueType, text: str) -> tuple[Value, list[str]]:
    """The value of a scalar as YAML gives it, and what was said of it."""
    told = list[str]()
    root, faults = compose(f"key: {text}")
    assert root is not None, faults
    ((_, node),) = root.value
    value = kind.read(node, lambda node, fault: told.append(fault))
    return value, told


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("90GiB", 92160), ("90 GiB", 92160), ("500MB", 477), ("1.5GB", 1431), ("0.5TiB", 524288), ("2TB", 1907349),
        ("1024KiB", 1), ("1025KiB", 2), ("1KB", 1), ("007MiB", 7),
    ],
)  # fmt: skip
def test_size_reads_decimal_and_binary_units(text: str, mib: int) -> None:
    assert read(Size(), text) == (mib, [])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0), ("90sec", 90.0), ("90 seconds", 90.0), ("1 second", 1.0), ("30min", 1800.0), ("30 m", 1800.0),
        ("1 minute", 60.0), ("1.5h", 5400.0), ("2 hours", 7200.0), ("0.5d", 43200.0), ("7 days", 604800.0),
    ],
)  # fmt: skip
def test_span_reads_each_unit_and_its_long_forms(text: str, seconds: float) -> None:
    assert read(Span(), text) == (seconds, [])


@pytest.mark.parametrize(
    "text", ["90gib", "90Gb", "90 G", "-1GiB", "1e3GiB", "1.GiB", ".5GiB", "90  GiB", "GiB", "90GiB/s"]
)
def test_size_refuses_other_forms(text: str) -> None:
    _, told = read(Size(), text)
    assert told == [f"must be a size with its unit, like 90GiB or 500MB, not `{text}`"]


@pytest.mark.parametrize("text", ["1w", "30 mins", "1 year", "500ms", "-1h", "1h30m", "h"])
def test_span_refuses_other_forms(text: str) -> None:
    _, told = read(Span(), text)
    assert told == [f"must be a duration with its unit, like 30min or 2h, not `{text}`"]


@pytest.mark.parametrize("text", ["0MiB", "0.0KB", "1025TiB", "9" * 400 + "GiB"])
def test_size_refuses_amounts_that_no_box_has(text: str) -> None:
    _, (told,) = read(Size(), text)
    assert told.startswith("must be from 1MiB to 1024TiB, not `")


@pytest.mark.parametrize("text", ["0s", "0.5s", "8d", "9" * 400 + "s"])
def test_span_refuses_less_than_a_second_and_more_than_a_week(text: str) -> None:
    _, (told,) = read(Span(), text)
    assert told.startswith("must be from 1 second to 7 days, not `")


def test_a_number_without_a_unit_is_told_how_to_write_it() -> None:
    assert read(Size(), "90")[1] == ["has no unit: write 90GiB (or GB, MiB, TB …)"]
    assert read(Span(), "30")[1] == ["has no unit: write 30min (or s, h, d)"]
    assert read(Span(), "1:30")[1] == ["has no unit: write it like 90min"]

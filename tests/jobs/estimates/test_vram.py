"""Estimates of VRAM, held against the peaks that were measured on one H200 (benchmarks/2026-11-29-vram.md)."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.dataset import Images
from pi0q.jobs.estimates import vram
from pi0q.jobs.schema.value_types import Value
from pi0q.jobs.spec import Spec

PEAKS = Path(__file__).parents[3] / "benchmarks/2026-11-29-vram.tsv"
#: Memory of the card they were measured on, MiB.
CARD_MIB = 143_771


def peaks() -> list[dict[str, Any]]:
    with PEAKS.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def estimated(row: dict[str, Any]) -> vram.Estimate:
    flags = {f"policy.{name}": value for name, value in json.loads(row["flags"]).items()}
    peft: dict[str, Value] = {"peft.method_type": "LORA", "peft.r": 16} if row["lora"] == "true" else {}
    spec = Spec(name="x", train={"policy.type": row["policy"], "batch_size": int(row["batch"]), **flags, **peft})
    images = Images(cameras=int(row["cameras"]), height=int(row["height"]), width=int(row["width"]))
    return vram.estimate(spec, images)


def name(row: dict[str, Any]) -> str:
    flags = ",".join(json.loads(row["flags"]))
    return f"{row['policy']}-{flags}-{row['lora']}-{row['batch']}-{row['cameras']}-{row['height']}"


@pytest.mark.parametrize("row", peaks(), ids=name)
def test_an_estimate_lies_at_most_a_quarter_above_the_measured_peak_and_never_below(row: dict[str, Any]) -> None:
    found = estimated(row)

    assert found.measured
    if not row["used_mib"]:
        assert found.mib > CARD_MIB, "it ran out of memory"
        return
    assert 1.0 <= found.mib / int(row["used_mib"]) <= 1.25


def test_another_policy_is_estimated_from_its_parameters_and_says_so() -> None:
    found = vram.estimate(Spec(name="x", train={"policy.type": "pi0_fast", "batch_size": 1}), Images(cameras=1))

    assert not found.measured
    assert found.mib > found.optimizer_mib

"""Metrics of a fleet, and the dashboard that shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pi0q.jobs.cost import Hold
from pi0q.ops.metrics.exposition import exposition
from pi0q.queue.reading import views
from pi0q.queue.store import Store
from tests.conftest import JobDriver
from tests.ops.top import top_fleet as fleet

DASHBOARD = Path(__file__).parents[3] / "ops" / "grafana" / "fleet.json"
HOLD = Hold(
    job="a1b2c3d4e5f6", name="n", user="ada", box="b", cards=1, box_cards=1, from_ms=1000, ran_ms=3000, saved_ms=0,
    to_ms=61_000, before=0, after="queued",
)  # fmt: skip


def samples(text: bytes) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return each metric with its labels and values, as Prometheus reads them."""
    return {
        family.name: [(sample.labels, sample.value) for sample in family.samples]
        for family in text_string_to_metric_families(text.decode())
    }


def test_fleet_is_told_in_numbers(store: Store, driver: JobDriver) -> None:
    ids = fleet.build(store, driver)
    found = samples(exposition(views.read(store, 60.0), [HOLD]))
    assert {labels["state"]: value for labels, value in found["pi0q_jobs"]} == {
        "running": 5, "queued": 3, "held": 1, "ended": 3
    }  # fmt: skip
    losses = {labels["name"]: value for labels, value in found["pi0q_job_loss"]}
    assert losses["grab_box_pi0_fmc3"] == 0.312 and "hot_lr_diverges" not in losses
    (progress,) = (v for labels, v in found["pi0q_job_progress_ratio"] if labels["job"] == ids["grab_box_pi0_fmc3"])
    assert progress == 0.625
    assert ({"box": "autodl-1", "card": "0"}, 74.0) in found["pi0q_card_temperature_celsius"]
    assert ({"box": "lab-old", "status": "unreachable"}, 1.0) in found["pi0q_box"]
    assert {labels["priority"] for labels, _ in found["pi0q_queue_wait_seconds"]} == {"urgent", "normal"}
    assert found["pi0q_lost_seconds"] == [({"cause": "queued"}, 60.0)] and found["pi0q_start_seconds"] == [({}, 2.0)]


def test_name_of_a_job_can_break_no_line(store: Store, driver: JobDriver) -> None:
    driver.run(driver.submit('evil"} 1\npi0q_jobs 9'))
    labels, _ = samples(exposition(views.read(store, 60.0)))["pi0q_job_progress_ratio"][0]
    assert labels["name"].startswith('evil"} 1')


def test_dashboard_asks_for_metrics_that_there_are(store: Store, driver: JobDriver) -> None:
    fleet.build(store, driver)
    known = samples(exposition(views.read(store, 60.0), [HOLD])).keys()
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"pi0q_[a-z_]+", target["expr"])
    }
    assert asked <= known
    assert asked >= {"pi0q_jobs", "pi0q_job_loss", "pi0q_card_memory_used_bytes", "pi0q_lost_seconds"}


def test_dashboard_has_the_parts_that_grafana_requires() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["uid"] and board["title"] and board["schemaVersion"] >= 36
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    (source,) = board["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    taken = set[tuple[int, int]]()
    for panel in board["panels"]:
        assert panel["type"] in {"timeseries", "stat", "bargauge"} and panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24 and (place["x"], place["y"]) not in taken
        taken.add((place["x"], place["y"]))
        assert [target["refId"] for target in panel["targets"]] == ["A", "B"][: len(panel["targets"])]
        assert all(target["expr"] and target["datasource"] == panel["datasource"] for target in panel["targets"])


def test_grafanas_own_types_know_every_part_of_the_dashboard() -> None:
    """Grafana itself is not at hand: its published types read the file, and nothing of it may be lost."""
    dashboard = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    board = json.loads(DASHBOARD.read_text())
    kept = json.loads(JSONEncoder(sort_keys=True).encode(dashboard.Dashboard.from_json(board)))
    assert list(lost(board, kept)) == []
    # What is left out here has defaults there that hide the names of lines.
    assert all(one["options"]["legend"]["showLegend"] for one in kept["panels"] if one["type"] == "timeseries")


def lost(ours: Any, kept: Any, where: str = "") -> Iterator[str]:
    """Yield where a document says something that a reader of it has not kept."""
    if isinstance(ours, dict):
        for key, value in ours.items():
            yield from lost(value, kept.get(key) if isinstance(kept, dict) else None, f"{where}.{key}")
    elif isinstance(ours, list):
        for at, value in enumerate(ours):
            same = isinstance(kept, list) and len(kept) == len(ours)
            yield from lost(value, kept[at] if same else None, f"{where}[{at}]")
    elif ours != kept:
        yield f"{where}: {ours!r}, kept {kept!r}"

"""Inputs that are fetched before a run: nothing is left in use, and a fetch that nobody wants any more ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pi0q.queue.settings import Settings
from pi0q.workers.host import usage_locks
from pi0q.workers.hub import snapshots
from pi0q.workers.hub.fetch import Abandoned
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.hub.session import Pins
from pi0q.workers.staging import inputs
from tests.standin_hub import Fault, StandInHub

pytest.importorskip("huggingface_hub")

BIG = bytes(range(256)) * 80_000
BASE = Fetch(kind="base", repo_id="you/base", repo_type="model")


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        hub.commit("model", BASE.repo_id, {"config.json": b"{}", "model.safetensors": BIG})
        yield hub


@pytest.fixture
def chosen(tmp_path: Path, hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    home = tmp_path / "home"
    home.mkdir()
    own = Settings(home=home, hf_home=home / "huggingface", network_turbo=home / "none")
    return replace(own, hf_endpoint=hub.url, roads=("hub",))


def held_below(home: Path) -> list[Path]:
    """Marks of use that this test left; others of this process may hold their own."""
    return [mark for mark in usage_locks._held if mark.is_relative_to(home)]


def test_a_fetch_that_nobody_wants_any_more_ends_and_the_next_goes_on_from_there(
    hub: StandInHub, chosen: Settings
) -> None:
    fault = Fault(path=f"/cdn/{hub.digest(BIG)}", times=1, halfway=threading.Event())
    hub.faults.append(fault)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(Abandoned):
        inputs.fetch(
            [BASE],
            chosen,
            pins=Pins({}),
            on_phase=lambda phase: None,
            may_go_on=lambda: not (fault.halfway and fault.halfway.is_set() and inputs.parts_bytes(BASE, chosen)),
        )
    assert set(psutil.Process().children(recursive=True)) == before, "the download's process is gone"
    assert held_below(chosen.home) == []
    kept = inputs.parts_bytes(BASE, chosen)
    assert kept > 0
    fault.resume.set()
    hub.forget()
    commits = inputs.fetch([BASE], chosen, pins=Pins({}), on_phase=lambda phase: None)
    assert snapshots.is_complete(BASE, chosen.hf_home, commits[BASE.pin])
    assert hub.served < len(BIG) - kept + 10_000
    assert held_below(chosen.home) == [] and inputs.parts_bytes(BASE, chosen) == 0

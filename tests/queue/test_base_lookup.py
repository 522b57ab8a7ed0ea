"""The look at a base on the Hub while a job is submitted: some kB of config.json and headers, before a stand-in Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pi0q.queue import base_lookup, hub_lookup
from pi0q.queue.store import Store
from tests.conftest import Command
from tests.jobs.estimates.test_base_facts import header
from tests.standin_hub import Fault, StandInHub

JOB = "train: {{dataset: {{repo_id: l/d, root: d}}, policy: {{{policy}, push_to_hub: false}}, steps: 5}}"
BY_PATH = "path: you/base"
WEIGHTS = {"model.backbone.w": ("F32", [300, 1000]), "model.head.w": ("F32", [100, 100])}


def weights(**tensors: Any) -> bytes:
    """A file of weights as safetensors writes it."""
    head = header(**(tensors or WEIGHTS))
    size = sum(told["data_offsets"][1] for name, told in json.loads(head).items() if name != "__metadata__")
    return len(head).to_bytes(8, "little") + head + bytes(size)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    for module in (hub_lookup, base_lookup):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 60.0)
    with StandInHub() as hub:
        yield hub


def commit(hub: StandInHub, **files: bytes) -> str:
    found = {"config.json": b'{"type": "act", "freeze_vision_encoder": true}', "model.safetensors": weights()}
    named = {name.replace("__", "-"): body for name, body in files.items()}
    return hub.commit("model", "you/base", {**found, **named}, refs=("main",))


def base(call: Command, hub: StandInHub, store: Store, policy: str = BY_PATH) -> Any:
    told = call(
        "submit", "-", "--again", "--json", stdin=JOB.format(policy=policy), HF_HUB_OFFLINE="", PI0Q_HF_ENDPOINT=hub.url
    )
    assert told.returncode == 0, told.stderr
    return store.get(json.loads(told.stdout)["id"]).base


def test_a_submit_reads_config_and_header_and_no_weights(call: Command, hub: StandInHub, store: Store) -> None:
    commit(hub)
    found = base(call, hub, store)
    assert (found.policy, found.params, found.bytes) == ("act", 310_000, 1_240_000)
    assert found.settings == {"freeze_vision_encoder": True}
    asked = [one for one in hub.requests if "model.safetensors" in one.path or one.range]
    assert asked and all(one.range for one in asked)
    assert {one.range for one in asked} == {"bytes=0-7", f"bytes=8-{7 + len(header(**WEIGHTS))}"}


def test_a_sharded_model_is_the_sum_of_its_files(call: Command, hub: StandInHub, store: Store) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    hub.commit(
        "model",
        "you/base",
        {
            "config.json": b'{"type": "act"}',
            "model.safetensors.index.json": json.dumps(index).encode(),
            "model-1.safetensors": weights(),
            "model-2.safetensors": weights(a=("BF16", [1000])),
        },
        refs=("main",),
    )
    assert base(call, hub, store).params == 311_000


def test_a_commit_is_read_once(call: Command, hub: StandInHub, store: Store) -> None:
    commit(hub)
    first = base(call, hub, store)
    before = len(hub.requests)
    assert base(call, hub, store) == first and len(hub.requests) == before
    commit(hub, **{"config.json": b'{"type": "pi0"}'})
    assert base(call, hub, store) == first, "a branch is asked again after ten minutes"


@pytest.mark.parametrize(
    "body", [b"", b"\xff" * 100, (10).to_bytes(8, "little") + b"x" * 10, (2**40).to_bytes(8, "little") + b"{}" * 5000]
)
def test_a_file_that_is_none_is_no_base_and_stops_no_submit(
    call: Command, hub: StandInHub, store: Store, body: bytes
) -> None:
    commit(hub, **{"model.safetensors": body})
    assert base(call, hub, store) is None


def test_a_hub_that_refuses_stops_no_submit(call: Command, hub: StandInHub, store: Store) -> None:
    commit(hub)
    hub.faults.append(Fault(path="config.json", status=403))
    assert base(call, hub, store) is None


def test_a_server_without_ranges_costs_no_more_than_the_header(call: Command, hub: StandInHub, store: Store) -> None:
    commit(hub)
    hub.faults.append(Fault(path="model.safetensors", whole=True))
    assert base(call, hub, store).params == 310_000


def test_a_dry_run_says_how_sure_it_is(call: Command, hub: StandInHub) -> None:
    commit(hub)
    told = call(
        "submit", "-", "--dry-run", stdin=JOB.format(policy=BY_PATH), HF_HUB_OFFLINE="", PI0Q_HF_ENDPOINT=hub.url
    )
    assert "by the parameters that its base's header names" in told.stdout


def test_a_job_that_starts_from_nothing_asks_nothing(call: Command, hub: StandInHub, store: Store) -> None:
    assert base(call, hub, store, policy="type: act") is None and hub.requests == []

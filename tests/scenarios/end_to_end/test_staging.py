"""A box without a card fetches what waiting jobs read; with a card it then downloads nothing.

The Hub is a stand-in over HTTP; the worker, the queue and the downloads are real, the card that comes is simulated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.workers.hub.requirements import PALIGEMMA
from tests.rig.cluster import wait
from tests.standin_hub import TOKEN, StandInHub

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster

pytest.importorskip("huggingface_hub")

WEIGHTS = bytes(range(256)) * 20_000
HEADER = json.dumps({"model.weight": {"dtype": "U8", "shape": [len(WEIGHTS)], "data_offsets": [0, len(WEIGHTS)]}})
#: As safetensors has it.
BIG = len(HEADER).to_bytes(8, "little") + HEADER.encode() + WEIGHTS
FLAGS = {"policy": {"type": "pi0", "device": "cuda", "push_to_hub": False, "pretrained_path": "lerobot/pi0"}}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub(hosts=("127.0.0.3", "127.0.0.6")) as hub:
        dataset = {"meta/info.json": b'{"codebase_version": "v3.0"}', "data/chunk-000/file-000.parquet": b"p" * 9000}
        hub.commit("dataset", "local/grab_box", dataset, refs=("main", "v3.0"))
        hub.commit("model", "lerobot/pi0", {"config.json": b"{}", "model.safetensors": BIG})
        hub.commit("model", PALIGEMMA, {"config.json": b"{}", "tokenizer.json": b"{}", "tokenizer_config.json": b"{ }"})
        yield hub


def without_cards(cluster: Cluster, hub: StandInHub) -> Box:
    turbo = str(cluster.place / "network_turbo")
    settings: dict[str, Any] = {"PI0Q_HF_ENDPOINT": hub.url, "PI0Q_NETWORK_TURBO": turbo, "HF_TOKEN": TOKEN}
    return cluster.box(PI0Q_STAGING="on", HF_HUB_OFFLINE="", **settings)


def staging(cluster: Cluster) -> dict[str, Any]:
    """What the box announces of its fetching."""
    told = next((box.get("staging") for box in cluster.store.boxes()), None)
    found: dict[str, Any] = json.loads(told or "{}")
    return found


def test_a_box_without_a_card_fetches_and_the_same_box_with_one_downloads_nothing(
    cluster: Cluster, hub: StandInHub
) -> None:
    box = without_cards(cluster, hub)
    job = cluster.submit(from_hub=True, flags=FLAGS, steps=10, save_freq=5, gib=10)
    wait(lambda: staging(cluster).get("ready") == [job], "the inputs of the job", lambda: box.log)
    record = cluster.store.get(job)
    assert (str(record.state), record.epoch, record.attempt) == ("queued", 0, 0)
    assert staging(cluster)["busy"] is False and staging(cluster)["left"] == 0
    assert cluster.refused(job) == "no card: fetches inputs, claims nothing; what this job reads is here"
    (announced,) = cluster.store.boxes()
    assert {one["name"]: one["mib"] for one in json.loads(announced["caches"])}["lerobot/pi0"] == 5
    assert hub.served >= len(BIG)

    box.stop()
    hub.forget()
    box.env["PI0Q_FAKE_GPUS"] = json.dumps([{"name": "simulated", "total_gib": 24}])
    box.start()
    done = cluster.ends(job)
    assert (str(done.state), done.step, done.attempt) == ("succeeded", 10, 1), done.detail
    assert set(done.pins) == {"datasets/local/grab_box", "lerobot/pi0", PALIGEMMA}
    assert hub.downloads() == [] and hub.served == 0
    (announced,) = cluster.store.boxes()
    assert announced["staging"] == ""

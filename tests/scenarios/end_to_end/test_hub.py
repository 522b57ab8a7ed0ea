"""A job whose dataset, base and tokenizer come from a Hub over HTTP, through a real worker.

The Hub is a stand-in that speaks the real one's protocol to the real huggingface_hub; the trainer is the fake one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs import spec
from pi0q.jobs.record import Record
from pi0q.workers.hub.requirements import PALIGEMMA
from tests.rig.cluster import wait
from tests.standin_hub import TOKEN, Fault, StandInHub, StandInProxy
from tests.standin_modelscope import StandInModelScope

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster

pytest.importorskip("huggingface_hub")

EXAMPLES = Path(spec.__file__).with_name("examples")
WEIGHTS = bytes(range(256)) * 120_000
HEADER = json.dumps({"model.weight": {"dtype": "U8", "shape": [len(WEIGHTS)], "data_offsets": [0, len(WEIGHTS)]}})
#: As safetensors has it.
BIG = len(HEADER).to_bytes(8, "little") + HEADER.encode() + WEIGHTS
DATASET = {"meta/info.json": b'{"codebase_version": "v3.0"}', "data/chunk-000/file-000.parquet": b"p" * 9000}
BASE = {"config.json": b"{}", "model.safetensors": BIG}
TOKENIZER = {
    "config.json": b'{"model_type": "paligemma"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{ }",
    "model-00001-of-00003.safetensors": b"x" * 90_000,
}
FLAGS = {"policy": {"type": "pi0", "device": "cpu", "push_to_hub": False, "pretrained_path": "lerobot/pi0"}}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub(hosts=("127.0.0.3", "127.0.0.6")) as hub:
        hub.commit("dataset", "local/grab_box", DATASET, refs=("main", "v3.0"))
        hub.commit("model", "lerobot/pi0", BASE)
        hub.commit("model", PALIGEMMA, TOKENIZER, gated=True)
        yield hub


@pytest.fixture
def mirror(hub: StandInHub) -> Iterator[StandInHub]:
    with hub.mirror() as mirror:
        yield mirror


def box_of(cluster: Cluster, hub: StandInHub, *, slots: int = 1, **more: Any) -> Box:
    turbo = cluster.place / "network_turbo"
    usual = {"PI0Q_HF_ENDPOINT": hub.url, "PI0Q_NETWORK_TURBO": str(turbo), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": ""}
    settings: dict[str, Any] = {**usual, **more}
    return cluster.box(slots=slots, **settings)


def submit(cluster: Cluster, name: str = "grab_box", **how: Any) -> str:
    return cluster.submit(name, from_hub=True, flags=FLAGS, steps=10, save_freq=5, **how)


def secrets(place: Path) -> list[Path]:
    """Files of the cluster that hold the token."""
    return [path for path in place.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def cached(box: Box, record: Record, pin: str) -> Path:
    folder = ("datasets--" + pin.removeprefix("datasets/")) if pin.startswith("datasets/") else "models--" + pin
    return box.home / "huggingface" / "hub" / folder.replace("/", "--") / "snapshots" / record.pins[pin]


def test_from_an_empty_box_to_a_checkpoint(cluster: Cluster, hub: StandInHub, mirror: StandInHub) -> None:
    """Public files over the mirror, the gated tokenizer over AutoDL's proxy with the token, nothing twice."""
    with StandInProxy() as proxy:
        (cluster.place / "network_turbo").write_text(f"export http_proxy={proxy.url} && export https_proxy={proxy.url}")
        box = box_of(cluster, hub, PI0Q_HF_MIRROR=mirror.url)
        done = cluster.ends(submit(cluster))
        asked = list(proxy.asked)

    assert (str(done.state), done.step, done.attempt) == ("succeeded", 10, 1), done.detail
    assert set(done.pins) == {"datasets/local/grab_box", "lerobot/pi0", PALIGEMMA}
    base = cached(box, done, "lerobot/pi0")
    assert (base / "model.safetensors").read_bytes() == BIG
    assert not (cached(box, done, PALIGEMMA) / "model-00001-of-00003.safetensors").exists()
    (life,) = box.lives(done.id)
    assert f"--policy.pretrained_path={base}" in life["argv"]
    assert f"--dataset.root={cached(box, done, 'datasets/local/grab_box')}" in life["argv"]
    # Everything of Redis went past the proxy, and of the Hub only what the mirror has not.
    assert asked and all(PALIGEMMA in path or path.endswith(":" + hub.url.rpartition(":")[2] + "/") for path in asked)
    assert mirror.tokens() == set() and hub.tokens() == {f"Bearer {TOKEN}"}
    assert mirror.served < len(BIG) + 20_000
    assert secrets(cluster.place) == []


def test_without_the_hubs_lists_a_job_trains_on_modelscopes_files_and_says_so(
    cluster: Cluster, hub: StandInHub
) -> None:
    pytest.importorskip("modelscope_hub")
    hub.faults.append(Fault(path="/api/(datasets/local|models/lerobot)/", status=503))
    with StandInModelScope() as there:
        commit = there.commit("model", "lerobot/pi0", BASE)
        there.commit("dataset", "local/grab_box", DATASET)
        box = box_of(cluster, hub, PI0Q_ROADS="hub,modelscope", PI0Q_MODELSCOPE=there.url)
        done = cluster.ends(submit(cluster))
        assert there.tokens() == set()
    assert (str(done.state), done.step, done.attempt) == ("succeeded", 10, 1), done.detail
    assert done.uncompared.keys() == {"datasets/local/grab_box", "lerobot/pi0"} and PALIGEMMA in done.pins
    assert (cached(box, done, "lerobot/pi0") / "model.safetensors").read_bytes() == BIG
    shown = cluster.pi0q("show", done.id).stdout
    assert f"lerobot/pi0 at its commit {commit[:8]}: not compared with the Hub" in shown
    assert f"lerobot/pi0 came from ModelScope (its commit {commit[:8]}), not compared with the Hub" in shown


def test_the_guides_own_job(cluster: Cluster, hub: StandInHub) -> None:
    """jobs/examples/grab_box.yaml to the letter, but for its length and what it needs of a disk."""
    text = (EXAMPLES / "grab_box.yaml").read_text()
    for long, short in (("disk: 120GiB", "disk: 10MiB"), ("steps: 50000", "steps: 10"), ("20000", "5")):
        assert long in text
        text = text.replace(long, short)
    hub.commit("dataset", "puheliang/lerobot_fmc3_grab_box_v2", DATASET, refs=("main", "v3.0"))
    base = str(hub.find("model", "lerobot/pi0", "main")[1])
    hub.account = "puheliang"
    box_of(cluster, hub, gpus=[97], WANDB_BASE_URL=hub.url, HF_HUB_DISABLE_XET="1")
    job = cluster.submit_file(text)
    cluster.until(job, lambda record: record.pins)
    hub.commit("model", "lerobot/pi0", {**BASE, "README.md": b"moved on"})
    done = cluster.ends(job)
    assert (str(done.state), done.step, done.attempt) == ("succeeded", 10, 1), done.detail
    assert done.pins["lerobot/pi0"] == base, "the commit of the first claim, whatever main is now"
    # The push is the box's, once the trainer has ended.
    pushed = cluster.until(job, lambda record: record.push.get("state") != "pending")
    assert (pushed.push["state"], pushed.push["repo"]) == ("done", "puheliang/pi0_fmc3_grab_box_v2"), pushed.push
    repo, sha = hub.find("model", "puheliang/pi0_fmc3_grab_box_v2", "main")
    assert repo and sha and "model.safetensors" in repo.commits[sha]


def test_the_record_says_how_far_the_download_is(cluster: Cluster, hub: StandInHub) -> None:
    fault = Fault(path=f"/cdn/{hub.digest(BIG)}", times=1, halfway=threading.Event())
    hub.faults.append(fault)
    box_of(cluster, hub)
    job = submit(cluster)
    record = cluster.until(job, lambda record: record.phase.startswith("downloading 15"))
    assert record.phase.endswith("/30.7 MB") and str(record.state) == "preparing"
    fault.resume.set()
    assert str(cluster.ends(job).state) == "succeeded"


def test_two_jobs_on_a_box_share_one_download(cluster: Cluster, hub: StandInHub) -> None:
    box_of(cluster, hub, slots=2)
    jobs = [submit(cluster, f"job-{number}") for number in range(2)]
    assert {str(cluster.ends(job).state) for job in jobs} == {"succeeded"}
    # Small files of the dataset are read before each claim; the large one is there once.
    assert len([one for one in hub.downloads() if one.path == f"/cdn/{hub.digest(BIG)}"]) == 1
    assert hub.served < len(BIG) + 60_000


def test_a_box_that_crashes_at_90_percent_fetches_the_rest(cluster: Cluster, hub: StandInHub) -> None:
    fault = Fault(path=f"/cdn/{hub.digest(BIG)}", part=0.9, times=1, halfway=threading.Event())
    hub.faults.append(fault)
    box = box_of(cluster, hub)
    job = submit(cluster)
    cluster.until(job, lambda record: record.phase.startswith("downloading 27"))
    part = next((box.home / "huggingface").rglob(f"{hub.digest(BIG)}.incomplete"))
    wait(lambda: part.stat().st_size >= 0.88 * len(BIG), "most of it on the disk")
    box.crash()
    fault.resume.set()
    hub.forget()
    box.start()
    done = cluster.ends(job)
    assert (str(done.state), done.attempt) == ("succeeded", 1)
    assert hub.served < 0.13 * len(BIG), "about a tenth, not all of it"


def test_an_hour_of_illness_of_the_hub_costs_no_attempt(cluster: Cluster, hub: StandInHub) -> None:
    hub.faults.append(Fault(path="/api/", status=429, retry_after="3600"))
    box = box_of(cluster, hub)
    job = submit(cluster)
    wait(lambda: "asked too often" in cluster.refused(job), "the Hub's refusal told")
    told = cluster.refused(job)
    assert told.startswith("preflight: the Hub was asked too often for ") and "asked again in 1" in told
    record = cluster.store.get(job)
    assert (str(record.state), record.attempt, record.epoch) == ("queued", 0, 0), "it was never claimed"
    assert box.lives(job) == []


def test_terms_that_nobody_accepted_end_the_job_with_the_page_to_open(cluster: Cluster, hub: StandInHub) -> None:
    hub.strangers.add("hf_stranger")
    box = box_of(cluster, hub, HF_TOKEN="hf_stranger")
    job = submit(cluster)
    record = cluster.ends(job)
    assert (str(record.state), str(record.reason)) == ("failed", "needs_access")
    assert f"https://huggingface.co/{PALIGEMMA}" in record.detail
    assert (record.attempt, record.epoch) == (0, 0), "no box ever took it"
    assert box.lives(job) == [], "no trainer was started for it"
    shown = json.loads(cluster.pi0q("show", job, "--json").stdout)
    assert "hf_stranger" not in json.dumps(shown)

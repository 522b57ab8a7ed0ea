"""`pi0q cache fetch`, as it is typed on a box: before a stand-in Hub, with the real downloads and the real queue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.spec import parse
from pi0q.queue.store import Store
from pi0q.queue.submission import new_fields, put
from pi0q.workers.host import probe, usage_locks
from pi0q.workers.host.probe import Disk
from pi0q.workers.hub.requirements import PALIGEMMA
from tests.conftest import Answer, Command
from tests.standin_hub import TOKEN, Fault, StandInHub

pytest.importorskip("huggingface_hub")

WEIGHTS = bytes(range(256)) * 8_000
HEADER = json.dumps({"model.weight": {"dtype": "U8", "shape": [len(WEIGHTS)], "data_offsets": [0, len(WEIGHTS)]}})
#: As safetensors has it.
BIG = len(HEADER).to_bytes(8, "little") + HEADER.encode() + WEIGHTS
JOB = """
name: grab_box
resources: {vram: 90GiB, disk: 120GiB}
train:
  dataset: {repo_id: you/grab_box}
  policy: {type: pi0, pretrained_path: lerobot/pi0, push_to_hub: false}
  steps: 100
  wandb: {enable: false}
"""


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub(hosts=("127.0.0.3", "127.0.0.6")) as hub:
        files = {"meta/info.json": b'{"codebase_version": "v3.0"}', "data/chunk-000/file-000.parquet": b"p" * 9000}
        hub.commit("dataset", "you/grab_box", files, refs=("main", "v3.0"))
        hub.commit("model", "lerobot/pi0", {"config.json": b"{}", "model.safetensors": BIG})
        tokenizer = {"config.json": b"{}", "tokenizer.json": b"{}", "tokenizer_config.json": b"{ }"}
        hub.commit("model", PALIGEMMA, tokenizer, gated=True)
        yield hub


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "grab_box.yaml"
    path.write_text(JOB)
    return path


class Machine:
    """A box whose Hub is the stand-in."""

    def __init__(self, call: Command, hub: StandInHub, place: Path) -> None:
        self.call, self.hub, self.place = call, hub, place

    def fetch(self, *words: str, token: str = TOKEN) -> Answer:
        turbo = str(self.place / "network_turbo")
        try:
            return self.call(
                "cache",
                "fetch",
                *words,
                PI0Q_HF_ENDPOINT=self.hub.url,
                PI0Q_HF_MIRROR="off",
                PI0Q_NETWORK_TURBO=turbo,
                HF_HUB_OFFLINE="",
                HF_TOKEN=token,
            )
        finally:
            # Other tests of this process may hold marks of their own.
            left = [mark for mark in usage_locks._held if mark.is_relative_to(self.place)]
            assert not left, "nothing is left in use"


@pytest.fixture
def machine(call: Command, hub: StandInHub, tmp_path: Path) -> Machine:
    return Machine(call, hub, tmp_path)


def rows(answer: Answer) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in json.loads(answer.stdout)["inputs"]}


def test_a_job_file_first_dry_then_for_real_then_again(machine: Machine, file: Path) -> None:
    planned = machine.fetch(str(file), "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    found = rows(planned)
    assert list(found) == ["dataset", "base", "tokenizer"]
    assert [one["here"] for one in found.values()] == [False] * 3
    assert found["base"]["bytes"] == len(BIG) + 2 == json.loads(planned.stdout)["fetched_bytes"] - 9000 - 28 - 7
    assert not [one for one in machine.hub.downloads() if one.path.startswith("/cdn/")], "nothing large came"

    said = machine.fetch(str(file))
    assert said.returncode == 0, said.stderr
    *each, end = said.stdout.splitlines()
    assert [line.split()[:2] for line in each] == [
        ["dataset", "datasets/you/grab_box"],
        ["base", "lerobot/pi0"],
        ["tokenizer", PALIGEMMA],
    ]
    assert all("fetched in" in line and ", verified, commit " in line for line in each)
    assert end.startswith("All inputs are here: 2 MiB, 2 MiB of it fetched in ")

    machine.hub.forget()
    again = machine.fetch(str(file), "--json")
    assert {kind: (one["here"], one["verified"]) for kind, one in rows(again).items()} == dict.fromkeys(
        found, (True, True)
    )
    assert json.loads(again.stdout)["fetched_bytes"] == 0 and machine.hub.downloads() == []


def test_a_job_of_the_queue_by_its_name(machine: Machine, store: Store) -> None:
    job = str(put(store, new_fields(parse(JOB, filename="job.yaml")))["id"])
    said = machine.fetch("grab_box")
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1].startswith(f"All inputs of job {job} are here: ")
    record = store.get(job)
    assert (str(record.state), record.pins, record.epoch) == ("queued", {}, 0)


def test_what_is_refused_fetches_nothing(machine: Machine, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = machine.fetch("nobody")
    assert unknown.returncode == 3 and "none has that name. `pi0q ls --all` lists every job." in unknown.stderr
    absent = machine.fetch("other.yaml")
    assert absent.returncode == 2 and "There is no file other.yaml. Nothing was fetched.\nFix: " in absent.stderr
    (file.parent / "notes.yaml").write_text("hello: [")
    wrong = machine.fetch("notes.yaml")
    assert (wrong.returncode, "notes.yaml" in wrong.stderr) == (2, True)
    gated = machine.fetch(str(file), token="")
    assert gated.returncode == 1 and f"https://huggingface.co/{PALIGEMMA}" in gated.stderr
    small = Disk(path="/data", free_mib=1, free_inodes=None, resource="disk:1")
    monkeypatch.setattr(probe, "disk", lambda path: small)
    full = machine.fetch(str(file))
    assert full.returncode == 1
    assert "The disk is too small: 34 MiB are needed, 1 MiB are free on /data. Nothing was fetched." in full.stderr
    assert "Fix: pi0q cache ls" in full.stderr
    for answer in (unknown, absent, wrong, gated, full):
        assert "Traceback" not in answer.stderr
    assert not [one for one in machine.hub.downloads() if one.path.startswith("/cdn/")]


def test_a_queue_that_cannot_be_reached(machine: Machine, call: Command) -> None:
    answer = call("cache", "fetch", "grab_box", PI0Q_REDIS_URL="redis://127.0.0.1:1/0")
    assert answer.returncode == 4 and "Traceback" not in answer.stderr


def test_a_download_that_is_cut_says_how_to_go_on(machine: Machine, file: Path) -> None:
    machine.hub.faults.append(Fault(path="/cdn/", status=403))
    cut = machine.fetch(str(file))
    assert cut.returncode == 1, cut.stdout
    assert f"What has come is kept. Fix: pi0q cache fetch {file}" in cut.stderr
    machine.hub.faults.clear()
    assert machine.fetch(str(file)).returncode == 0

"""Copies in a private repository of the stand-in Hub, by the process that makes them and the real huggingface_hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.checkpoint import MANIFEST
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.workers.checkpoints.replica_hub import ReplicaRepository
from pi0q.workers.checkpoints.transfer import TransferHooks
from pi0q.workers.runs.lease import Lease, boottime
from tests.standin_hub import TOKEN, Fault, StandInHub
from tests.workers.checkpoints.saved import checkpoint, content

pytest.importorskip("huggingface_hub")

JOB, REPO = "a1b2c3", "you/checkpoints"


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        yield hub


class Box:
    """Where a checkpoint is made, and the process that copies it."""

    def __init__(self, place: Path, hub: StandInHub) -> None:
        self.place, self.hub = place, hub
        self.lease = Lease(place / "lease", seconds=10**6, fence=10**6, since=boottime())
        self.checkpoints = place / "checkpoints"

    def copy(self, step: int, *, keep: int = 2, token: str = TOKEN, **order: Any) -> list[dict[str, Any]]:
        source = checkpoint(self.checkpoints, step).path
        return self.send({"act": "copy", "checkpoint": source, "keep": keep, "spared": [], **order}, token)

    def fetch(self, newer_than: int = -1) -> list[dict[str, Any]]:
        back = {"into": str(self.place / "back"), "part": str(self.place / "part"), "newer_than": newer_than}
        return self.send({"act": "fetch", **back}, TOKEN)

    def send(self, order: dict[str, Any], token: str) -> list[dict[str, Any]]:
        """What it said; the signs of life left out."""
        told = {"place": f"hf://{REPO}", "job": JOB, "epoch": 1, "lease": str(self.lease.path), **order}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
        own = {"HOME": str(self.place), "HF_ENDPOINT": self.hub.url, "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "HF_TOKEN": token, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
        done = subprocess.run(
            # With everyone's priority: beside other tests it would not get far with the lowest.
            [
                sys.executable,
                "-c",
                "from pi0q.workers.checkpoints import replicate_main as c; c.quiet = str; c.main()",
            ],
            input=json.dumps({**told, "parent": os.getpid(), "endpoint": self.hub.url}),
            env=kept | own,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return [line for line in map(json.loads, done.stdout.splitlines()) if "done" not in line]


@pytest.fixture
def box(tmp_path: Path, hub: StandInHub) -> Box:
    return Box(tmp_path, hub)


def fetched(name: str) -> dict[str, str]:
    return {"fetched": name, "from": f"hf://{REPO}/{JOB}/{name}"}


def puts(hub: StandInHub) -> list[str]:
    return [one.path for one in hub.requests if one.method == "PUT" and one.status == 200]


def test_copies_go_to_a_private_repository_and_come_back(box: Box, hub: StandInHub) -> None:
    assert box.copy(10) == [{"copied": f"hf://{REPO}/{JOB}/000010", "gone": []}]
    assert hub.is_private("model", REPO)
    there = {path.removeprefix(f"{JOB}/000010/"): body for path, body in hub.files("model", REPO).items()}
    assert there == content(box.checkpoints / "000010")
    # One that is there is not made again, and older ones go with their bytes.
    hub.forget()
    assert box.copy(10) == [{"copied": f"hf://{REPO}/{JOB}/000010", "gone": []}]
    assert puts(hub) == []
    before = hub.stored("model", REPO).copy()
    assert box.copy(30, keep=1) == [{"copied": f"hf://{REPO}/{JOB}/000030", "gone": [10]}]
    assert {path.split("/")[1] for path in hub.files("model", REPO)} == {"000030"}
    assert before and not before & hub.stored("model", REPO), "its storage is still taken"
    assert box.fetch() == [fetched("000030")]
    assert content(box.place / "back/000030") == content(box.checkpoints / "000030")
    assert box.fetch(newer_than=30) == [{"fetched": ""}]


def test_older_copies_go_where_the_hub_frees_no_storage(box: Box, hub: StandInHub) -> None:
    assert "copied" in box.copy(10)[-1]
    hub.faults.append(Fault(path="/lfs-files", status=403, times=20))
    assert box.copy(30, keep=1) == [{"copied": f"hf://{REPO}/{JOB}/000030", "gone": [10]}]
    assert {path.split("/")[1] for path in hub.files("model", REPO)} == {"000030"}


def test_what_came_before_a_cut_is_not_sent_again(box: Box, hub: StandInHub) -> None:
    # The commit is refused, when all large files have come.
    hub.faults.append(Fault(path="/commit/", status=500, times=20))
    (end,) = box.copy(10)
    assert "could not be reached" in end["failed"] and len(puts(hub)) == 2
    assert hub.files("model", REPO) == {}, "a copy is there whole or not at all"
    hub.faults.clear()
    hub.forget()
    assert "copied" in box.copy(10)[-1]
    assert puts(hub) == []


def test_a_public_repository_is_refused_with_words(box: Box, hub: StandInHub) -> None:
    hub.commit("model", REPO, {"README.md": b"mine"})
    (end,) = box.copy(10)
    assert end["failed"].startswith(f"hf://{REPO} is public, and copies go to private repositories only")
    assert hub.files("model", REPO) == {"README.md": b"mine"}


def test_what_else_is_in_the_repository_stays(box: Box, hub: StandInHub) -> None:
    mine = {"README.md": b"mine", "other/000010/model.safetensors": b"m" * 9000}
    hub.commit("model", REPO, mine, private=True)
    for step in (20, 30):
        box.copy(step, keep=1)
    left = hub.files("model", REPO)
    assert {path: left[path] for path in mine} == mine
    assert {path.split("/")[1] for path in left if path.startswith(JOB)} == {"000030"}
    assert StandInHub.digest(mine["other/000010/model.safetensors"]) in hub.stored("model", REPO)


def test_a_token_that_may_not_write_is_told_with_its_cure(box: Box, hub: StandInHub) -> None:
    hub.strangers.add("hf_of_a_stranger")
    (end,) = box.copy(10, token="hf_of_a_stranger")
    assert "denies" in end["failed"] or "knows no such" in end["failed"]
    assert "hf auth login" in end["failed"] and "submit again" not in end["failed"]


def test_past_the_lease_nothing_is_committed(box: Box, hub: StandInHub) -> None:
    box.lease.revoke()
    assert box.copy(10) == [{"lost": "the lease is over"}]
    assert not [one for one in hub.requests if one.method == "POST"]


def test_a_commit_that_another_overtook_is_made_again_on_top_of_it(box: Box, hub: StandInHub) -> None:
    hub.commit("model", REPO, {"README.md": b"mine"}, private=True)
    hub.faults.append(Fault(path="/commit/", status=412, times=2))
    assert "copied" in box.copy(10)[-1]
    assert hub.files("model", REPO)["README.md"] == b"mine"


def test_a_commit_of_a_run_that_slept_past_its_lease_is_refused(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked at its lease, stood still, and woke when the next owner's copy was there."""
    from huggingface_hub import CommitOperationAdd, constants

    # The library reads this at its import, which another test may have caused without a network.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.commit("model", REPO, {"a": b"1"}, private=True)
    looks = list[int]()

    def must() -> None:
        looks.append(1)
        if len(looks) > 1:
            raise OwnershipLost("the lease is over")
        hub.commit("model", REPO, {"a": b"2"}, private=True)

    hooks = TransferHooks(count=lambda size: None, require_lease=must, expect=lambda size: None)
    late = ReplicaRepository(REPO, JOB, endpoint=hub.url, hooks=hooks)
    with pytest.raises(OwnershipLost):
        late._commit([CommitOperationAdd("a", b"3")], "late")
    assert hub.files("model", REPO) == {"a": b"2"}


def test_a_damaged_copy_is_passed_over(box: Box, hub: StandInHub) -> None:
    box.copy(10)
    box.copy(20)
    files = hub.files("model", REPO)
    model = f"{JOB}/000020/pretrained_model/model.safetensors"
    hub.commit("model", REPO, {**files, model: files[model][:-9] + bytes(9)})
    assert box.fetch() == [
        {"bad": 20, "why": "pretrained_model/model.safetensors has other bytes than were saved", "foreign": False},
        fetched("000010"),
    ]
    hub.commit("model", REPO, {path: b"{" if path.endswith(MANIFEST) else body for path, body in files.items()})
    assert [line.get("bad") for line in box.fetch()] == [20, 10, None]


def test_a_download_that_was_cut_comes_through(box: Box, hub: StandInHub) -> None:
    box.copy(10)
    hub.faults.append(Fault(path="/cdn/", part=0.5, times=1))
    hub.forget()
    assert box.fetch() == [fetched("000010")]
    assert content(box.place / "back/000010") == content(box.checkpoints / "000010")

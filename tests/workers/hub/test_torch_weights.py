"""Torchvision's weights come to the data disk before the trainer starts, and only what their name says."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.hub import torch_weights
from pi0q.workers.hub.errors import HubError
from pi0q.workers.storage import inventory

CONTENT = bytes(range(256)) * 8000
NAME = f"resnet18-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


class Place(ThreadingHTTPServer):
    """A stand-in of download.pytorch.org."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {NAME: CONTENT}
        #: Requests as they came: path and Range.
        self.asked: list[tuple[str, str | None]] = []
        #: Bytes after which the connection is cut, once.
        self.cut: int | None = None
        self.ranges = True
        self.url = f"http://127.0.0.1:{self.server_address[1]}/models"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Answer(BaseHTTPRequestHandler):
    server: Place

    def do_HEAD(self) -> None:
        self.send_error(403)

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        found = self.server.files.get(self.path.removeprefix("/models/"))
        if found is None:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start > len(found):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(found) - start))
        self.end_headers()
        cut, self.server.cut = self.server.cut, None
        self.wfile.write(found[start : start + cut if cut else None])

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def place() -> Iterator[Place]:
    server = Place()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def box(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    for name in ("HF_HUB_OFFLINE", "TORCH_HOME", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return Settings(
        home=tmp_path / "home",
        hf_home=tmp_path / "hf",
        torch_weights=place.url,
        network_turbo=tmp_path / "none",
        stall_seconds=5.0,
    )


def prepare(box: Settings, name: str = NAME) -> tuple[Path, list[str]]:
    said = list[str]()
    return torch_weights.prepare(name, box, said.append), said


def refused(box: Settings, name: str = NAME) -> HubError:
    with pytest.raises(HubError) as caught:
        prepare(box, name)
    return caught.value


def test_weights_are_fetched_to_the_data_disk_once(box: Settings, place: Place) -> None:
    file, said = prepare(box)

    assert file == box.home / "cache/torch/hub/checkpoints" / NAME and file.read_bytes() == CONTENT
    assert said[-1] == f"downloading {NAME} 2.0/2.0 MB"
    assert prepare(box) == (file, []) and len(place.asked) == 1


def test_wrong_bytes_are_refused_and_nothing_of_them_stays(box: Settings, place: Place) -> None:
    place.files[NAME] = CONTENT[:-1] + b"!"

    error = refused(box)

    assert error.reason is Reason.NETWORK and "what came is not what its name says" in error.why
    left = [path.name for path in (box.home / "cache/torch/hub/checkpoints").iterdir() if path.suffix != ".lock"]
    assert left == []


def test_file_that_was_changed_on_the_disk_is_fetched_again(box: Settings) -> None:
    file, _ = prepare(box)
    file.write_bytes(b"a pickle that runs code")

    assert prepare(box)[0].read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_cut_download_goes_on_where_it_was_cut(box: Settings, place: Place, ranges: bool) -> None:
    place.cut, place.ranges = 300_000, ranges
    refused(box)

    file, _ = prepare(box)

    assert file.read_bytes() == CONTENT
    assert [asked for _, asked in place.asked] == [None, "bytes=300000-"]


def test_part_that_is_longer_than_the_file_is_dropped(box: Settings) -> None:
    part = box.home / "cache/torch/hub/checkpoints" / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"more")

    assert "HTTP 416" in refused(box).why
    assert prepare(box)[0].read_bytes() == CONTENT


@pytest.mark.parametrize("way", ["nobody listens", "not there", "offline"])
def test_no_network_names_the_file_to_copy_and_the_flag(
    box: Settings, place: Place, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "nobody listens":
        box = replace(box, torch_weights="http://127.0.0.1:9/models")
    elif way == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        place.files.clear()

    error = refused(box)

    assert error.reason is Reason.NETWORK
    assert f"Copy {NAME} to {box.home}/cache/torch/hub/checkpoints" in error.detail
    assert "train.policy.pretrained_backbone_weights: null" in error.detail


def test_copy_of_the_boxs_user_is_taken_without_a_network(box: Settings, place: Place) -> None:
    own = Path.home() / ".cache/torch/hub/checkpoints" / NAME
    own.parent.mkdir(parents=True)
    own.write_bytes(CONTENT)

    assert prepare(box)[0].read_bytes() == CONTENT
    assert place.asked == [] and own.exists()


def test_wrong_copy_of_the_boxs_user_is_not_taken(box: Settings, place: Place) -> None:
    own = Path.home() / ".cache/torch/hub/checkpoints" / NAME
    own.parent.mkdir(parents=True)
    own.write_bytes(b"something else")

    assert prepare(box)[0].read_bytes() == CONTENT
    assert len(place.asked) == 1


def test_weights_are_listed_and_removed_with_the_caches(box: Settings) -> None:
    prepare(box)

    (item,) = [item for item in inventory.derived(box) if item.kind == "weights"]

    assert (item.name, item.kept) == ("torch", inventory.IN_USE)


@pytest.mark.parametrize("resumes", [True, False])
def test_configuration_of_base_or_checkpoint_says_what_a_policy_by_path_needs(tmp_path: Path, resumes: bool) -> None:
    folder = tmp_path / "pretrained_model" if resumes else tmp_path
    folder.mkdir(exist_ok=True)
    config = {"type": "act", "vision_backbone": "resnet18", "pretrained_backbone_weights": "DEFAULT"}
    (folder / "config.json").write_text(json.dumps(config))
    spec = Spec(name="x", train={"policy.path": str(tmp_path)})

    assert torch_weights.wanted(spec, "0.6.1", checkpoint=tmp_path if resumes else None) == "resnet18-f37072fd.pth"


@pytest.mark.parametrize("text", [None, "[]", "{", '{"type": 3}'])
def test_configuration_that_can_not_be_read_asks_for_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)

    assert torch_weights.wanted(Spec(name="x", train={"policy.path": str(tmp_path)}), "", checkpoint=None) is None

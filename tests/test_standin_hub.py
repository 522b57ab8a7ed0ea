"""The stand-in speaks the Hub's protocol: the real huggingface_hub, unaltered, writes to it and reads it back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.standin_hub import TOKEN, Fault, StandInHub

pytest.importorskip("huggingface_hub")

PUSH = """
import sys
from huggingface_hub import HfApi
api = HfApi()
repo = api.create_repo("you/trained", private=True, exist_ok=True).repo_id
print(api.whoami()["name"], repo)
done = api.upload_folder(repo_id=repo, folder_path=sys.argv[1], commit_message="trained")
print(done.oid)
"""
PULL = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("you/trained", local_dir=sys.argv[1]))
"""
FILES = {"README.md": b"---\nlicense: mit\n---\n", "config.json": b"{}", "model.safetensors": bytes(range(256)) * 400}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        yield hub


def python(hub: StandInHub, place: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HOME": str(place), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1"}
    own |= {"HF_HUB_ETAG_TIMEOUT": "60", "HF_HUB_DOWNLOAD_TIMEOUT": "60"}
    return subprocess.run(
        [sys.executable, "-c", *args],
        env={**kept, **own, "HF_HUB_DISABLE_XET": "1", **env},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    for name, body in FILES.items():
        (tmp_path / "trained").mkdir(exist_ok=True)
        (tmp_path / "trained" / name).write_bytes(body)
    return tmp_path / "trained"


def test_a_folder_is_pushed_and_read_back(hub: StandInHub, trained: Path, tmp_path: Path) -> None:
    pushed = python(hub, tmp_path, PUSH, str(trained))
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.splitlines()[0] == "you you/trained"
    assert hub.files("model", "you/trained") == FILES
    pulled = python(hub, tmp_path, PULL, str(tmp_path / "back"))
    assert pulled.returncode == 0, pulled.stderr
    assert {name: (tmp_path / "back" / name).read_bytes() for name in FILES} == FILES


def test_a_push_that_is_repeated_sends_no_large_file_again(hub: StandInHub, trained: Path, tmp_path: Path) -> None:
    assert python(hub, tmp_path, PUSH, str(trained)).returncode == 0
    hub.forget()
    again = python(hub, tmp_path, PUSH, str(trained))
    assert again.returncode == 0, again.stderr
    assert not [one for one in hub.requests if one.method == "PUT"]


@pytest.mark.parametrize(("fault", "told"), [({"path": "/commit/", "status": 500}, "500"), ({}, "403")])
def test_a_push_may_be_refused(
    hub: StandInHub, trained: Path, tmp_path: Path, fault: dict[str, Any], told: str
) -> None:
    hub.strangers.add("hf_read_only")
    if fault:
        hub.faults.append(Fault(**fault))
    env = {} if fault else {"HF_TOKEN": "hf_read_only"}
    refused = python(hub, tmp_path, PUSH, str(trained), **env)
    assert refused.returncode == 1 and told in refused.stderr
    assert hub.files("model", "you/trained").keys() != FILES.keys()


def test_what_was_asked_can_be_told(hub: StandInHub, tmp_path: Path) -> None:
    hub.commit("model", "you/base", {"config.json": b"{}"}, gated=True)
    asked = "from huggingface_hub import HfApi; HfApi().auth_check('you/base')"
    assert python(hub, tmp_path, asked).returncode == 0
    stranger = python(hub, tmp_path, asked, HF_TOKEN="")
    assert stranger.returncode == 1 and "Gated" in stranger.stderr, json.dumps([vars(one) for one in hub.requests])

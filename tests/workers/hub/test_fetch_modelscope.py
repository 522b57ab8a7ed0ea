"""Files that come from ModelScope: compared with what, refused when; by its real client, at a stand-in's address."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pi0q.queue.settings import load
from pi0q.workers.hub import access, modelscope
from pi0q.workers.hub.blobs import CHUNK
from pi0q.workers.hub.requirements import PALIGEMMA, Fetch
from pi0q.workers.hub.session import Pins
from tests.standin_hub import TOKEN, Fault, StandInHub
from tests.standin_modelscope import StandInModelScope
from tests.workers.hub.hub_box import (
    BASE,
    BASE_FILES,
    DATASET,
    DATASET_FILES,
    TOKENIZER,
    TOKENIZER_REPO,
    box_env,
    content,
    prepare,
)

pytest.importorskip("huggingface_hub")
pytest.importorskip("modelscope_hub")

BIG = 4_000_000
BIG_FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * (BIG // 256) + b"end", "README.md": b"Hub"}
MINE = "ms-of-the-owner"


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub(hosts=("127.0.0.3", "127.0.0.6")) as hub:
        yield hub


@pytest.fixture
def there() -> Iterator[StandInModelScope]:
    with StandInModelScope() as there:
        yield there


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "huggingface"


def box(there: StandInModelScope, roads: str = "hub,modelscope", **more: str) -> dict[str, Any]:
    return {"PI0Q_MODELSCOPE": there.url, "PI0Q_ROADS": roads, "PI0Q_HF_MIRROR": "off", "HF_TOKEN": TOKEN, **more}


def remembered(home: Path) -> dict[str, str]:
    file = home.parent / "network.json"
    return json.loads(file.read_text()) if file.exists() else {}


def test_the_hub_names_the_files_and_modelscope_brings_the_same_bytes(
    hub: StandInHub, there: StandInModelScope, home: Path
) -> None:
    """The pin and the hashes are the Hub's; a small file that differs there comes from the Hub."""
    sha = hub.commit("model", BASE.repo_id, BIG_FILES)
    there.commit("model", BASE.repo_id, {**BIG_FILES, "README.md": b"MSc", "configuration.json": b"{}"})
    end = prepare(hub, home, BASE, **box(there, "modelscope,hub"))
    assert end.pins == {BASE.pin: sha} and end.uncompared == {}
    assert content(BASE, home, sha) == BIG_FILES
    assert [one.path for one in hub.downloads()] == [f"/{BASE.repo_id}/resolve/{sha}/README.md"]
    assert there.served >= BIG and any("README.md" in line for line in end.says)
    # What brought the large ones is taken first again; and no token of the Hub's went there, nor anything of this box.
    assert remembered(home)["public"] == "modelscope"
    assert there.tokens() == set() and TOKEN not in str(there.requests)
    assert all(agent and "session_id" not in agent and "Linux" not in agent for agent in there.agents)
    assert not (home.parent / ".modelscope").exists() and not (home.parent / ".cache").exists()


def test_other_weights_of_the_same_name_are_refused_without_being_read(
    hub: StandInHub, there: StandInModelScope, home: Path
) -> None:
    sha = hub.commit("model", BASE.repo_id, BIG_FILES)
    there.commit("model", BASE.repo_id, {**BIG_FILES, "model.safetensors": b"!" * len(BIG_FILES["model.safetensors"])})
    end = prepare(hub, home, BASE, **box(there, "modelscope,hub"))
    assert end.pins == {BASE.pin: sha} and content(BASE, home, sha) == BIG_FILES and end.uncompared == {}
    assert not [one for one in there.requests if one.path.startswith("/cdn/")]
    assert any(
        "ModelScope sent something else than base you/base" in line and "safetensors" in line for line in end.says
    )


def test_a_hub_that_names_files_and_does_not_send_them_is_helped_out(
    hub: StandInHub, there: StandInModelScope, home: Path
) -> None:
    """As where a mirror's API is reached and its store is not; a cut link is resumed."""
    sha = hub.commit("dataset", DATASET.repo_id, {**DATASET_FILES, "data/big": b"d" * BIG}, refs=("main", "v3.0"))
    there.commit("dataset", DATASET.repo_id, {**DATASET_FILES, "data/big": b"d" * BIG})
    hub.faults.append(Fault(path="/cdn/|/resolve/", status=502))
    there.faults.append(Fault(path="/cdn/", times=1, part=0.6))
    end = prepare(hub, home, DATASET, **box(there))
    assert end.pins == {DATASET.pin: sha} and end.uncompared == {}, end
    assert content(DATASET, home, sha)["data/big"] == b"d" * BIG
    assert there.served <= BIG + 2 * CHUNK + 20_000


def test_without_the_hub_its_own_commit_is_taken_and_said(
    hub: StandInHub, there: StandInModelScope, home: Path, tmp_path: Path
) -> None:
    dataset, base = (
        there.commit("dataset", DATASET.repo_id, DATASET_FILES),
        there.commit("model", BASE.repo_id, BASE_FILES),
    )
    hub.faults.append(Fault(path="/api/", status=503))
    env = box(there, MODELSCOPE_API_TOKEN=MINE)
    end = prepare(hub, home, DATASET, BASE, **env)
    assert end.pins == end.uncompared == {DATASET.pin: dataset, BASE.pin: base}
    assert content(DATASET, home, dataset) == DATASET_FILES and content(BASE, home, base) == BASE_FILES
    assert any("was not compared with the Hub" in line for line in end.says)
    assert there.tokens() == {f"Bearer {MINE}"} and MINE not in str(hub.requests)
    assert {one.authorization for one in there.requests if one.path.startswith("/cdn/")} == {None}

    # The next attempt keeps it, on a box that never saw it too, whatever the Hub says by then and ModelScope holds now.
    hub.faults.clear()
    hub.commit("model", BASE.repo_id, BASE_FILES)
    there.commit("model", BASE.repo_id, {**BASE_FILES, "config.json": b"{ }"})
    later = prepare(hub, tmp_path / "other", BASE, pins={BASE.pin: base}, uncompared={BASE.pin: base}, **env)
    assert later.pins == later.uncompared == {BASE.pin: base}
    assert content(BASE, tmp_path / "other", base) == BASE_FILES


def test_what_may_not_be_replaced_comes_from_nowhere_without_the_hub(
    hub: StandInHub, there: StandInModelScope, home: Path
) -> None:
    """What an earlier attempt took from the Hub, code that would run, and what may be gated."""
    code = Fetch(kind="code", repo_id="you/code", repo_type="model", patterns=("*.json", "*.py"))
    there.commit("model", BASE.repo_id, BASE_FILES)
    there.commit("model", code.repo_id, {"config.json": b"{}", "modeling.py": b""})
    there.commit("model", PALIGEMMA, TOKENIZER_REPO)
    hub.close()
    end = prepare(hub, home, BASE, code, TOKENIZER, pins={BASE.pin: "c" * 40}, **box(there))
    assert end.reason == "network" and not there.requests


def test_a_gated_repository_is_not_fetched_past_its_gate(hub: StandInHub, there: StandInModelScope, home: Path) -> None:
    hub.commit("model", PALIGEMMA, TOKENIZER_REPO, gated=True)
    there.commit("model", PALIGEMMA, TOKENIZER_REPO)
    there.commit("model", modelscope.TOKENIZER_REPO, TOKENIZER_REPO)
    hub.faults.append(Fault(path="/resolve/", status=502))
    end = prepare(hub, home, TOKENIZER, **box(there, "modelscope,hub"))
    assert end.reason == "network" and not there.requests


def test_the_tokenizer_is_taken_where_the_owner_says_so_by_the_hashes_that_pi0q_ships(
    hub: StandInHub, there: StandInModelScope, home: Path
) -> None:
    """The real files can't be had here: other hashes are shipped to the driver. A copy with others is refused."""
    hub.commit("model", PALIGEMMA, TOKENIZER_REPO, gated=True)
    copy = {name: body for name, body in TOKENIZER_REPO.items() if name in modelscope.TOKENIZER}
    there.commit("model", modelscope.TOKENIZER_REPO, copy)
    env = box(there, "hub", PI0Q_MODELSCOPE_TOKENIZER="on", HF_TOKEN="")
    end = prepare(hub, home, TOKENIZER, **env)
    assert end.reason == "needs_access" and "HTTP 40" in end.detail
    assert any("ModelScope" in line and "others there" in line for line in end.says), end.says

    hashes = {name: (hashlib.sha256(body).hexdigest(), len(body)) for name, body in copy.items()}
    hashes["added_tokens.json"] = modelscope.TOKENIZER["added_tokens.json"]
    hub.forget()
    end = prepare(hub, home, TOKENIZER, TOKENIZER_HASHES=json.dumps(hashes), **env)
    assert end.pins == {PALIGEMMA: modelscope.TOKENIZER_COMMIT} and end.uncompared == {} and not hub.requests
    assert content(TOKENIZER, home, modelscope.TOKENIZER_COMMIT) == copy
    assert (TOKENIZER.folder(home) / "refs" / "main").read_text() == modelscope.TOKENIZER_COMMIT


def test_a_preflight_without_the_hub_looks_into_modelscopes_files(
    hub: StandInHub, there: StandInModelScope, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that files that would run code are refused before a claim, whichever road they come by."""
    sha = there.commit("model", BASE.repo_id, {**BASE_FILES, "config.json": b'{"auto_map": 1}'})
    there.commit("dataset", DATASET.repo_id, {**DATASET_FILES, "meta/stats.json": b"[]"})
    hub.close()
    env = box_env(hub, home, **box(there, "modelscope,hub"))
    monkeypatch.setattr(os, "environ", env)
    (tmp_path / "meta").mkdir()
    code = Fetch(kind="code", repo_id="you/code", repo_type="model")
    report = access.ask([DATASET, BASE, code], load(env), pins=Pins({}), push="", meta_dir=tmp_path / "meta")
    (error,) = report.errors
    assert "code you/code" in error.why
    assert report.info == {"codebase_version": "v3.0"} and (tmp_path / "meta/meta/stats.json").read_bytes() == b"[]"
    ((fetch, at, files),) = report.models
    assert (fetch, at, files.contents["config.json"]) == (BASE, sha, b'{"auto_map": 1}')
    assert report.notes == [f"{what}: ModelScope has it, not compared with the Hub" for what in (
        "dataset you/grab_box", "base you/base")]  # fmt: skip


def test_a_box_without_any_road_says_so(hub: StandInHub, there: StandInModelScope, home: Path) -> None:
    end = prepare(hub, home, BASE, **box(there, "turbo"))
    assert end.reason == "network" and "PI0Q_ROADS=turbo" in end.detail and not hub.requests

"""The caches, filled with the real huggingface_hub from a stand-in Hub.

Each `prepare` runs in a process of its own, with a box's environment, and can be killed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from pi0q.workers.hub.blobs import CHUNK
from pi0q.workers.hub.requirements import PALIGEMMA, Fetch
from tests.rig.cluster import gone, wait
from tests.standin_hub import TOKEN, Fault, StandInHub
from tests.workers.hub.hub_box import (
    BASE,
    BASE_FILES,
    DATASET,
    DATASET_FILES,
    DRIVER,
    TOKENIZER,
    TOKENIZER_REPO,
    begin,
    box_env,
    content,
    finish,
    prepare,
    read_until,
)

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "huggingface"


def main_of(fetch: Fetch, home: Path) -> str:
    return (fetch.folder(home) / "refs" / "main").read_text()


def test_everything_lies_at_the_commits_that_the_trainer_would_take(hub: StandInHub, home: Path) -> None:
    tagged = hub.commit("dataset", DATASET.repo_id, DATASET_FILES, refs=("main", "v3.0"))
    hub.commit("dataset", DATASET.repo_id, {**DATASET_FILES, "README.md": b"later"})
    base = hub.commit("model", BASE.repo_id, BASE_FILES)
    tokenizer = hub.commit("model", PALIGEMMA, TOKENIZER_REPO, gated=True)

    end = prepare(hub, home, DATASET, BASE, TOKENIZER, HF_TOKEN=TOKEN)

    assert end.reason == ""
    assert end.pins == {"datasets/you/grab_box": tagged, "you/base": base, PALIGEMMA: tokenizer}
    assert content(DATASET, home, tagged) == DATASET_FILES
    assert content(BASE, home, base) == BASE_FILES
    assert main_of(TOKENIZER, home) == tokenizer
    assert main_of(BASE, home) == base
    assert end.environment_kept


def test_of_the_tokenizer_only_the_tokenizer_comes(hub: StandInHub, home: Path) -> None:
    sha = hub.commit("model", PALIGEMMA, TOKENIZER_REPO)
    prepare(hub, home, TOKENIZER)
    asked_for = {"config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"}
    assert set(hub.files_read()) == asked_for
    assert set(content(TOKENIZER, home, sha)) == asked_for


def test_a_second_run_downloads_nothing(hub: StandInHub, home: Path) -> None:
    hub.commit("dataset", DATASET.repo_id, DATASET_FILES)
    hub.commit("model", BASE.repo_id, BASE_FILES)
    first = prepare(hub, home, DATASET, BASE)
    assert hub.files_read()
    hub.forget()
    second = prepare(hub, home, DATASET, BASE, pins=first.pins)
    assert second.pins == first.pins
    assert not hub.requests, "what a finished download laid there is known to be whole"
    assert second.says == []
    other_job = prepare(hub, home, DATASET, BASE)
    assert other_job.pins == first.pins and other_job.says == []
    assert hub.requests and not hub.files_read() and not hub.downloads()


def test_pins_win_over_what_the_hub_has_now(hub: StandInHub, home: Path) -> None:
    old = hub.commit("model", PALIGEMMA, TOKENIZER_REPO)
    first = prepare(hub, home, TOKENIZER)
    new = hub.commit("model", PALIGEMMA, {**TOKENIZER_REPO, "tokenizer.json": b"[]"})
    other_job = prepare(hub, home, TOKENIZER)
    assert (first.pins[PALIGEMMA], other_job.pins[PALIGEMMA]) == (old, new)
    assert main_of(TOKENIZER, home) == new

    resumed = prepare(hub, home, TOKENIZER, pins=first.pins)

    assert resumed.pins == first.pins
    assert main_of(TOKENIZER, home) == old
    elsewhere = home.with_name("other-box")
    assert prepare(hub, elsewhere, TOKENIZER, pins=first.pins).pins == first.pins
    assert content(TOKENIZER, elsewhere, old)["tokenizer.json"] == b"{}"


def test_a_dataset_without_the_tag_comes_from_main_or_from_where_the_user_says(hub: StandInHub, home: Path) -> None:
    old = hub.commit("dataset", DATASET.repo_id, DATASET_FILES, refs=("main", "before"))
    new = hub.commit("dataset", DATASET.repo_id, {**DATASET_FILES, "README.md": b"new"})
    asked = Fetch(kind="dataset", repo_id=DATASET.repo_id, repo_type="dataset", revision="before")
    assert prepare(hub, home, DATASET).pins == {DATASET.pin: new}
    assert prepare(hub, home, asked).pins == {DATASET.pin: old}


def test_without_the_hub_a_whole_cache_will_do(hub: StandInHub, home: Path) -> None:
    hub.commit("dataset", DATASET.repo_id, DATASET_FILES)
    hub.commit("model", PALIGEMMA, TOKENIZER_REPO)
    first = prepare(hub, home, DATASET, TOKENIZER)
    hub.close()
    assert prepare(hub, home, DATASET, TOKENIZER, pins=first.pins).says == []
    end = prepare(hub, home, DATASET, TOKENIZER)
    assert end.pins == first.pins
    assert [line.partition(";")[2] for line in end.says[-2:]] == [
        f" using the copy in this box's cache (commit {first.pins[fetch.pin][:8]})" for fetch in (DATASET, TOKENIZER)
    ]


def test_a_cache_laid_by_hand_will_do_where_the_hub_refuses(hub: StandInHub, home: Path) -> None:
    hub.commit("model", PALIGEMMA, TOKENIZER_REPO, gated=True)
    sha = "0" * 39 + "1"
    place = TOKENIZER.snapshot(home, sha)
    place.mkdir(parents=True)
    (place / "tokenizer.json").write_text("{}")
    refs = TOKENIZER.folder(home) / "refs"
    refs.mkdir()
    (refs / "main").write_text(sha)

    end = prepare(hub, home, TOKENIZER)

    assert end.pins == {PALIGEMMA: sha}
    assert main_of(TOKENIZER, home) == sha
    assert "terms" in end.says[-1]


def test_offline_by_wish_is_offline(hub: StandInHub, home: Path) -> None:
    hub.commit("model", PALIGEMMA, TOKENIZER_REPO)
    first = prepare(hub, home, TOKENIZER)
    hub.forget()
    assert prepare(hub, home, TOKENIZER, HF_HUB_OFFLINE="1").pins == first.pins
    assert not hub.requests


def test_a_gated_repository_is_refused_with_the_page_to_open(hub: StandInHub, home: Path) -> None:
    hub.commit("model", PALIGEMMA, TOKENIZER_REPO, gated=True)
    end = prepare(hub, home, TOKENIZER)
    assert end.reason == "needs_access"
    assert f"https://huggingface.co/{PALIGEMMA}" in end.detail and "HTTP 401" in end.detail
    hub.strangers.add("hf_of_another_account")
    end = prepare(hub, home, TOKENIZER, HF_TOKEN="hf_of_another_account")
    assert end.reason == "needs_access" and "HTTP 403" in end.detail
    assert "hf_of" not in end.detail
    assert not hub.downloads()


def test_a_token_without_the_right_is_told_from_a_missing_repository(hub: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, BASE_FILES)
    hub.faults.append(Fault(path="/resolve/", status=403))
    assert prepare(hub, home, BASE).reason == "needs_access"


@pytest.mark.parametrize("token", ["", TOKEN])
def test_a_repository_or_revision_that_is_not_there(hub: StandInHub, home: Path, token: str) -> None:
    env: dict[str, Any] = {"HF_TOKEN": token} if token else {}
    missing = prepare(hub, home, BASE, pins={}, **env)
    assert missing.reason == "not_on_hub" and "no such repository: base you/base" in missing.detail
    hub.commit("model", BASE.repo_id, BASE_FILES)
    asked = Fetch(kind="base", repo_id=BASE.repo_id, repo_type="model", revision="v9")
    unknown = prepare(hub, home, asked, pins={}, **env)
    assert unknown.reason == "not_on_hub" and "no such revision" in unknown.detail


def test_a_base_without_weights_is_refused_before_a_trainer_would_start_from_noise(hub: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, {"config.json": b"{}", "pytorch_model.bin": b"w"})
    end = prepare(hub, home, BASE)
    assert end.reason == "not_on_hub"
    assert "holds no model.safetensors" in end.detail


def test_a_hub_that_is_ill_or_gone_is_the_networks_doing(hub: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, BASE_FILES)
    hub.faults.append(Fault(path="/api/", status=500))
    ill = prepare(hub, home, BASE)
    assert ill.reason == "network" and "HTTP 500" in ill.detail
    assert len(hub.requests) == 3, "one for each round"
    hub.close()
    gone = prepare(hub, home, BASE)
    assert gone.reason == "network" and "ConnectionRefusedError" in gone.detail


def test_a_download_that_is_cut_goes_on_where_it_was(hub: StandInHub, home: Path) -> None:
    big = {**BASE_FILES, "model.safetensors": b"w" * 40_000_000}
    sha = hub.commit("model", BASE.repo_id, big)
    hub.faults.append(Fault(path="/cdn/", times=1))
    assert prepare(hub, home, BASE).pins == {BASE.pin: sha}
    assert content(BASE, home, sha) == big
    first, second = [one.range for one in hub.downloads() if one.path.startswith("/cdn/")]
    assert first is None and second is not None and int(second[6:-1]) >= 20_000_000 - CHUNK


def test_a_killed_download_is_not_taken_for_whole_and_leaves_nothing_behind(hub: StandInHub, home: Path) -> None:
    sha = hub.commit("dataset", DATASET.repo_id, DATASET_FILES)
    prepare(hub, home, DATASET)
    large = DATASET.snapshot(home, sha) / "data" / "chunk-000" / "file-000.parquet"
    large.resolve().unlink()
    large.unlink()
    fault = Fault(path="/cdn/", times=1, halfway=threading.Event())
    hub.faults.append(fault)
    process = begin(hub, home, DATASET)
    assert fault.halfway and fault.halfway.wait(60)
    children = [one.pid for one in psutil.Process(process.pid).children(recursive=True)]
    assert children
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    fault.resume.set()

    assert prepare(hub, home, DATASET, HF_HUB_OFFLINE="1").reason == "network"
    assert prepare(hub, home, DATASET).pins == {DATASET.pin: sha}
    assert content(DATASET, home, sha) == DATASET_FILES
    assert not list(home.rglob("*.incomplete"))
    assert prepare(hub, home, DATASET, HF_HUB_OFFLINE="1").pins == {DATASET.pin: sha}
    wait(lambda: all(map(gone, children)), "the end of its download")


def test_progress_is_told_in_bytes_while_a_file_comes(hub: StandInHub, home: Path) -> None:
    big = {**BASE_FILES, "model.safetensors": b"w" * 40_000_000}
    hub.commit("model", BASE.repo_id, big)
    fault = Fault(path="/cdn/", times=1, halfway=threading.Event())
    hub.faults.append(fault)
    process = begin(hub, home, BASE)
    assert process.stdout is not None
    says = read_until(process.stdout, "downloading 19.9/40.0 MB")
    assert says[0].startswith("downloading ")
    fault.resume.set()
    assert finish(process).reason == ""


def test_two_runs_that_want_the_same_download_it_once(hub: StandInHub, home: Path) -> None:
    sha = hub.commit("model", BASE.repo_id, BASE_FILES)
    fault = Fault(path="/cdn/", times=1, halfway=threading.Event())
    hub.faults.append(fault)
    first = begin(hub, home, BASE)
    assert fault.halfway and fault.halfway.wait(60)
    second = begin(hub, home, BASE)
    assert second.stdout is not None
    read_until(second.stdout, "downloading")
    fault.resume.set()
    assert finish(first).pins == finish(second).pins == {BASE.pin: sha}
    assert len([one for one in hub.downloads() if one.path.startswith("/cdn/")]) == 1


def test_nothing_to_fetch_costs_nothing(hub: StandInHub, home: Path) -> None:
    end = prepare(hub, home)
    assert end.pins == {} and not end.imported and end.environment_kept
    assert not hub.requests and not home.exists()


def test_a_full_disk_is_told_as_one(hub: StandInHub, home: Path) -> None:
    small = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=64k none {home} && exec "$@"', "sh"]
    home.mkdir()
    if subprocess.run([*small, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel lets no user mount a small disk")
    hub.commit("model", BASE.repo_id, {**BASE_FILES, "model.safetensors": b"w" * 500_000})
    asked = {"fetches": [asdict(BASE)], "pins": {"commits": {}}}
    process = subprocess.Popen(
        [*small, sys.executable, "-c", DRIVER, json.dumps(asked)],
        env=box_env(hub, home),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert finish(process).reason == "disk_full"

"""Downloads over several ways, cut, stalled, killed and lied to; what each costs is counted in bytes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pi0q.workers.hub.blobs import CHUNK
from pi0q.workers.hub.requirements import PALIGEMMA
from tests.rig.cluster import gone, wait
from tests.standin_hub import TOKEN, Fault, StandInHub, StandInProxy
from tests.workers.hub.hub_box import (
    BASE,
    BASE_FILES,
    DATASET,
    DATASET_FILES,
    TOKENIZER,
    TOKENIZER_REPO,
    begin,
    content,
    finish,
    prepare,
    read_until,
)

pytest.importorskip("huggingface_hub")

BIG = 40_000_000
#: Not all the same byte, so that a part taken up at the wrong place is seen.
BIG_FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * (BIG // 256) + b"end"}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    """The Hub itself; not at an address that every `no_proxy` names."""
    with StandInHub(hosts=("127.0.0.3", "127.0.0.6")) as hub:
        yield hub


@pytest.fixture
def mirror(hub: StandInHub) -> Iterator[StandInHub]:
    with hub.mirror() as mirror:
        yield mirror


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "huggingface"


def ways(mirror: StandInHub, **more: str) -> dict[str, Any]:
    return {"PI0Q_HF_MIRROR": mirror.url, "HF_TOKEN": TOKEN, **more}


def remembered(home: Path) -> dict[str, str]:
    known: dict[str, str] = json.loads((home.parent / "network.json").read_text())
    return known


# -- mirror, proxy and token ------------------------------------------------------------------------


def test_public_files_come_from_the_mirror_and_gated_ones_from_the_hub_with_the_token(
    hub: StandInHub, mirror: StandInHub, home: Path
) -> None:
    hub.commit("dataset", DATASET.repo_id, DATASET_FILES)
    hub.commit("model", BASE.repo_id, BASE_FILES)
    sha = hub.commit("model", PALIGEMMA, TOKENIZER_REPO, gated=True)

    end = prepare(hub, home, DATASET, BASE, TOKENIZER, **ways(mirror))

    assert end.reason == "" and end.pins[PALIGEMMA] == sha
    assert {one.path.split("/resolve/")[0] for one in hub.downloads() if "/resolve/" in one.path} == {f"/{PALIGEMMA}"}
    assert hub.tokens() == {f"Bearer {TOKEN}"}
    assert mirror.tokens() == set() and len(mirror.downloads()) > 3
    assert remembered(home) == {"public": "mirror"}


@pytest.mark.parametrize("where", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "file"])
def test_wherever_the_token_lies_the_mirror_never_sees_it(
    hub: StandInHub, mirror: StandInHub, home: Path, where: str
) -> None:
    hub.commit("model", BASE.repo_id, BASE_FILES)
    home.mkdir()
    file = home / "token" if where == "file" else home.parent / "my-token"
    file.write_text(TOKEN)
    env: dict[str, Any] = {} if where == "file" else {where: str(file) if where == "HF_TOKEN_PATH" else TOKEN}
    assert prepare(hub, home, BASE, PI0Q_HF_MIRROR=mirror.url, **env).reason == ""
    assert mirror.downloads() and mirror.tokens() == set() and not hub.requests

    # The same token is found where it may be used.
    hub.commit("model", PALIGEMMA, TOKENIZER_REPO, gated=True)
    assert prepare(hub, home, TOKENIZER, PI0Q_HF_MIRROR=mirror.url, **env).reason == ""
    assert hub.tokens() == {f"Bearer {TOKEN}"} and mirror.tokens() == set()


def test_another_address_in_hf_endpoint_is_a_mirror(hub: StandInHub, mirror: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, BASE_FILES)
    assert prepare(hub, home, BASE, HF_ENDPOINT=mirror.url, HF_TOKEN=TOKEN).reason == ""
    assert mirror.downloads() and mirror.tokens() == set()


def test_the_token_is_on_no_command_line_and_in_no_line_of_the_download(
    hub: StandInHub, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.commit("model", PALIGEMMA, {**TOKENIZER_REPO, "tokenizer.model": b"t" * 900_000}, gated=True)
    fault = Fault(path="/cdn/", times=1, halfway=threading.Event())
    hub.faults.append(fault)
    process = begin(hub, home, TOKENIZER, HF_TOKEN=TOKEN, WANDB_API_KEY="canary", PI0Q_REDIS_URL="redis://:pw@q/0")
    assert fault.halfway and fault.halfway.wait(60)
    (child,) = psutil.Process(process.pid).children()
    assert TOKEN not in " ".join(child.cmdline())
    assert {"WANDB_API_KEY", "PI0Q_REDIS_URL"}.isdisjoint(child.environ())
    fault.resume.set()
    end = finish(process)
    assert end.reason == "" and TOKEN not in str(end) + "".join(capfd.readouterr())


def test_a_token_that_the_hub_no_longer_knows_does_not_keep_public_files_away(hub: StandInHub, home: Path) -> None:
    sha = hub.commit("model", BASE.repo_id, BASE_FILES)
    end = prepare(hub, home, BASE, HF_TOKEN="hf_revoked")
    assert end.pins == {BASE.pin: sha}
    assert any("no longer accepts this box's token" in line and "hf auth login" in line for line in end.says)


def test_a_private_repository_that_the_mirror_can_t_see_comes_from_the_hub(
    hub: StandInHub, mirror: StandInHub, home: Path
) -> None:
    sha = hub.commit("model", BASE.repo_id, BASE_FILES)
    mirror.faults.append(Fault(path="/api/", status=401, code="RepoNotFound"))
    assert prepare(hub, home, BASE, **ways(mirror)).pins == {BASE.pin: sha}


def test_what_neither_has_is_refused_by_the_hub_and_asked_once(hub: StandInHub, mirror: StandInHub, home: Path) -> None:
    end = prepare(hub, home, BASE, **ways(mirror))
    assert end.reason == "not_on_hub" and "the mirror" not in end.detail
    assert len(hub.requests) == len(mirror.requests) == 1
    assert hub.probes <= 1


def test_a_mirror_that_is_down_is_left_and_the_way_that_worked_remembered(
    hub: StandInHub, mirror: StandInHub, home: Path
) -> None:
    hub.commit("model", BASE.repo_id, BASE_FILES)
    mirror.close()
    assert prepare(hub, home, BASE, **ways(mirror)).reason == ""
    assert remembered(home) == {"public": "direct"}


def test_a_remembered_way_that_fails_is_looked_for_again(hub: StandInHub, mirror: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, BASE_FILES)
    home.parent.joinpath("network.json").write_text('{"public": "mirror"}')
    mirror.faults.append(Fault(path="/api/", status=502))
    assert prepare(hub, home, BASE, **ways(mirror)).reason == ""
    assert remembered(home) == {"public": "direct"}


def test_autodls_proxy_serves_the_hub_and_nothing_else(hub: StandInHub, mirror: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, BASE_FILES)
    hub.commit("model", PALIGEMMA, TOKENIZER_REPO, gated=True)
    with StandInProxy() as proxy:
        (home.parent / "network_turbo").write_text(f"export http_proxy={proxy.url}\necho {TOKEN}\n")
        end = prepare(hub, home, BASE, TOKENIZER, **ways(mirror))
    assert end.reason == "" and end.environment_kept
    assert proxy.asked and all(f"//{hub.url[7:]}" in path or f"//{hub.store_url[7:]}" in path for path in proxy.asked)
    assert mirror.downloads() and mirror.tokens() == set()
    assert remembered(home) == {"public": "mirror", "hub": "turbo"}


def test_a_turbo_file_whose_proxy_is_dead_does_no_harm(hub: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, BASE_FILES)
    with StandInProxy() as proxy:
        pass
    (home.parent / "network_turbo").write_text(f"export http_proxy={proxy.url}\n")
    assert prepare(hub, home, BASE).reason == ""
    assert remembered(home) == {"public": "direct", "hub": "direct"}


# -- cuts, stalls, kills ----------------------------------------------------------------------------


def test_killed_at_90_percent_it_fetches_no_more_than_one_chunk_again(hub: StandInHub, home: Path) -> None:
    sha = hub.commit("model", BASE.repo_id, BIG_FILES)
    fault = Fault(path="/cdn/", times=1, part=0.9, halfway=threading.Event())
    hub.faults.append(fault)
    process = begin(hub, home, BASE)
    assert fault.halfway and fault.halfway.wait(60)
    read_until(process.stdout, "downloading 35.9/40.0 MB")
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait(lambda: all(gone(child.pid) for child in children), "the end of its download")
    fault.resume.set()
    hub.forget()

    end = prepare(hub, home, BASE)

    assert end.pins == {BASE.pin: sha} and content(BASE, home, sha) == BIG_FILES
    missing = len(BIG_FILES["model.safetensors"]) - int(0.9 * len(BIG_FILES["model.safetensors"]))
    assert missing <= hub.served <= missing + CHUNK + len(b"{}")


def test_a_part_that_an_older_huggingface_hub_left_is_taken_up(hub: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, BIG_FILES)
    body = BIG_FILES["model.safetensors"]
    blobs = BASE.folder(home) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hub.digest(body)}.incomplete").write_bytes(body[:30_000_000])
    assert prepare(hub, home, BASE).reason == ""
    assert hub.served == len(body) - 30_000_000 + len(b"{}")


def test_a_stall_is_broken_and_the_rest_comes_another_way(hub: StandInHub, mirror: StandInHub, home: Path) -> None:
    sha = hub.commit("model", BASE.repo_id, BIG_FILES)
    mirror.faults.append(Fault(path="/cdn/", halfway=threading.Event()))
    end = prepare(hub, home, BASE, **ways(mirror, PI0Q_STALL_SECONDS="10"))
    assert end.pins == {BASE.pin: sha} and content(BASE, home, sha) == BIG_FILES
    assert any("no byte came for 10 s (over the mirror)" in line for line in end.says)
    rests = [int((one.range or "bytes=0-")[6:-1]) for one in hub.downloads() if one.path.startswith("/cdn/")]
    assert rests and min(rests) >= BIG // 2 - CHUNK


def test_a_download_that_something_kills_is_begun_again_where_it_was(hub: StandInHub, home: Path) -> None:
    """As AutoDL's memory guard does it: the run lives on, its largest process does not."""
    sha = hub.commit("model", BASE.repo_id, BIG_FILES)
    fault = Fault(path="/cdn/", times=1, halfway=threading.Event())
    hub.faults.append(fault)
    process = begin(hub, home, BASE)
    assert fault.halfway and fault.halfway.wait(60)
    read_until(process.stdout, "downloading 19.9/40.0 MB")
    (child,) = psutil.Process(process.pid).children()
    child.kill()
    end = finish(process)
    assert end.pins == {BASE.pin: sha} and content(BASE, home, sha) == BIG_FILES
    assert any("the download was ended by SIGKILL" in line for line in end.says)
    assert hub.served <= len(BIG_FILES["model.safetensors"]) + 2 * CHUNK


def test_a_server_that_sends_all_again_is_borne(hub: StandInHub, home: Path) -> None:
    sha = hub.commit("model", BASE.repo_id, BIG_FILES)
    hub.faults += [Fault(path="/cdn/", times=1), Fault(path="/cdn/", times=1, whole=True)]
    assert prepare(hub, home, BASE).pins == {BASE.pin: sha}
    assert content(BASE, home, sha) == BIG_FILES


def test_a_link_that_is_cut_again_and_again_still_brings_it(hub: StandInHub, home: Path) -> None:
    sha = hub.commit("model", BASE.repo_id, BIG_FILES)
    hub.faults.append(Fault(path="/cdn/", times=6, part=0.3))
    assert prepare(hub, home, BASE).pins == {BASE.pin: sha}
    assert content(BASE, home, sha) == BIG_FILES
    # httpx throws away what it had not handed on when a connection breaks.
    assert hub.served <= BIG + 7 * CHUNK + 100


# -- wrong bytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/cdn/", "/resolve/.*/config.json"])
def test_wrong_bytes_of_the_mirror_are_purged_and_fetched_from_the_hub(
    hub: StandInHub, mirror: StandInHub, home: Path, path: str
) -> None:
    sha = hub.commit("model", BASE.repo_id, BASE_FILES)
    mirror.faults.append(Fault(path=path, corrupt=True))
    end = prepare(hub, home, BASE, **ways(mirror))
    assert end.pins == {BASE.pin: sha} and content(BASE, home, sha) == BASE_FILES
    assert any("sent something else than base you/base: its SHA" in line for line in end.says)
    assert remembered(home) == {"public": "direct"}


def test_bytes_that_are_wrong_everywhere_never_reach_the_trainer(hub: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, BASE_FILES)
    hub.faults.append(Fault(path="/cdn/", corrupt=True))
    end = prepare(hub, home, BASE)
    assert end.reason == "network" and "SHA256" in end.detail
    # Files that came beside it may have left their parts.
    assert not list(BASE.folder(home).rglob(f"{hub.digest(BASE_FILES['model.safetensors'])}*"))


def test_a_part_with_rotten_bytes_is_thrown_away_and_fetched_anew(hub: StandInHub, home: Path) -> None:
    sha = hub.commit("model", BASE.repo_id, BIG_FILES)
    blobs = BASE.folder(home) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hub.digest(BIG_FILES['model.safetensors'])}.incomplete").write_bytes(b"\0" * 30_000_000)
    assert prepare(hub, home, BASE).pins == {BASE.pin: sha}
    assert content(BASE, home, sha) == BIG_FILES


@pytest.mark.parametrize("damage", [b"w" * 49_999 + b"x", b"w" * 100])
def test_a_rotten_blob_that_someone_else_laid_is_replaced(hub: StandInHub, home: Path, damage: bytes) -> None:
    sha = hub.commit("model", BASE.repo_id, BASE_FILES)
    blobs = BASE.folder(home) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / hub.digest(BASE_FILES["model.safetensors"])).write_bytes(damage)
    assert prepare(hub, home, BASE).pins == {BASE.pin: sha}
    assert content(BASE, home, sha) == BASE_FILES


def test_a_mirror_that_lists_paths_outside_is_not_believed(hub: StandInHub, mirror: StandInHub, home: Path) -> None:
    evil = {**BASE_FILES, "../../../../escaped": b"x"}
    mirror._repos = {}
    mirror.commit("model", BASE.repo_id, evil)
    sha = hub.commit("model", BASE.repo_id, BASE_FILES)
    assert prepare(hub, home, BASE, **ways(mirror)).pins == {BASE.pin: sha}
    assert not list(home.parent.rglob("escaped"))


# -- patience ---------------------------------------------------------------------------------------


def test_the_hubs_retry_after_is_handed_on_when_it_is_long(hub: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, BASE_FILES)
    hub.faults.append(Fault(path="/resolve/", status=429, retry_after="240"))
    end = prepare(hub, home, BASE)
    assert (end.reason, end.asked) == ("network", 240.0)
    assert "asked too often" in end.detail and "HTTP 429" in end.detail
    assert sum(one.status == 429 for one in hub.requests) <= len(BASE_FILES), "one round, no hammering"


def test_a_short_retry_after_is_waited_for(hub: StandInHub, home: Path) -> None:
    sha = hub.commit("model", BASE.repo_id, BASE_FILES)
    hub.faults.append(Fault(path="/api/", status=429, retry_after="1", times=1))
    assert prepare(hub, home, BASE).pins == {BASE.pin: sha}


def test_a_hub_that_is_ill_for_a_moment_is_asked_again(hub: StandInHub, home: Path) -> None:
    sha = hub.commit("model", BASE.repo_id, BASE_FILES)
    hub.faults.append(Fault(path="/resolve/", status=503, times=1))
    assert prepare(hub, home, BASE).pins == {BASE.pin: sha}


# -- what lies there --------------------------------------------------------------------------------


def test_what_the_guide_had_one_download_by_hand_is_used(hub: StandInHub, home: Path) -> None:
    """`hf download --local-dir $HF_HOME/hub/datasets--…` puts the files beside the cache's own directories."""
    sha = hub.commit("dataset", DATASET.repo_id, DATASET_FILES)
    for name, body in DATASET_FILES.items():
        path = DATASET.folder(home) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    assert prepare(hub, home, DATASET).pins == {DATASET.pin: sha}
    assert content(DATASET, home, sha) == DATASET_FILES
    assert hub.requests and hub.served == 0


def test_given_up_parts_go_by_their_age(hub: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, BASE_FILES)
    elsewhere = home / "hub" / "models--other--model" / "blobs"
    elsewhere.mkdir(parents=True)
    old, fresh = elsewhere / f"{'a' * 64}.incomplete", elsewhere / f"{'b' * 64}.0123abcd.incomplete"
    for part in (old, fresh):
        part.write_bytes(b"x")
    eight_days_ago = time.time() - 8 * 86400
    os.utime(old, (eight_days_ago, eight_days_ago))
    prepare(hub, home, BASE)
    assert not old.exists() and fresh.exists()


def test_six_jobs_that_want_the_same_download_it_once(hub: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, BIG_FILES)
    jobs = [begin(hub, home, BASE) for _ in range(6)]
    assert len({str(finish(job).pins) for job in jobs}) == 1
    assert hub.served == len(BIG_FILES["model.safetensors"]) + len(b"{}")

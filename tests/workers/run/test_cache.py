"""The caches, filled with the real huggingface_hub from a stand-in Hub.

Each `prepare` runs in a process of its own, with a box's environment, and can be killed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil
import pytest

from pi0q.workers.run.blobs import CHUNK
from pi0q.workers.run.fetches import PALIGEMMA, TOKENIZER_FILES, Fetch

if TYPE_CHECKING:
    from tests.standin_hub import StandInHub

pytest.importorskip("huggingface_hub")

_PATH = Path(__file__).parents[2] / "standin_hub.py"
_SPEC = importlib.util.spec_from_file_location("standin_hub", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
standin_hub = importlib.util.module_from_spec(_SPEC)
sys.modules["standin_hub"] = standin_hub
_SPEC.loader.exec_module(standin_hub)

DRIVER = """
import json, os, sys
from pathlib import Path
from pi0q.workers.run.cache import Fetch, Refused, prepare

asked = json.loads(sys.argv[1])
before = dict(os.environ)
fetches = [Fetch(**one) for one in asked["fetches"]]
def say(line):
    print(json.dumps({"say": line}), flush=True)
try:
    pins = prepare(fetches, hf_home=Path(asked["hf_home"]), pins=asked["pins"], say=say)
    end = {"pins": pins}
except Refused as refused:
    end = {"reason": refused.reason.value, "detail": refused.detail}
end |= {"environment_kept": before == dict(os.environ), "imported": "huggingface_hub" in sys.modules}
print(json.dumps(end), flush=True)
"""

DATASET = Fetch(kind="dataset", repo_id="you/grab_box", repo_type="dataset")
BASE = Fetch(kind="base", repo_id="you/base", repo_type="model")
TOKENIZER = Fetch(kind="tokenizer", repo_id=PALIGEMMA, repo_type="model", patterns=TOKENIZER_FILES)

DATASET_FILES = {"meta/info.json": b'{"codebase_version": "v3.0"}', "data/chunk-000/file-000.parquet": b"p" * 9000}
BASE_FILES = {"config.json": b"{}", "model.safetensors": b"w" * 50_000, "README.md": b"a policy"}
TOKENIZER_REPO = {
    "config.json": b'{"model_type": "paligemma"}',
    "tokenizer.json": b"{}",
    "tokenizer.model": b"t" * 5000,
    "tokenizer_config.json": b"{ }",
    "special_tokens_map.json": b"{  }",
    "model-00001-of-00003.safetensors": b"x" * 9000,
    "preprocessor_config.json": b"{   }",
}


@dataclass(frozen=True, kw_only=True)
class End:
    """What a prepare came to."""

    says: list[str]
    pins: dict[str, str]
    reason: str
    detail: str
    environment_kept: bool
    imported: bool


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with standin_hub.StandInHub() as hub:
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "huggingface"


def box_env(hub: StandInHub, home: Path, **env: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "PI0Q_"))}
    own = {"HOME": str(home.parent), "PI0Q_HOME": str(home.parent), "PI0Q_HF_ENDPOINT": hub.url}
    return {**kept, **own, "PI0Q_NETWORK_TURBO": str(home.parent / "network_turbo"), **env}


def begin(
    hub: StandInHub, home: Path, *fetches: Fetch, pins: Mapping[str, str] = {}, **env: str
) -> subprocess.Popen[str]:
    asked = {"fetches": [asdict(one) for one in fetches], "hf_home": str(home), "pins": dict(pins)}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(asked)],
        env=box_env(hub, home, **env),
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> End:
    told, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    *says, end = [json.loads(line) for line in told.splitlines()]
    blank = {"pins": {}, "reason": "", "detail": ""}
    return End(says=[line["say"] for line in says], **{**blank, **end})


def prepare(hub: StandInHub, home: Path, *fetches: Fetch, pins: Mapping[str, str] = {}, **env: str) -> End:
    return finish(begin(hub, home, *fetches, pins=pins, **env))


def content(fetch: Fetch, home: Path, sha: str) -> dict[str, bytes]:
    top = fetch.snapshot(home, sha)
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def main_of(fetch: Fetch, home: Path) -> str:
    return (fetch.folder(home) / "refs" / "main").read_text()


def test_everything_lies_at_the_commits_that_the_trainer_would_take(hub: StandInHub, home: Path) -> None:
    tagged = hub.commit("dataset", DATASET.repo_id, DATASET_FILES, refs=("main", "v3.0"))
    hub.commit("dataset", DATASET.repo_id, {**DATASET_FILES, "README.md": b"later"})
    base = hub.commit("model", BASE.repo_id, BASE_FILES)
    tokenizer = hub.commit("model", PALIGEMMA, TOKENIZER_REPO, gated=True)

    end = prepare(hub, home, DATASET, BASE, TOKENIZER, HF_TOKEN=standin_hub.TOKEN)

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
        f" going on with the copy in this box's cache (commit {first.pins[fetch.pin][:8]})"
        for fetch in (DATASET, TOKENIZER)
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
    hub.faults.append(standin_hub.Fault(path="/resolve/", status=403, code="GatedRepo"))
    end = prepare(hub, home, TOKENIZER, HF_TOKEN="hf_of_another_account")
    assert end.reason == "needs_access" and "HTTP 403" in end.detail
    assert "hf_of" not in end.detail
    assert not hub.downloads()


def test_a_token_without_the_right_is_told_from_a_missing_repository(hub: StandInHub, home: Path) -> None:
    hub.commit("model", BASE.repo_id, BASE_FILES)
    hub.faults.append(standin_hub.Fault(path="/resolve/", status=403))
    assert prepare(hub, home, BASE).reason == "needs_access"


@pytest.mark.parametrize("token", ["", standin_hub.TOKEN])
def test_a_repository_or_revision_that_is_not_there(hub: StandInHub, home: Path, token: str) -> None:
    env = {"HF_TOKEN": token} if token else {}
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
    hub.faults.append(standin_hub.Fault(path="/api/", status=500))
    ill = prepare(hub, home, BASE)
    assert ill.reason == "network" and "HTTP 500" in ill.detail
    assert len(hub.requests) == 3, "one for each round"
    hub.close()
    gone = prepare(hub, home, BASE)
    assert gone.reason == "network" and "ConnectionRefusedError" in gone.detail


def test_a_download_that_is_cut_goes_on_where_it_was(hub: StandInHub, home: Path) -> None:
    big = {**BASE_FILES, "model.safetensors": b"w" * 40_000_000}
    sha = hub.commit("model", BASE.repo_id, big)
    hub.faults.append(standin_hub.Fault(path="/cdn/", times=1))
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
    fault = standin_hub.Fault(path="/cdn/", times=1, halfway=threading.Event())
    hub.faults.append(fault)
    process = begin(hub, home, DATASET)
    assert fault.halfway.wait(60)
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
    assert not [one for one in psutil.process_iter() if one.pid in children], "its download outlived it"


def read_until(out: IO[str], text: str) -> list[str]:
    says = []
    for line in out:
        says.append(json.loads(line)["say"])
        if text in says[-1]:
            return says
    raise AssertionError(f"never said {text!r}: {says}")


def test_progress_is_told_in_bytes_while_a_file_comes(hub: StandInHub, home: Path) -> None:
    big = {**BASE_FILES, "model.safetensors": b"w" * 40_000_000}
    hub.commit("model", BASE.repo_id, big)
    fault = standin_hub.Fault(path="/cdn/", times=1, halfway=threading.Event())
    hub.faults.append(fault)
    process = begin(hub, home, BASE)
    assert process.stdout is not None
    says = read_until(process.stdout, "downloading 20.0/40.0 MB")
    assert says[0].startswith("downloading 0.0/40.0 MB")
    fault.resume.set()
    assert finish(process).reason == ""


def test_two_runs_that_want_the_same_download_it_once(hub: StandInHub, home: Path) -> None:
    sha = hub.commit("model", BASE.repo_id, BASE_FILES)
    fault = standin_hub.Fault(path="/cdn/", times=1, halfway=threading.Event())
    hub.faults.append(fault)
    first = begin(hub, home, BASE)
    assert fault.halfway.wait(60)
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
    asked = {"fetches": [asdict(BASE)], "hf_home": str(home), "pins": {}}
    process = subprocess.Popen(
        [*small, sys.executable, "-c", DRIVER, json.dumps(asked)],
        env=box_env(hub, home),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert finish(process).reason == "disk_full"

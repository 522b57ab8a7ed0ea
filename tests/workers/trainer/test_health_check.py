"""Whether a box can train at all: pure verdicts, and what is remembered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.dataset import DatasetInfo
from pi0q.jobs.spec import Resources, Spec
from pi0q.jobs.tracking import Tracking
from pi0q.ops.checks import trainer
from pi0q.ops.checks.finding import Status
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.host.cgroup_memory import Group
from pi0q.workers.trainer import health_check
from pi0q.workers.trainer.health_check import CheckedJob, HealthCheck, Limits, refusals
from pi0q.workers.trainer.interpreter import TrainerPython
from tests.conftest import WaitFor
from tests.workers.conftest import a_box, refused, submit

CARD = {"name": "RTX PRO 6000", "arch": "sm_120", "fits": True}
SEEN: dict[str, Any] = {
    "python": "3.12.1", "lerobot": "0.6.1",
    "torch": "2.11.0", "built": "12.8", "cuda": True, "cards": [CARD], "train_error": "", "pi0_error": "",
    "wandb": "0.27.2", "swanlab": "0.10.3", "decoders": {"": "", "torchcodec": "", "pyav": ""},
}  # fmt: skip
ROOMY = Limits(shared_mib=16 * 1024, memory_mib=None)
TRAIN: dict[str, Any] = {"dataset.repo_id": "you/box", "policy.type": "pi0", "batch_size": 32}
FACTS = DatasetInfo(format="v3.0", episodes=4, videos=True, frame_bytes=3 * 480 * 640 * 3 * 4)


def told(
    seen: dict[str, Any] | None = None, here: Limits = ROOMY, facts: DatasetInfo | None = FACTS, **train: Any
) -> list[str]:
    rehearsal = bool(train.pop("rehearsal", False))
    spec = Spec(name="x", train={**TRAIN, **train}, rehearsal=rehearsal)
    simulated, online = bool((seen or {}).get("simulated")), True
    job = CheckedJob(spec=spec, facts=facts, simulated=simulated, online=online)
    return list(refusals({**SEEN, **(seen or {})}, here, job))


def test_a_sound_box_says_nothing() -> None:
    assert told() == []


@pytest.mark.parametrize(
    ("seen", "train", "word"),
    [
        ({"error": "it ended with 1: boom"}, {}, "trainer: it ended with 1: boom"),
        (
            {"torch": None, "torch_error": "ImportError: libcudnn"},
            {},
            "torch can't be imported (ImportError: libcudnn)",
        ),
        ({"train_error": "ImportError: draccus"}, {}, "train script can't be imported (ImportError: draccus)"),
        ({"pi0_error": "ValueError: transformers"}, {}, "pi0 can't be imported (ValueError: transformers)"),
        ({"wandb": None}, {"wandb.enable": True}, "has no wandb"),
        ({"cuda": False, "cuda_error": "driver too old"}, {}, "(built for CUDA 12.8) can't use the GPU (driver"),
        ({"cards": [{**CARD, "fits": False}]}, {}, "no kernels for RTX PRO 6000 (sm_120)"),
        (
            {"decoders": {"": "RuntimeError: no libtorchcodec", "pyav": ""}},
            {},
            "write train.dataset.video_backend: pyav",
        ),
        (
            {"decoders": {"": "", "pyav": "gone"}},
            {"dataset.video_backend": "pyav"},
            "decoder: pyav gives no frame here",
        ),
    ],
)
def test_what_is_wrong_with_the_environment(seen: dict[str, Any], train: dict[str, Any], word: str) -> None:
    (said,) = told(seen, **train)
    assert word in said


@pytest.mark.parametrize(("version", "word"), [(None, "has no swanlab"), ("0.6.12", "has swanlab 0.6.12")])
def test_a_job_that_reports_to_swanlab_needs_its_package(version: str | None, word: str) -> None:
    seen = {**SEEN, "swanlab": version}
    spec = Spec(name="x", train=TRAIN, tracking=Tracking(to=("swanlab",)))
    job = CheckedJob(spec=spec, facts=FACTS, simulated=False, online=True)
    (said,) = refusals(seen, ROOMY, job)
    assert word in said and "Fix: pip install 'swanlab>=0.10" in said
    assert list(refusals(SEEN, ROOMY, job)) == [] and told({"swanlab": version}) == []
    # What an older pi0q remembered says nothing of it.
    assert list(refusals({name: value for name, value in SEEN.items() if name != "swanlab"}, ROOMY, job)) == []


def test_what_the_job_does_not_use_does_not_matter() -> None:
    act: dict[str, Any] = {"policy.type": "act"}
    assert told({"pi0_error": "there is none", "wandb": None}, **act) == []
    assert told({"cuda": False}, **{**act, "policy.device": "cpu"}) == []
    assert told({"cuda": False, "simulated": True}) == []
    assert told({"decoders": {"": "broken"}}, facts=replace(FACTS, videos=False)) == []
    assert told({"decoders": {"": "broken"}}, facts=None) == [], "nobody knows yet whether it has videos"


def test_a_container_without_its_card_or_with_little_memory() -> None:
    act: dict[str, Any] = {"policy.type": "act"}
    assert "无卡模式" in told(here=Limits(shared_mib=None, memory_mib=2048))[0]
    assert "may use 8.0 GiB" in told(here=Limits(shared_mib=None, memory_mib=8192))[0]
    assert told(here=Limits(shared_mib=None, memory_mib=8192), **act) == []
    assert told(here=Limits(shared_mib=None, memory_mib=8192), rehearsal=True) == []


def test_shared_memory_that_one_batch_of_each_process_would_fill() -> None:
    small = Limits(shared_mib=64, memory_mib=None)
    (said,) = told(here=small)
    assert "/dev/shm holds 64 MiB, 4 data processes need 1350 MiB" in said
    assert told(here=small, num_workers=0) == []
    assert told(here=small, facts=None) == []


def test_a_clock_of_another_day() -> None:
    assert "3 days off" in told(here=replace(ROOMY, clock=-3 * 86400.0))[0]
    assert told(here=replace(ROOMY, clock=7200.0)) == [], "two hours do no harm"


def test_an_unknown_environment_refuses_nothing() -> None:
    job = CheckedJob(spec=Spec(name="x", train=TRAIN), facts=FACTS, simulated=False, online=True)
    assert list(refusals(None, ROOMY, job)) == []


def test_a_refusal_names_the_command_that_prints_the_fix() -> None:
    (said,) = told({"train_error": "ImportError: draccus"})
    assert said.endswith(". Fix: `pi0q doctor` on the box names the command")


@pytest.mark.parametrize("v2", [False, True])
def test_measured_limits_know_the_memory_limit_of_both_cgroup_versions(tmp_path: Path, v2: bool) -> None:
    limit = tmp_path / ("memory.max" if v2 else "memory.limit_in_bytes")
    groups = [Group(tmp_path, v2)]
    limit.write_text("max\n" if v2 else f"{(1 << 63) - 4096}\n")
    assert health_check.measure_limits(groups=groups).memory_mib is None
    limit.write_text(f"{2 << 30}\n")
    assert health_check.measure_limits(groups=groups).memory_mib == 2048


def test_measured_limits_know_shared_memory(tmp_path: Path) -> None:
    assert health_check.measure_limits(shared=tmp_path / "none", groups=[]).shared_mib is None
    assert (health_check.measure_limits(shared=tmp_path, groups=[]).shared_mib or 0) > 0


# -- looked at once


class Looks:
    """Counts looks, and answers them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.answer, self.over = 0, dict(SEEN), threading.Semaphore(0)
        self.may = threading.Event()
        self.may.set()
        monkeypatch.setattr(health_check, "inspect_trainer", self.look)
        # Whatever else happens to the Python of the tests.
        monkeypatch.setattr(health_check, "last_install_ns", lambda _python: 0)

    def look(self, _python: str, _env: object) -> dict[str, Any]:
        assert self.may.wait(30)
        self.count += 1
        return self.answer

    def new(self, settings: Settings, boot: str = "b-1", *, cards: bool = True) -> HealthCheck:
        settings.home.mkdir(parents=True, exist_ok=True)
        return HealthCheck(settings, boot, has_gpus=lambda: cards, on_done=self.over.release)

    def done(self) -> None:
        assert self.over.acquire(timeout=30)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


HERE = TrainerPython(python=sys.executable, lerobot="0.6.1")


def test_it_is_looked_at_once_a_trainer_and_boot(
    chosen: Settings, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = looks.new(chosen)
    first.begin(HERE)
    looks.done()
    first.begin(HERE)
    looks.new(chosen).begin(HERE)
    assert looks.count == 1
    looks.new(chosen, "b-2").begin(HERE)
    looks.done()
    first.begin(replace(HERE, lerobot="0.7.0"))
    looks.done()
    assert looks.count == 3
    monkeypatch.setattr(health_check, "last_install_ns", lambda _python: 1)
    first.begin(replace(HERE, lerobot="0.7.0"))
    looks.done()
    assert looks.count == 4, "something was installed there"


def test_what_is_wrong_is_looked_at_again_and_never_remembered(chosen: Settings, looks: Looks) -> None:
    looks.answer = {**SEEN, "cuda": False, "cuda_error": "driver too old"}
    one = looks.new(chosen)
    one.begin(HERE)
    looks.done()
    assert not one.file.exists()
    one._retry_at = 0.0
    looks.answer = SEEN
    one.begin(HERE)
    looks.done()
    assert looks.count == 2 and json.loads(one.file.read_text())["seen"] == SEEN


def test_a_box_without_cards_is_not_looked_at_again_for_having_none(chosen: Settings, looks: Looks) -> None:
    looks.answer = {**SEEN, "cuda": False, "cuda_error": "no driver"}
    one = looks.new(chosen, cards=False)
    one.begin(HERE)
    looks.done()
    assert one.file.exists()


def test_jobs_wait_for_the_look_but_one_that_trained_here(
    chosen: Settings, store: Store, looks: Looks, wait_for: WaitFor
) -> None:
    box = a_box(chosen, store)
    (chosen.home / "datasets/d/meta").mkdir(parents=True)
    (chosen.home / "datasets/d/meta/info.json").write_text("{}")
    fresh, returned = submit(store), submit(store)
    store.client.hset(f"{store.prefix}job:{returned}", mapping={"box": "box-a", "started_ms": "5"})
    looks.may.clear()
    box.claims.admission.begin(HERE)
    box.claims.claim()
    assert list(box.claims.refusals) == [fresh] and refused(box, fresh).startswith(
        "preflight: the trainer's environment"
    )
    assert str(store.get(returned).state) == "claimed"
    with store.subscribe("wake:box-a") as waking:
        looks.may.set()
        said = waking.get_message(timeout=30)
        assert said and said["data"] == "", "the agent is woken"
    box.claims.claim()
    assert str(store.get(fresh).state) == "claimed"


def test_a_job_on_the_cpu_asks_nothing_of_cards() -> None:
    spec = Spec(name="x", train={**TRAIN, "policy.type": "act"}, resources=Resources(gpus=0))
    job = CheckedJob(spec=spec, facts=None, simulated=False, online=False)
    assert list(refusals({**SEEN, "cuda": False}, ROOMY, job)) == []


# -- PYTHONPATH ------------------------------------------------------------------------------------

SHOW = """
import json, os
from pi0q.workers.trainer import inspect_main
print(json.dumps(inspect_main.foreign(os.environ["PYTHONPATH"])))
"""


def on_path(*places: Path | str) -> dict[str, str]:
    """What the inspection finds in a Python with these places on its PYTHONPATH."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    done = subprocess.run([sys.executable, "-c", SHOW], env=env, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def package(place: Path, name: str) -> Path:
    (place / name).mkdir(parents=True)
    (place / name / "__init__.py").write_text("")
    return place


def test_another_package_on_pythonpath_is_found_with_its_place(tmp_path: Path) -> None:
    old = package(package(tmp_path / "old", "lerobot"), "datasets")
    assert on_path(old) == {"lerobot": str(old / "lerobot"), "datasets": str(old / "datasets")}
    (tmp_path / "relative").symlink_to(old)
    assert set(on_path("", tmp_path / "relative")) == {"lerobot", "datasets"}


def test_what_pythonpath_has_with_its_own_metadata_is_what_is_installed(tmp_path: Path) -> None:
    place = package(tmp_path, "lerobot")
    info = place / "lerobot-0.5.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lerobot\nVersion: 0.5.0\n")
    (info / "top_level.txt").write_text("lerobot\n")
    assert on_path(place) == {}


def test_a_directory_without_code_and_an_empty_pythonpath_are_no_packages(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    assert on_path(tmp_path) == {} and on_path("") == {}


def test_an_editable_checkout_on_pythonpath_is_what_is_installed(tmp_path: Path) -> None:
    checkout, site = package(tmp_path / "checkout" / "src", "lerobot"), tmp_path / "site"
    info = site / "lerobot-0.6.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lerobot\nVersion: 0.6.1\n")
    (info / "top_level.txt").write_text("lerobot\n")
    url = {"url": f"file://{tmp_path / 'checkout'}", "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(url))
    assert on_path(checkout, site) == {}


@pytest.mark.parametrize(
    "seen",
    [
        {"foreign": {"lerobot": "/root/old/lerobot"}},
        {"foreign": {"lerobot": "/root/old/lerobot"}, "train_error": "there is no lerobot.scripts.lerobot_train"},
        {"foreign": {"datasets": "/root/old/datasets"}, "train_error": "ImportError: cannot import name 'x'"},
        {"foreign": {"torch": "/root/old/torch"}, "torch": None, "torch_error": "AttributeError: no __version__"},
    ],
)
def test_another_package_on_pythonpath_refuses_and_the_fix_is_pythonpath(seen: dict[str, Any]) -> None:
    (refusal,) = told(seen)
    assert "PYTHONPATH makes it import" in refusal and "/root/old/" in refusal
    assert "Fix: unset PYTHONPATH where the worker starts" in refusal and "pip install" not in refusal
    reported = list(trainer.environment({**SEEN, **seen}, python="/opt/python", gpus=0))
    assert reported[0].cure.startswith("unset PYTHONPATH") and reported[0].status is Status.BROKEN


def test_a_harmless_package_on_pythonpath_is_only_reported() -> None:
    seen = {"foreign": {"einops": "/root/old/einops"}}
    assert told(seen) == []
    reported = list(trainer.environment({**SEEN, **seen}, python="/opt/python", gpus=0))
    assert [one.name for one in reported if "einops" in one.detail] == ["PYTHONPATH"]


def test_an_inspection_that_ends_without_an_answer_names_pythonpath(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('another json')")
    seen = health_check.inspect_trainer(sys.executable, {**os.environ, "PYTHONPATH": str(tmp_path)})
    assert "another json" in seen["error"] and f"PYTHONPATH is {tmp_path}" in seen["error"]


def test_another_pythonpath_is_another_environment(
    chosen: Settings, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = HealthCheck(chosen, "boot", has_gpus=lambda: False, on_done=lambda: None)
    python = TrainerPython(python="/opt/python", lerobot="0.6.1")
    monkeypatch.setenv("PYTHONPATH", "/root/old")
    check.begin(python)
    first = check._key
    monkeypatch.delenv("PYTHONPATH")
    later = HealthCheck(chosen, "boot", has_gpus=lambda: False, on_done=lambda: None)
    later.begin(python)
    assert later._key != first

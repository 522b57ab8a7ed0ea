"""Whether a box can train at all: pure verdicts, and what is remembered."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.dataset import Facts
from pi0q.jobs.spec import Resources, Spec
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers import soundness
from pi0q.workers.interpreter import Trainer
from pi0q.workers.soundness import Machine, Soundness, troubles

from ..conftest import WaitFor
from .conftest import a_box, submit

CARD = {"name": "RTX PRO 6000", "arch": "sm_120", "fits": True}
SEEN: dict[str, Any] = {
    "torch": "2.11.0", "built": "12.8", "cuda": True, "cards": [CARD], "train_error": "", "pi0_error": "",
    "wandb": "0.27.2", "decoders": {"": "", "torchcodec": "", "pyav": ""},
}  # fmt: skip
ROOMY = Machine(shared_mib=16 * 1024, memory_mib=None)
TRAIN: dict[str, Any] = {"dataset.repo_id": "you/box", "policy.type": "pi0", "batch_size": 32}
FACTS = Facts(format="v3.0", episodes=4, videos=True, frame_bytes=3 * 480 * 640 * 3 * 4)


def told(
    seen: dict[str, Any] | None = None, here: Machine = ROOMY, facts: Facts | None = FACTS, **train: Any
) -> list[str]:
    rehearsal = bool(train.pop("rehearsal", False))
    spec = Spec(name="x", train={**TRAIN, **train}, rehearsal=rehearsal)
    simulated, online = bool((seen or {}).get("simulated")), True
    return list(troubles({**SEEN, **(seen or {})}, here, spec, facts=facts, simulated=simulated, online=online))


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
        ({"wandb": None}, {"wandb.enable": True}, "it has no wandb"),
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


def test_what_the_job_does_not_use_does_not_matter() -> None:
    act: dict[str, Any] = {"policy.type": "act"}
    assert told({"pi0_error": "there is none", "wandb": None}, **act) == []
    assert told({"cuda": False}, **{**act, "policy.device": "cpu"}) == []
    assert told({"cuda": False, "simulated": True}) == []
    assert told({"decoders": {"": "broken"}}, facts=replace(FACTS, videos=False)) == []
    assert told({"decoders": {"": "broken"}}, facts=None) == [], "nobody knows yet whether it has videos"


def test_a_container_without_its_card_or_with_little_memory() -> None:
    act: dict[str, Any] = {"policy.type": "act"}
    assert "无卡模式" in told(here=Machine(shared_mib=None, memory_mib=2048))[0]
    assert "may use 8.0 GiB" in told(here=Machine(shared_mib=None, memory_mib=8192))[0]
    assert told(here=Machine(shared_mib=None, memory_mib=8192), **act) == []
    assert told(here=Machine(shared_mib=None, memory_mib=8192), rehearsal=True) == []


def test_shared_memory_that_one_batch_of_each_process_would_fill() -> None:
    small = Machine(shared_mib=64, memory_mib=None)
    (said,) = told(here=small)
    assert "/dev/shm holds 64 MiB, 4 data processes hand over 1350 MiB" in said
    assert told(here=small, num_workers=0) == []
    assert told(here=small, facts=None) == []


def test_a_clock_of_another_day() -> None:
    assert "3 days off" in told(here=replace(ROOMY, clock=-3 * 86400.0))[0]
    assert told(here=replace(ROOMY, clock=7200.0)) == [], "two hours do no harm"


def test_this_machine_is_measured(tmp_path: Path) -> None:
    (tmp_path / "max").write_text("max\n")
    assert soundness.machine(cgroup=tmp_path / "max").memory_mib is None
    (tmp_path / "max").write_text(f"{2 << 30}\n")
    assert soundness.machine(cgroup=tmp_path / "max").memory_mib == 2048
    assert soundness.machine(shared=tmp_path / "none").shared_mib is None
    assert (soundness.machine(shared=tmp_path).shared_mib or 0) > 0


# -- looked at once


class Looks:
    """Counts looks, and answers them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.answer, self.over = 0, dict(SEEN), threading.Semaphore(0)
        self.may = threading.Event()
        self.may.set()
        monkeypatch.setattr(soundness, "look", self.look)
        # Whatever else happens to the Python of the tests.
        monkeypatch.setattr(soundness, "changed", lambda _python: 0)

    def look(self, _python: str, _env: object) -> dict[str, Any]:
        assert self.may.wait(30)
        self.count += 1
        return self.answer

    def new(self, settings: Settings, boot: str = "b-1", *, cards: bool = True) -> Soundness:
        settings.home.mkdir(parents=True, exist_ok=True)
        return Soundness(settings, boot, cards=lambda: cards, done=self.over.release)

    def done(self) -> None:
        assert self.over.acquire(timeout=30)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


HERE = Trainer(python=sys.executable, lerobot="0.6.1")


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
    monkeypatch.setattr(soundness, "changed", lambda _python: 1)
    first.begin(replace(HERE, lerobot="0.7.0"))
    looks.done()
    assert looks.count == 4, "something was installed there"


def test_what_is_wrong_is_looked_at_again_and_never_remembered(chosen: Settings, looks: Looks) -> None:
    looks.answer = {**SEEN, "cuda": False, "cuda_error": "driver too old"}
    one = looks.new(chosen)
    one.begin(HERE)
    looks.done()
    assert not one.file.exists()
    one._again = 0.0
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
    box.gate.begin(HERE)
    box.claim()
    assert list(box.refusals) == [fresh] and box.refusals[fresh].startswith("preflight: the trainer's environment")
    assert str(store.get(returned).state) == "claimed"
    with store.subscribe("wake") as waking:
        looks.may.set()
        said = waking.get_message(timeout=30)
        assert said and said["data"] == "", "the agent is woken"
    box.claim()
    assert str(store.get(fresh).state) == "claimed"


def test_a_job_on_the_cpu_asks_nothing_of_cards() -> None:
    spec = Spec(name="x", train={**TRAIN, "policy.type": "act"}, resources=Resources(gpus=0))
    assert list(troubles({**SEEN, "cuda": False}, ROOMY, spec, facts=None, simulated=False, online=False)) == []

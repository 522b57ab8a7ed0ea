"""What a run needs of the Hub, and how its trainer is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.spec import Spec
from pi0q.workers.hub.requirements import (
    PALIGEMMA,
    TOKENIZER_FILES,
    Fetch,
    at_home,
    needs_network,
    offline_env,
    talks_to,
    wanted,
)

HOME = Path("/data/huggingface")
PINS = {"datasets/you/grab_box": "d" * 40, "lerobot/pi0": "b" * 40, PALIGEMMA: "c" * 40}


def job(*, rehearsal: bool = False, **train: Any) -> Spec:
    flags = {name.replace("__", "."): value for name, value in train.items()}
    first = {"dataset.repo_id": "you/grab_box", "policy.type": "pi0"}
    return Spec(name="grab_box", rehearsal=rehearsal, train={**first, **flags})


def kinds(spec: Spec, *, resuming: bool = False) -> list[str]:
    return [f"{fetch.kind} {fetch.repo_id}" for fetch in wanted(spec, resuming=resuming)]


def test_a_pi0_job_needs_dataset_base_and_tokenizer() -> None:
    assert wanted(job(policy__pretrained_path="lerobot/pi0"), resuming=False) == (
        Fetch(kind="dataset", repo_id="you/grab_box", repo_type="dataset"),
        Fetch(kind="base", repo_id="lerobot/pi0", repo_type="model"),
        Fetch(kind="tokenizer", repo_id=PALIGEMMA, repo_type="model", patterns=TOKENIZER_FILES),
    )


DATA, BASE, WORDS = "dataset you/grab_box", "base lerobot/pi0", f"tokenizer {PALIGEMMA}"
#: A tokenizer whose Python files LeRobot runs: brought here, so that they can be judged and are found offline.
CODE = "code lerobot/fast-action-tokenizer"
SMOLVLM = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"


@pytest.mark.parametrize(
    ("spec", "resuming", "found"),
    [
        (job(policy__pretrained_path="lerobot/pi0"), True, [DATA, WORDS]),
        (job(policy__pretrained_path="lerobot/pi0", rehearsal=True), False, [DATA, WORDS]),
        (job(policy__pretrained_path="/data/pi0"), False, [DATA, WORDS]),
        (job(policy__pretrained_path=None), False, [DATA, WORDS]),
        (job(dataset__root="grab_box", policy__pretrained_path="lerobot/pi0"), False, [BASE, WORDS]),
        (job(policy__type="act"), False, [DATA]),
        (job(policy__type="pi05"), False, [DATA, WORDS]),
        (job(policy__type="pi0_fast", policy__text_tokenizer_name="/data/t"), False, [DATA, CODE]),
        (job(policy__type=None, policy__path="lerobot/pi0"), False, [DATA, BASE]),
        (job(policy__type="smolvla"), False, [DATA, f"backbone {SMOLVLM}"]),
        (job(policy__type="smolvla", policy__pretrained_path="lerobot/pi0"), True, [DATA, f"backbone {SMOLVLM}"]),
        (
            job(policy__type=None, policy__path="lerobot/smolvla_base"),
            False,
            [DATA, "base lerobot/smolvla_base", f"backbone {SMOLVLM}"],
        ),
        (job(policy__type=None, policy__path="you/smolvla_box"), False, [DATA, "base you/smolvla_box"]),
        (
            job(policy__type="fastwam"),
            False,
            [
                DATA,
                "base lerobot/fastwam_base",
                *("backbone Wan-AI/Wan2.2-TI2V-5B-Diffusers", "backbone google/umt5-xxl"),
            ],
        ),
        (
            job(policy__type="groot"),
            False,
            [DATA, "code nvidia/Cosmos-Reason2-2B", "own backbone nvidia/GR00T-N1.7-3B"],
        ),
    ],
)
def test_what_is_needed(spec: Spec, resuming: bool, found: list[str]) -> None:
    assert kinds(spec, resuming=resuming) == found


def test_the_users_revisions_are_asked_for() -> None:
    spec = job(dataset__revision="before", policy__pretrained_path="a/b", policy__pretrained_revision="v2")
    assert [fetch.revision for fetch in wanted(spec, resuming=False)] == ["before", "v2", None]


def test_a_streamed_dataset_is_not_downloaded_but_pinned() -> None:
    spec = job(dataset__streaming=True)
    data, *_ = fetches = wanted(spec, resuming=False)
    assert data.takes("meta/info.json") and not data.takes("data/chunk-000/file-000.parquet")
    told = at_home(spec, fetches, hf_home=HOME, pins=PINS).train
    assert told["dataset.revision"] == "d" * 40 and "dataset.root" not in told


def test_the_trainer_is_told_directories() -> None:
    spec = job(dataset__revision="main", policy__pretrained_path="lerobot/pi0", policy__pretrained_revision="v2")
    told = at_home(spec, wanted(spec, resuming=False), hf_home=HOME, pins=PINS).train
    assert told == {
        "dataset.repo_id": "you/grab_box",
        "policy.type": "pi0",
        "dataset.root": f"/data/huggingface/hub/datasets--you--grab_box/snapshots/{'d' * 40}",
        "policy.pretrained_path": f"/data/huggingface/hub/models--lerobot--pi0/snapshots/{'b' * 40}",
    }


def test_a_policy_path_stays_a_policy_path() -> None:
    spec = job(policy__path="lerobot/pi0")
    told = at_home(spec, wanted(spec, resuming=False), hf_home=HOME, pins=PINS).train
    assert told["policy.path"] == f"/data/huggingface/hub/models--lerobot--pi0/snapshots/{'b' * 40}"
    assert "policy.pretrained_path" not in told


def test_a_dataset_and_a_model_of_one_name_have_two_pins() -> None:
    spec = job(policy__pretrained_path="you/grab_box")
    data, base, _ = wanted(spec, resuming=False)
    assert data.pin != base.pin


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (job(), None),
        (job(policy__type="act", policy__push_to_hub=False, policy__repo_id="you/it"), None),
        # The box pushes when the trainer is gone.
        (job(policy__push_to_hub=True, policy__repo_id="you/it"), None),
        (job(policy__push_to_hub=True, policy__repo_id="you/it", rehearsal=True), None),
        (job(dataset__streaming=True), "dataset.streaming"),
        (job(dataset__streaming=True, dataset__root="/data/it"), None),
        (job(policy__use_peft=True), "policy.use_peft"),
        (job(policy__type="smolvla"), None),
        (job(policy__type=None, policy__path="lerobot/pi0"), "policy.type of a path"),
    ],
)
def test_the_network_is_cut_where_the_caches_are_all_it_needs(spec: Spec, why: str | None) -> None:
    told = needs_network(spec)
    assert told is None if why is None else str(told).startswith(f"{why}:")
    env = offline_env(spec, hf_home=HOME)
    assert env.get("HF_HUB_OFFLINE") == ("1" if why is None else None)
    assert env["HF_HOME"] == str(HOME)


@pytest.mark.parametrize(
    ("spec", "places"),
    [
        (job(), ()),
        (job(wandb__enable=True), ("wandb",)),
        (job(wandb__enable=True, wandb__mode="offline"), ()),
        (job(wandb__enable=True, rehearsal=True), ()),
        (job(policy__push_to_hub=True, policy__repo_id="you/x", wandb__enable=True), ("wandb",)),
        (job(dataset__streaming=True), ("files",)),
        (job(policy__type="smolvla"), ()),
        (job(policy__type=None, policy__path="lerobot/smolvla_base"), ("files",)),
    ],
)
def test_the_trainer_gets_a_way_to_what_it_talks_to(spec: Spec, places: tuple[str, ...]) -> None:
    assert talks_to(spec) == places


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin", "config.json"], ["model.safetensors", "config.json"]),
        (["pytorch_model.bin", "config.json", "flax_model.msgpack"], ["pytorch_model.bin", "config.json"]),
        (["modeling_evil.py", "onnx/model.onnx", "merges.txt"], ["merges.txt"]),
    ],
)
def test_backbone_takes_weights_once_and_no_code(names: list[str], chosen: list[str]) -> None:
    (fetch,) = [fetch for fetch in wanted(job(policy__type="evo1"), resuming=False) if fetch.kind == "backbone"]
    assert fetch.chosen(names) == chosen


def test_base_takes_all_of_its_files() -> None:
    names = ["model.safetensors", "pytorch_model.bin", "README.md"]
    assert Fetch(kind="base", repo_id="a/b", repo_type="model").chosen(names) == names


def test_reward_classifier_reads_the_weights_of_the_repository_that_brings_its_code() -> None:
    spec = Spec(name="x", train={"dataset.repo_id": "you/grab_box", "reward_model.type": "reward_classifier"})
    *_, fetch = wanted(spec, resuming=False)
    assert (fetch.kind, fetch.repo_id) == ("code", "lerobot/resnet10")
    assert fetch.takes("model.safetensors") and fetch.takes("modeling_resnet.py")


def test_a_resumed_adapter_needs_its_base_again() -> None:
    """Its checkpoints hold the adapter alone."""
    train = {"dataset.repo_id": "you/box", "policy.type": "pi0", "policy.pretrained_path": "lerobot/pi0"}

    def bases(**more: Any) -> list[str]:
        found = wanted(Spec(name="x", train={**train, **more}), resuming=True)
        return [one.repo_id for one in found if one.kind == "base"]

    assert bases() == []
    assert bases(**{"peft.r": 8}) == ["lerobot/pi0"]
    # What the file names is the adapter then, which the checkpoint replaces.
    assert bases(**{"peft.r": 8, "policy.use_peft": True}) == []

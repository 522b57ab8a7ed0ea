"""What kernels are compiled for, as a box and the trainer's Python tell it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pi0q.jobs.compiled_kernels import CompiledFor
from pi0q.jobs.spec import Spec, parse
from pi0q.workers.compiled import facts
from pi0q.workers.host import nvml

SPEC = parse(
    "train: {dataset: {repo_id: l/d}, policy: {type: pi0, compile_model: true}, batch_size: 4}", filename="job.yaml"
)


def gather(spec: Spec = SPEC, **how: Any) -> CompiledFor:
    return facts.gather(spec, **{"python": sys.executable, "gpus": (), "dataset": None, **how})


def test_versions_are_those_of_the_trainers_python() -> None:
    found = gather()
    assert found.python == platform.python_version()
    assert found.torch == importlib.metadata.version("torch")
    assert found.lerobot == importlib.metadata.version("lerobot")
    assert (found.train["policy.type"], found.train["batch_size"]) == ("pi0", 4)


def test_processor_counts_only_where_the_job_has_no_gpu() -> None:
    assert gather().processor.startswith(platform.machine())
    assert gather(gpus=("FAKE-box-a-0",)).processor == ""


def test_shapes_are_those_of_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    features = {"action": {"dtype": "float32", "shape": [6]}}
    (tmp_path / "meta" / "info.json").write_text(json.dumps({"features": features}))
    assert gather(dataset=tmp_path).features == {"action": "float32 [6]"}
    (tmp_path / "meta" / "info.json").write_text("no json")
    assert gather(dataset=tmp_path).features == {}


def test_cards_are_named_with_their_capability_and_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    binding = SimpleNamespace(
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetCudaComputeCapability=lambda _: [9, 0],
        nvmlDeviceGetName=lambda _: b"NVIDIA H200",
        nvmlSystemGetDriverVersion=lambda: b"570.86",
    )
    monkeypatch.setattr(nvml, "load", lambda: binding)
    found = gather(gpus=("GPU-1", "GPU-2"))
    assert (found.gpus, found.driver) == (("NVIDIA H200 9.0", "NVIDIA H200 9.0"), "570.86")


def test_card_that_nvml_does_not_tell_of_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise nvml.Unavailable("no driver")

    monkeypatch.setattr(nvml, "load", away)
    with pytest.raises(facts.Unknown, match="no driver"):
        gather(gpus=("GPU-1",))


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false"])
def test_python_that_does_not_answer_is_unknown(python: str) -> None:
    with pytest.raises(facts.Unknown, match="does not tell its versions"):
        gather(python=python)

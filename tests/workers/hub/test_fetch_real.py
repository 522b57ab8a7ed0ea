"""This interpreter's LeRobot with the network cut, on a cache that `prepare` filled from a stand-in Hub."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs import command
from pi0q.jobs.spec import Spec
from pi0q.workers.hub.requirements import PALIGEMMA, at_home, offline_env, wanted
from tests import real_lerobot
from tests.standin_hub import StandInHub


def absent(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed here")


pytestmark = [pytest.mark.real, absent("lerobot")]

PREPARE = """
import json, sys
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import load
from pi0q.workers.hub.fetch import prepare
from pi0q.workers.hub.requirements import wanted
from pi0q.workers.hub.session import Pins
spec = Spec(name="real", train=json.loads(sys.argv[1]))
pins = prepare(wanted(spec, resuming=False), load(), pins=Pins({}), on_phase=lambda phase: None)
print(json.dumps(pins.commits))
"""
DATASET = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
joints = {"dtype": "float32", "shape": (6,), "names": [f"j{i}" for i in range(6)]}
image = {"dtype": "image", "shape": (32, 32, 3), "names": ["height", "width", "channel"]}
features = {"observation.images.top": image, "observation.state": joints, "action": joints}
made = LeRobotDataset.create(repo_id="you/box", fps=10, features=features, root=sys.argv[1], use_videos=False)
random = np.random.default_rng(0)
for _ in range(2):
    for _ in range(10):
        frame = {name: random.normal(size=6).astype("float32") for name in ("observation.state", "action")}
        frame["observation.images.top"] = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        made.add_frame({**frame, "task": "grab the box"})
    made.save_episode()
made.finalize()
"""
TOKENIZER = """
import sys
from transformers import AutoTokenizer
print(AutoTokenizer.from_pretrained(sys.argv[1]).get_vocab()["grab"])
"""
#: A tokenizer of a few words.
WORDS = """
import json, sys
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
place = Path(sys.argv[1])
place.mkdir()
names = ("<pad>", "<eos>", "<bos>", "<unk>", "grab", "the", "box")
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(names)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
(place / "tokenizer.json").write_text(tokenizer.to_str())
special = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 16, **special}
(place / "tokenizer_config.json").write_text(json.dumps(told))
(place / "config.json").write_text(json.dumps({"model_type": "bart"}))
"""
#: A CLIP of random weights, as the repository of the real one has it.
CLIP = f"""{WORDS}from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel
text = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
vision = dict(text, image_size=32, patch_size=16)
text = dict(text, vocab_size=64, max_position_embeddings=77, eos_token_id=1, bos_token_id=2, pad_token_id=0)
CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).save_pretrained(place)
CLIPImageProcessor().save_pretrained(place)
"""
DIT: dict[str, Any] = {
    "policy.type": "multi_task_dit",
    "policy.device": "cpu",
    "policy.push_to_hub": False,
    "policy.hidden_dim": 32,
    "policy.num_layers": 1,
    "policy.num_heads": 2,
    "policy.horizon": 8,
    "policy.n_action_steps": 4,
    "policy.image_resize_shape": None,
    "policy.image_crop_shape": None,
}
FLORENCE: dict[str, Any] = {
    "projection_dim": 32,
    "vision_config": {
        "depths": [1, 1, 1, 1],
        "embed_dim": [16, 16, 16, 16],
        "num_heads": [2, 2, 2, 2],
        "num_groups": [2, 2, 2, 2],
        "projection_dim": 32,
        "drop_path_rate": 0.0,
    },
    "text_config": {
        "vocab_size": 64,
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "max_position_embeddings": 1024,
    },
}
XVLA: dict[str, Any] = {
    "policy.type": "xvla",
    "policy.device": "cpu",
    "policy.push_to_hub": False,
    "policy.hidden_size": 32,
    "policy.depth": 1,
    "policy.num_heads": 2,
    "policy.chunk_size": 4,
    "policy.n_action_steps": 4,
    "policy.action_mode": "auto",
    "policy.max_action_dim": 6,
    "policy.tokenizer_max_length": 8,
    "policy.florence_config": FLORENCE,
}
TRAIN: dict[str, Any] = {
    "dataset.repo_id": "you/box",
    "policy.type": "act",
    "policy.device": "cpu",
    "policy.push_to_hub": False,
    "policy.dim_model": 64,
    "policy.n_heads": 2,
    "policy.dim_feedforward": 128,
    "policy.n_encoder_layers": 1,
    "policy.n_vae_encoder_layers": 1,
    "policy.chunk_size": 8,
    "policy.n_action_steps": 8,
    "policy.pretrained_backbone_weights": None,
    "policy.optimizer_lr": 0.0,
    "policy.optimizer_lr_backbone": 0.0,
    "policy.optimizer_weight_decay": 0.0,
    "batch_size": 2,
    "steps": 2,
    "save_freq": 2,
    "log_freq": 1,
    "num_workers": 0,
}


class Box:
    """A machine of its own: its home, its Hugging Face cache, and nothing of the caller's."""

    def __init__(self, place: Path, hub: StandInHub) -> None:
        self.place, self.hf_home = place, place / "huggingface"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self.env = {
            **kept,
            "HOME": str(place),
            "PI0Q_HOME": str(place),
            "PI0Q_HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def python(self, *args: str, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", *args], env={**self.env, **env}, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def prepare(self, train: dict[str, Any]) -> dict[str, str]:
        pins: dict[str, str] = json.loads(self.python(PREPARE, json.dumps(train)))
        return pins

    def train(self, train: dict[str, Any], pins: dict[str, str], name: str) -> Path:
        """Trains to the end; the last checkpoint's `pretrained_model`."""
        spec = Spec(name=name, train=train)
        home = at_home(spec, wanted(spec, resuming=False), hf_home=self.hf_home, pins=pins)
        built = command.fresh(
            home,
            lerobot=importlib.metadata.version("lerobot"),
            output_dir=str(self.place / name),
            run_id="none",
        )
        program = str(Path(sys.executable).with_name(built.argv[0]))
        done = subprocess.run(
            [program, *built.argv[1:]],
            env={**self.env, **built.env, **offline_env(home, hf_home=self.hf_home)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return self.place / name / "checkpoints" / "000002" / "pretrained_model"


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        yield hub


@pytest.fixture
def box(tmp_path: Path, hub: StandInHub) -> Box:
    return Box(tmp_path, hub)


def files(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def test_lerobot_trains_with_the_network_cut(box: Box, hub: StandInHub) -> None:
    box.python(DATASET, str(box.place / "made"))
    hub.commit("dataset", "you/box", files(box.place / "made"), refs=("main", "v3.0"))
    first = box.train(TRAIN, box.prepare(TRAIN), "first")
    hub.commit("model", "you/base", files(first))
    further = {**TRAIN, "policy.pretrained_path": "you/base", "seed": 7}
    pins = box.prepare(further)
    assert set(pins) == {"datasets/you/box", "you/base"}

    hub.close()
    hub.forget()
    second = box.train(further, pins, "second")

    assert not hub.requests
    # With a learning rate of 0, and another seed, weights are the same only if they were loaded.
    assert (second / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


@absent("transformers")
def test_the_tokenizer_is_found_at_the_pin_with_the_network_cut(box: Box, hub: StandInHub) -> None:
    for number in (1, 2):
        words = {"<unk>": 0, "grab": number, "box": 3 - number}
        hub.commit(
            "model",
            PALIGEMMA,
            {
                "config.json": b'{"model_type": "paligemma"}',
                "tokenizer_config.json": b'{"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}',
                "tokenizer.json": json.dumps(
                    {
                        "version": "1.0",
                        "added_tokens": [],
                        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
                    }
                ).encode(),
            },
            refs=("main", f"number-{number}"),
        )
    pi0 = {**TRAIN, "policy.type": "pi0", "dataset.root": "/data/box"}
    pins = box.prepare(pi0)
    hub.commit("model", PALIGEMMA, {"config.json": b"{}", "tokenizer.json": b"later"})

    told = box.python(TOKENIZER, PALIGEMMA, **offline_env(Spec(name="real", train=pi0), hf_home=box.hf_home))

    assert set(pins) == {PALIGEMMA}
    assert told.strip() == "2"


@absent("transformers")
@absent("diffusers")
@pytest.mark.skipif(
    not real_lerobot.takes("policy.text_encoder_name"), reason=f"LeRobot {real_lerobot.VERSION} has no multi_task_dit"
)
def test_frozen_models_of_a_policy_are_read_from_the_cache_with_the_network_cut(box: Box, hub: StandInHub) -> None:
    box.python(DATASET, str(box.place / "made"))
    hub.commit("dataset", "you/box", files(box.place / "made"), refs=("main", "v3.0"))
    box.python(CLIP, str(box.place / "clip"))
    beside = {"pytorch_model.bin": b"a pickle", "modeling_clip.py": b"raise SystemExit", "README.md": b"CLIP"}
    hub.commit("model", "openai/clip-vit-base-patch16", files(box.place / "clip") | beside)
    train = {name: value for name, value in TRAIN.items() if not name.startswith("policy.")} | DIT
    pins = box.prepare(train)
    assert set(pins) == {"datasets/you/box", "openai/clip-vit-base-patch16"}

    hub.close()
    hub.forget()
    trained = box.train(train, pins, "dit")

    assert (trained / "model.safetensors").stat().st_size > 0 and not hub.requests
    fetched = {path.name for path in (box.hf_home / "hub").glob("models--openai--*/snapshots/*/*")}
    assert "model.safetensors" in fetched and not fetched & set(beside)


@absent("transformers")
@pytest.mark.skipif(real_lerobot.VERSION < "0.6", reason="xvla before LeRobot 0.6 brings its own Florence")
def test_tokenizer_of_xvla_is_read_from_the_cache_with_the_network_cut(box: Box, hub: StandInHub) -> None:
    box.python(DATASET, str(box.place / "made"))
    hub.commit("dataset", "you/box", files(box.place / "made"), refs=("main", "v3.0"))
    box.python(WORDS, str(box.place / "words"))
    hub.commit("model", "facebook/bart-large", files(box.place / "words") | {"model.safetensors": b"not read"})
    train = {name: value for name, value in TRAIN.items() if not name.startswith("policy.")} | XVLA
    pins = box.prepare(train)

    hub.close()
    hub.forget()
    trained = box.train(train, pins, "xvla")

    assert (trained / "model.safetensors").stat().st_size > 0 and not hub.requests
    assert not list((box.hf_home / "hub").glob("models--facebook--*/snapshots/*/model.safetensors"))

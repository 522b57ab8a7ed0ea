"""Trains every policy and reward model that fits on a CPU, shrunk, with pi0q's own command line; prints a table.

    python benchmarks/policies.py HOME [NAME …]

In one process, so that LeRobot is imported once. Each job file goes through the parser, the flag table and the
command; each training makes two steps, saves a checkpoint, and a second one resumes from it. HOME gets a dataset of
noise and, where a policy reads a tokenizer or a small frozen model from the Hub, a stand-in for it with random weights.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

TRAIN: dict[str, dict[str, Any]] = {
    "act": {
        "dim_model": 32, "n_heads": 2, "dim_feedforward": 64, "n_encoder_layers": 1, "n_vae_encoder_layers": 1,
        "chunk_size": 8, "n_action_steps": 8, "pretrained_backbone_weights": None,
    },
    "diffusion": {
        "down_dims": [16, 32], "n_groups": 4, "horizon": 16, "resize_shape": None, "crop_shape": [80, 80],
        "pretrained_backbone_weights": None,
    },
    "tdmpc": {"latent_dim": 8, "mlp_dim": 16, "q_ensemble_size": 2, "image_encoder_hidden_dim": 8},
    "vqbet": {
        "pretrained_backbone_weights": None, "crop_shape": [80, 80],
        "gpt_n_layer": 1, "gpt_n_head": 2, "gpt_hidden_dim": 32, "gpt_input_dim": 32,
        "gpt_output_dim": 32, "n_vqvae_training_steps": 2, "vqvae_enc_hidden_dim": 16,
    },
    "multi_task_dit": {
        "hidden_dim": 32, "num_layers": 1, "num_heads": 2, "horizon": 8, "n_action_steps": 4,
        "image_resize_shape": [224, 224], "image_crop_shape": [224, 224],
    },
    "xvla": {
        "hidden_size": 32, "depth": 1, "num_heads": 2, "chunk_size": 4, "n_action_steps": 4, "action_mode": "auto",
        "max_action_dim": 6, "tokenizer_max_length": 8, "florence_config": {
            "projection_dim": 32,
            "vision_config": {
                "depths": [1, 1, 1, 1], "embed_dim": [16, 16, 16, 16], "num_heads": [2, 2, 2, 2],
                "num_groups": [2, 2, 2, 2], "projection_dim": 32, "drop_path_rate": 0.0,
            },
            "text_config": {
                "vocab_size": 64, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32,
                "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
                "max_position_embeddings": 1024,
            },
        },
    },
    "sarm": {"image_key": "observation.images.top", "hidden_dim": 24, "num_heads": 2, "num_layers": 1, "frame_gap": 2},
    "reward_classifier": {
        "num_cameras": 1, "num_classes": 2, "hidden_dim": 8, "latent_dim": 8,
        "input_features": {"observation.images.top": {"type": "VISUAL", "shape": [3, 128, 128]}},
        "output_features": {"next.reward": {"type": "REWARD", "shape": [1]}},
    },
}  # fmt: skip
REWARD_MODELS = ("sarm", "reward_classifier")


def noise(root: Path) -> None:
    """Write a dataset of noise with one camera of 128 x 128 pixels, and rewards for the classifier."""
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    joints = {"dtype": "float32", "shape": (6,), "names": [f"joint_{number}" for number in range(6)]}
    features = {
        "observation.images.top": {"dtype": "image", "shape": (128, 128, 3), "names": ["height", "width", "channel"]},
        "observation.state": joints, "action": joints,
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    }  # fmt: skip
    dataset = LeRobotDataset.create("local/noise", fps=10, features=features, root=root, use_videos=False)
    dice = np.random.default_rng(0)
    for _ in range(3):
        for number in range(60):
            dataset.add_frame({
                "observation.images.top": dice.integers(0, 255, (128, 128, 3), dtype=np.uint8),
                "observation.state": dice.normal(size=6).astype(np.float32),
                "action": dice.normal(size=6).astype(np.float32),
                "next.reward": np.array([number % 2], dtype=np.float32), "task": "grab the box",
            })  # fmt: skip
        dataset.save_episode()
    dataset.finalize()


def snapshot(home: Path, repo: str) -> Path:
    """Return the directory that stands for a repository in the Hub's cache, made current."""
    folder = home / "huggingface" / "hub" / f"models--{repo.replace('/', '--')}"
    place = folder / "snapshots" / ("0" * 39 + "1")
    place.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(place.name)
    return place


def words(place: Path, *, kind: str = "PreTrainedTokenizerFast") -> None:
    """Write a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ("<pad>", "<eos>", "<bos>", "<unk>", "grab", "the", "box")
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if not (place / "config.json").exists():
        (place / "config.json").write_text(json.dumps({"model_type": "bart"}))
    (place / "tokenizer.json").write_text(tokenizer.to_str())
    special = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    (place / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": kind, "model_max_length": 16, **special})
    )


def clip(home: Path, repo: str) -> None:
    """A CLIP of random weights for a repository whose weights are frozen or read anew."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    place = snapshot(home, repo)
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**text, "image_size": 224, "patch_size": 32}
    text |= {"vocab_size": 64, "max_position_embeddings": 77, "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
    width = 512 if "patch32" in repo else 32
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)).save_pretrained(place)
    CLIPImageProcessor().save_pretrained(place)
    words(place, kind="CLIPTokenizerFast" if "patch32" in repo else "PreTrainedTokenizerFast")


def resnet(home: Path) -> None:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(snapshot(home, "lerobot/resnet10"))


STAND_INS: dict[str, Callable[[Path], None]] = {
    "multi_task_dit": lambda home: clip(home, "openai/clip-vit-base-patch16"),
    "sarm": lambda home: clip(home, "openai/clip-vit-base-patch32"),
    "xvla": lambda home: words(snapshot(home, "facebook/bart-large")),
    "reward_classifier": resnet,
}


def job(name: str, home: Path) -> str:
    section, (kind, _, adapter) = "reward_model" if name in REWARD_MODELS else "policy", name.partition("+")
    own = {"type": kind, "device": "cpu", "push_to_hub": False, **TRAIN[kind]}
    train: dict[str, Any] = {}
    if adapter:
        own["pretrained_path"] = str(home / "output" / kind / "checkpoints" / "000002" / "pretrained_model")
        train["peft"] = {"method_type": "LORA", "r": 4, "target_modules": r".*encoder\.layers\..*\.linear[12]"}
    train |= {
        "dataset": {"repo_id": "local/noise", "root": str(home / "noise")}, section: own, "steps": 2,
        "batch_size": 2, "save_freq": 2, "log_freq": 1, "num_workers": 0,
    }  # fmt: skip
    return json.dumps({"name": name, "resources": {"gpus": 0}, "train": train})


def train(argv: tuple[str, ...]) -> None:
    """What `lerobot-train` does, in this process."""
    from lerobot.scripts import lerobot_train

    sys.argv = list(argv)
    lerobot_train.train()


def attempt(name: str, home: Path) -> dict[str, Any]:
    """Train two steps, then resume for two more. What LeRobot raises becomes the row's last column."""
    from pi0q.jobs import command, spec
    from pi0q.jobs.checkpoint import missing
    from pi0q.jobs.schema import flags

    release, output = version("lerobot"), home / "output" / name
    parsed = spec.parse(job(name, home), filename=f"{name}.yaml")
    told: dict[str, Any] = {"name": name, "problems": flags.problems(parsed.train, release)}
    started, said = time.monotonic(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            STAND_INS.get(name, lambda home: None)(home)
            train(command.fresh(parsed, lerobot=release, output_dir=str(output), run_id="x").argv)
            saved = output / "checkpoints" / "000002"
            told["bytes"] = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file())
            told["missing"] = missing(str(file.relative_to(saved)) for file in saved.rglob("*") if file.is_file())
            more = spec.parse(job(name, home).replace('"steps": 2', '"steps": 4'), filename=f"{name}.yaml")
            train(
                command.resumed(more, checkpoint=str(saved), lerobot=release, output_dir=str(output), run_id="x").argv
            )
            told["resumed"] = (output / "checkpoints" / "000004").is_dir()
    except (Exception, SystemExit) as error:
        told["error"] = f"{type(error).__name__}: {error}"[:600]
        told["where"] = traceback.format_exc()[-1500:]
    return told | {"seconds": round(time.monotonic() - started, 1)}


def main(home: Path, names: list[str]) -> None:
    os.environ |= {"HF_HOME": str(home / "huggingface"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if not (home / "noise").exists():
        noise(home / "noise")
    for name in names or (*TRAIN, "act+lora"):
        print(json.dumps(attempt(name, home)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])

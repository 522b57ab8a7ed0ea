"""Measure the VRAM that LeRobot's own training step takes, policy by policy, on one GPU.

    PYTHON benchmarks/vram.py --out DIR                 a GPU of 140 GB: about 15 minutes
    PYTHON benchmarks/vram.py --out DIR --only pi0,act  some of the policies
    PYTHON benchmarks/vram.py --out DIR --tiny          the same script rehearsed on a CPU, models shrunk

PYTHON has LeRobot 0.6.1, transformers, diffusers, peft and pynvml. Weights are random and no file is fetched: neither
changes what a step holds in memory. Each line of DIR/vram.jsonl is one case: `used_mib` is what NVML says that the
card has in use, less what it had before this process; `allocated_mib` and `reserved_mib` are the allocator's peaks.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_policy_config
from lerobot.scripts.lerobot_train import update_policy
from lerobot.utils.logging_utils import AverageMeter, MetricsTracker

MIB = 2**20
#: Size of the state and of an action: a six-jointed arm with a gripper.
JOINTS = 7
#: Steps a case runs: Adam's moments exist from the second one on.
STEPS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What a case gives to the model in one step."""

    batch: int
    cameras: int = 1
    height: int = 224
    width: int = 224


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """One model as its flags build it, and the loads it is measured under."""

    policy: str
    flags: dict[str, Any] = dataclasses.field(default_factory=dict)
    lora: bool = False
    loads: tuple[Load, ...] = ()


def _batches(*sizes: int, **more: int) -> tuple[Load, ...]:
    return tuple(Load(batch=size, **more) for size in sizes)


#: Batches 1, 8 and 32 are for a fit; the others for the test of it.
FIT = _batches(1, 8, 32)
APART = _batches(4, 16)
MORE_CAMERAS = _batches(8, cameras=2) + _batches(8, cameras=3)
VGA = _batches(1, 8, height=480, width=640) + _batches(8, cameras=2, height=480, width=640)


def _pi(policy: str) -> Iterator[Model]:
    narrow, checkpointing = {"dtype": "bfloat16"}, {"gradient_checkpointing": True}
    yield Model(policy=policy, flags=narrow, loads=FIT + APART + MORE_CAMERAS + VGA[1:2])
    yield Model(policy=policy, flags=narrow | checkpointing, loads=FIT + APART + MORE_CAMERAS)
    yield Model(policy=policy, flags={}, loads=FIT + APART)
    yield Model(policy=policy, flags=checkpointing, loads=FIT + APART)
    yield Model(policy=policy, flags=narrow | {"train_expert_only": True}, loads=FIT + APART)
    yield Model(policy=policy, flags=narrow | {"freeze_vision_encoder": True}, loads=_batches(1, 8))
    yield Model(policy=policy, flags=narrow, lora=True, loads=FIT + APART)
    yield Model(policy=policy, flags=narrow | checkpointing, lora=True, loads=FIT + APART)


def models() -> Iterator[Model]:
    """Yield every model of the grid."""
    yield from _pi("pi0")
    yield from _pi("pi05")
    small = FIT + APART + _batches(64) + MORE_CAMERAS + VGA
    yield Model(policy="smolvla", loads=small)
    yield Model(policy="smolvla", flags={"train_expert_only": False, "freeze_vision_encoder": False}, loads=small)
    yield Model(policy="smolvla", lora=True, loads=FIT)
    yield Model(policy="act", loads=small)
    yield Model(policy="act", flags={"chunk_size": 50, "n_action_steps": 50}, loads=FIT + VGA)
    yield Model(policy="diffusion", loads=small)
    yield Model(policy="diffusion", flags={"crop_shape": (84, 84), "horizon": 16, "n_action_steps": 8}, loads=FIT + VGA)
    yield Model(policy="diffusion", flags={"gradient_checkpointing": True}, loads=FIT)


# -- stand-ins for what would be fetched -----------------------------------------------------------------------------


def _smolvlm_config(tiny: bool) -> Any:
    """Return the configuration of SmolVLM2-500M-Video-Instruct, by its model card and paper."""
    from transformers import SmolVLMConfig

    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
              "image_size": 512, "patch_size": 16}  # fmt: skip
    text = {"model_type": "llama", "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32,
            "num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49280,
            "max_position_embeddings": 8192}  # fmt: skip
    if tiny:
        vision |= {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
        text |= {"hidden_size": 120, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8, "vocab_size": 99}
    return SmolVLMConfig(vision_config=vision, text_config=text, scale_factor=4)


def _stand_ins(policy: str, tiny: bool) -> Any:
    """Return a context in which the model is built without the Hub."""
    if policy != "smolvla":
        return nullcontext()
    module = "lerobot.policies.smolvla.smolvlm_with_expert"
    return mock.patch.multiple(
        module,
        AutoConfig=mock.Mock(from_pretrained=lambda _: _smolvlm_config(tiny)),
        AutoProcessor=mock.Mock(
            from_pretrained=lambda _: mock.Mock(
                tokenizer=mock.Mock(fake_image_token_id=3, global_image_token_id=4, fake_image_token="<x>")
            )
        ),
    )


# -- one model -------------------------------------------------------------------------------------------------------


def _features(load: Load) -> dict[str, PolicyFeature]:
    image = PolicyFeature(type=FeatureType.VISUAL, shape=(3, load.height, load.width))
    cameras = {f"observation.images.camera{number}": image for number in range(load.cameras)}
    return {**cameras, "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(JOINTS,))}


def build(model: Model, load: Load, *, device: str, tiny: bool) -> Any:
    """Return the policy as `lerobot-train` would build it for a dataset of this kind, on the device."""
    flags = {"device": device, "push_to_hub": False, **model.flags}
    if model.policy in ("act", "diffusion"):
        flags["pretrained_backbone_weights"] = None
    if tiny:
        flags |= _TINY[model.policy]
    config = make_policy_config(model.policy, **flags)
    config.input_features = _features(load)
    config.output_features = {"action": PolicyFeature(type=FeatureType.ACTION, shape=(JOINTS,))}
    with _stand_ins(model.policy, tiny), torch.device(device):
        policy = get_policy_class(model.policy)(config)
    if model.lora:
        config.pretrained_path = Path("random")
        policy = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 16})
    return policy.to(device)


#: Flags that shrink a model for a rehearsal on a CPU.
_TINY: dict[str, dict[str, Any]] = {
    "pi0": {"paligemma_variant": "gemma_300m", "action_expert_variant": "gemma_300m"},
    "pi05": {"paligemma_variant": "gemma_300m", "action_expert_variant": "gemma_300m"},
    "smolvla": {"num_vlm_layers": 2},
    "act": {"dim_model": 64, "n_heads": 2, "dim_feedforward": 64, "n_encoder_layers": 1},
    "diffusion": {"down_dims": (32, 64)},
}


def made_batch(config: Any, load: Load, device: str) -> dict[str, Any]:
    """Return one batch as the data loader and the policy's preprocessor hand it over."""
    size, steps = load.batch, config.n_obs_steps
    time_axis = (steps,) if config.type == "diffusion" else ()
    chunk = getattr(config, "horizon", None) or config.chunk_size
    batch: dict[str, Any] = {
        key: torch.rand(size, *time_axis, *feature.shape, device=device)
        for key, feature in config.input_features.items()
    }
    batch["action"] = torch.rand(size, chunk, JOINTS, device=device)
    batch["action_is_pad"] = torch.zeros(size, chunk, dtype=torch.bool, device=device)
    if (words := getattr(config, "tokenizer_max_length", None)) is not None:
        batch["observation.language.tokens"] = torch.ones(size, words, dtype=torch.long, device=device)
        batch["observation.language.attention_mask"] = torch.ones(size, words, dtype=torch.bool, device=device)
    return batch


def accelerator_for(config: Any, device: str) -> Any:
    """Return the accelerator that `lerobot-train` makes: its precision follows `policy.dtype`."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    precision = {"bfloat16": "bf16", "float32": "no", None: "no"}[getattr(config, "dtype", None)]
    return Accelerator(step_scheduler_with_optimizer=False, mixed_precision=precision, cpu=device == "cpu")


class Card:
    """The memory of the GPU; zeros on a CPU."""

    def __init__(self, device: str) -> None:
        self.real = device == "cuda"
        if self.real:
            import pynvml

            pynvml.nvmlInit()
            self._nvml, self._handle = pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
        self._before = self._used()

    def _used(self) -> int:
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used) if self.real else 0

    def clear(self) -> None:
        """Give back what is cached and forget the peaks."""
        gc.collect()
        if self.real:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def reading(self) -> dict[str, int]:
        """Return the peaks since `clear`, in MiB."""
        if not self.real:
            return {"used_mib": 0, "reserved_mib": 0, "allocated_mib": 0}
        return {
            "used_mib": (self._used() - self._before) // MIB,
            "reserved_mib": torch.cuda.max_memory_reserved() // MIB,
            "allocated_mib": torch.cuda.max_memory_allocated() // MIB,
        }


def measure(policy: Any, load: Load, card: Card, device: str) -> dict[str, int]:
    """Train some steps under this load; return the peaks."""
    inner = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    config = inner.config
    # The data loader of `accelerate` holds the next batch on the device.
    batch, following = (made_batch(config, load, device) for _ in range(2))
    accelerator = accelerator_for(config, device)
    preset = config.get_optimizer_preset()
    optimizer = preset.build(policy.get_optim_params())
    metrics = MetricsTracker(
        load.batch,
        1000,
        10,
        {name: AverageMeter(name) for name in ("loss", "grad_norm", "lr", "update_s", "gpu_mem_gb")},
    )
    peak: dict[str, int] = {}
    for _ in range(STEPS):
        update_policy(metrics, policy, dict(batch), optimizer, preset.grad_clip_norm, accelerator)
        for name, value in card.reading().items():
            peak[name] = max(peak.get(name, 0), value)
        batch, following = following, batch
    return peak


def facts(policy: Any) -> dict[str, Any]:
    """Return the counts of a model's parameters, in all and trained, and its bytes."""
    parameters = list(policy.parameters())
    return {
        "params": sum(one.numel() for one in parameters),
        "trained": sum(one.numel() for one in parameters if one.requires_grad),
        "weight_mib": sum(one.numel() * one.element_size() for one in parameters) // MIB,
        "trained_mib": sum(one.numel() * one.element_size() for one in parameters if one.requires_grad) // MIB,
    }


def run(model: Model, card: Card, args: argparse.Namespace, out: Any) -> None:
    """Measure one model under all its loads; write a line a load."""
    policy, shape = None, None
    loads = model.loads[:2] if args.tiny else model.loads
    for load in loads:
        case = {"policy": model.policy, "flags": model.flags, "lora": model.lora, **dataclasses.asdict(load)}
        started = time.monotonic()
        try:
            # The number of cameras and, for the small policies, the size of an image shape the model.
            if shape != (load.cameras, load.height, load.width):
                policy = None
                card.clear()
                policy = build(model, load, device=args.device, tiny=args.tiny)
                shape = (load.cameras, load.height, load.width)
            card.clear()
            case |= facts(policy) | measure(policy, load, card, args.device)
        except torch.OutOfMemoryError:
            case["out_of_memory"] = True
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            case["error"] = f"{type(error).__name__}: {error}"[:500]
        for parameter in policy.parameters() if policy is not None else ():
            parameter.grad = None
        case["seconds"] = round(time.monotonic() - started, 1)
        line = json.dumps(case, default=str)
        print(line, flush=True)
        out.write(line + "\n")
        out.flush()


def main() -> None:
    """Measure the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="policies, with commas between")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.device = "cpu" if args.tiny else "cuda"
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    card = Card(args.device)
    chosen = set(filter(None, args.only.split(",")))
    with (args.out / "vram.jsonl").open("a") as out:
        for model in models():
            if not chosen or model.policy in chosen:
                run(model, card, args, out)


if __name__ == "__main__":
    main()

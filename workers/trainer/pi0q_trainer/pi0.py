"""LeRobot's pi0 and pi05: detect a silent failure to load weights, shrink for a rehearsal, build on the GPU."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any

#: what LeRobot's pi0 prints before it goes on with random weights as if nothing had happened
UNLOADED = "Returning model without loading pretrained weights"


def module(policy_type: str) -> Any:
    """Return LeRobot's module of pi0 or pi05; None for other policies."""
    with contextlib.suppress(ImportError):
        if policy_type in ("pi0", "pi05"):
            return importlib.import_module(f"lerobot.policies.{policy_type}.modeling_{policy_type}")
    return None


def recorder(said: list[str]) -> Any:
    def say(*words: object, **how: Any) -> None:
        said.append(" ".join(map(str, words)))
        print(*words, **how)

    return say


def shrink(model: Any) -> None:
    """Let this module of LeRobot's build a model of 17 M parameters where it would build one of 4 B."""
    name = "PaliGemmaForConditionalGeneration"
    vlm = getattr(model, f"{name}WithPiGemma", None) or getattr(model, name)
    build = vlm.__init__

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        vision = config.vision_config
        vision.num_hidden_layers, vision.num_attention_heads = 2, 2
        vision.hidden_size, vision.intermediate_size, vision.projection_dim = 64, 128, 64
        config.projection_dim, config.text_config.vocab_size = 64, 512
        config._vocab_size, config.image_token_index = 512, 511
        build(self, config, *args, **kwargs)

    vlm.__init__ = init
    small = {"width": 64, "depth": 2, "mlp_dim": 128, "num_heads": 8, "num_kv_heads": 1, "head_dim": 32}
    model.get_gemma_config = lambda _variant: model.GemmaConfig(**small)


def fast_init(cfg: Any) -> Any:
    """Build the model on the GPU: LeRobot fills full-size pi0 with random numbers on the CPU for 170 s first,
    also where all of them are about to be overwritten by a checkpoint."""
    torch: Any = sys.modules.get("torch")
    wanted = cfg.pretrained_path or os.environ.get("PI0Q_FAST_INIT") == "1"
    on_gpu = str(cfg.device).startswith("cuda") and torch and torch.cuda.is_available()
    return torch.device("cuda") if wanted and on_gpu else contextlib.nullcontext()

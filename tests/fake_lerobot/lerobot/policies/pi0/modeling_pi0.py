"""FAKE: the names in LeRobot's module of pi0 that a rehearsal makes small."""

from dataclasses import dataclass
from typing import Any


class PaliGemmaForConditionalGeneration:
    def __init__(self, config: Any) -> None:
        self.config = config


@dataclass
class GemmaConfig:
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


def get_gemma_config(_variant: str) -> GemmaConfig:
    raise AssertionError("a fake has no full size")

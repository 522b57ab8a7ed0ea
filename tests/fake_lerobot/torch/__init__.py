"""FAKE: stands in for PyTorch where a fake LeRobot is looked at; no tensors, no GPU but those of tests/rig/cards."""

import os
from types import SimpleNamespace

__version__ = "2.11.0+fake"
#: Bytes that torch is to have held of the GPU at most.
_held = int(os.environ.get("FAKE_VRAM_MIB") or 0) << 20
_cards = bool(os.environ.get("PI0Q_TEST_CARDS"))
version = SimpleNamespace(cuda="13.0" if _cards else None)
cuda = SimpleNamespace(
    is_available=lambda: _cards or bool(_held),
    init=lambda: None,
    device_count=lambda: 0,
    memory_reserved=lambda: _held,
    max_memory_reserved=lambda: _held,
)

"""FAKE: stands in for PyTorch where a fake LeRobot is looked at; no tensors, no GPU."""

from types import SimpleNamespace

__version__ = "2.11.0+fake"
version = SimpleNamespace(cuda=None)
cuda = SimpleNamespace(is_available=lambda: False, init=lambda: None, device_count=lambda: 0)

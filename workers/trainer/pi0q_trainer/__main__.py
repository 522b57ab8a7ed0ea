"""`PYTHON pi0q_trainer …`: started by its directory, in an interpreter that has no pi0q."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> None:
    here = Path(__file__).absolute().parent
    # For this one import; after it neither our files nor their neighbours may shadow what LeRobot imports.
    sys.path[0] = str(here.parent)
    entry = importlib.import_module(f"{here.name}.main")
    del sys.path[0]
    sys.path[:] = [place for place in sys.path if place != str(here)]
    entry.main()


if __name__ == "__main__":
    main()

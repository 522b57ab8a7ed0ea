"""Kept for one release: the directory at which a runner of the older version starts its next trainer."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    # Nothing beside this file may shadow what LeRobot imports.
    del sys.path[0]
    runpy.run_path(str(Path(__file__).absolute().parents[2] / "trainer" / "pi0q_trainer"), run_name="__main__")

"""In place of the real one, whose import takes seconds; the fake LeRobot makes its runs itself.

`python -m wandb sync DIRECTORY` leaves the mark of a sync there; the real one: workers/postrun/test_wandb_sync.py.
"""

import os
import sys
from pathlib import Path

run = None


def init(*_: object, **__: object) -> None: ...


if __name__ == "__main__" and sys.argv[1] == "sync":
    (file,) = Path(sys.argv[-1]).glob("run-*.wandb")
    print(f"Syncing: {os.environ['WANDB_BASE_URL']}/ada/p/runs/{file.stem.removeprefix('run-')} ... done.")
    file.with_name(file.name + ".synced").touch()

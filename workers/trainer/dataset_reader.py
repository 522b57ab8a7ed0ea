"""Look into a dataset in the trainer's Python, which has what reads parquet and videos; see read_dataset_main.py."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pi0q.jobs.dataset_checks.contents import DatasetContents, parse
from pi0q.jobs.schema.value_types import Value

READ = Path(__file__).with_name("read_dataset_main.py")
#: Seconds for a look, of a clock and of a processor; a share of a network may need the first.
LOOK_SECONDS, CPU_SECONDS = 180.0, 90
#: Bytes of an answer that are taken.
MOST_BYTES = 8 << 20


def read(
    python: str, root: Path, train: Mapping[str, Value], *, names: Collection[str] | None = None
) -> DatasetContents | None:
    """Return what lies in a directory; None where it could not be looked into, which says nothing against it.

    Args:
        python: The trainer's interpreter.
        root: The dataset's directory.
        train: The job's flags.
        names: The paths of all files of a repository, where only a part of it lies in `root`.
    """
    episodes = train.get("dataset.episodes")
    request: dict[str, Any] = {"root": str(root), "seconds": CPU_SECONDS, "names": sorted(names) if names else None}
    request["meta_only"] = bool(train.get("dataset.streaming"))
    request["episodes"] = episodes if isinstance(episodes, list) else None
    # Nothing that reads a foreign file gets a token, or the network's addresses.
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")}
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                [python, "-c", READ.read_text(encoding="utf-8")],
                env={**env, "HOME": empty, "OMP_NUM_THREADS": "1"},
                cwd=empty,
                input=json.dumps(request) + "\n",
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                timeout=LOOK_SECONDS,
                check=False,
            )
            told = json.loads(done.stdout[:MOST_BYTES].splitlines()[-1])
        except (OSError, subprocess.SubprocessError, ValueError, IndexError, RecursionError):
            return None
    return parse(told)

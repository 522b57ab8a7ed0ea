"""The report of `make nemesis` out of its results: `python benchmarks/nemesis.py RESULTS.jsonl… > DATE-nemesis.md`.

A thousand rounds may be played in parts (FIRST=…), each of which leaves a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.nemesis.report import markdown

if __name__ == "__main__":
    print(markdown([Path(name) for name in sys.argv[1:]]), end="")

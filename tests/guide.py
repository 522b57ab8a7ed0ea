"""The guide that pi0q takes the place of, word for word, and the command that its user types by hand (5.2)."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).parent / "ops" / "training_guide.md").read_text(encoding="utf-8")
#: The whole block: exports, `source`, and lerobot-train on many lines.
SCRIPT = TEXT.partition("### 5.2")[2].partition("```bash\n")[2].partition("```")[0]
#: Flag -> value.
FLAGS = dict(re.findall(r"--([\w.]+)=(\S+)", SCRIPT))
assert len(FLAGS) == 19


def as_pi0q_runs_it(output_dir: str) -> set[str]:
    """Its flags as pi0q passes them on: in a directory of the run's own, with the push left to the box."""
    told = FLAGS | {"output_dir": output_dir, "policy.push_to_hub": "false"}
    return {f"--{name}={value}" for name, value in told.items()}

"""One process that talks to the Hub, sent over one way, watched: killed when no byte comes for too long."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pi0q.workers.network import Route
from pi0q.workers.run import child
from pi0q.workers.run.fetches import Fetch

#: What the child's command line names.
MODULE = "pi0q.workers.run.download"


def send(
    route: Route,
    fetches: Sequence[Fetch],
    *,
    pins: Mapping[str, str],
    hf_home: Path,
    stall_seconds: float,
    module: str = MODULE,
    more: Mapping[str, Any] = {},
) -> Generator[dict[str, Any] | None]:
    """What the child says, line by line, and None at every tick. Raises child.Broken.

    `module` is what it runs, a download if nothing is said, and `more` what else that is told.
    Secrets reach the child by its environment alone, which the route has cleared of those that are not for it.
    """
    order = {
        **more,
        "fetches": [asdict(fetch) for fetch in fetches],
        "pins": dict(pins),
        "hf_home": str(hf_home),
        "endpoint": route.endpoint,
        "trusted": route.trusted,
    }
    return child.hear(
        [sys.executable, "-m", module],
        order,
        env=child.environment(route.environment(os.environ)) | {"HF_HOME": str(hf_home)},
        stall_seconds=stall_seconds,
        what="the download",
        silence="no byte came",
    )

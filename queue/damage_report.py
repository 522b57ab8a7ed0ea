"""Jobs whose records were damaged, as the keeper of the backup last saw them: a file beside the server's data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pi0q.jobs.job_id import is_job_id
from pi0q.jobs.printable import printable

#: Bytes of the file that are read, and jobs that it names.
MOST_BYTES, MOST_JOBS = 1_000_000, 1000


def path_of(home: Path) -> Path:
    """Return where the file of a home lies."""
    return home / "server" / "backup" / "damage.json"


def read(home: Path) -> dict[str, str]:
    """Return what is wrong with which job's record; empty where nothing is, or where no backup is kept."""
    try:
        with path_of(home).open("rb") as file:
            raw = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    found = raw.items() if isinstance(raw, dict) else ()
    return {job: printable(str(why), lines=False)[:300] for job, why in found if is_job_id(job)}


def dumps(damage: Mapping[str, str]) -> str:
    """Return the text of the file."""
    return json.dumps(dict(sorted(damage.items())[:MOST_JOBS]), indent=1)

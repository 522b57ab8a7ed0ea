"""The id of a job: what `submit` makes, and the only thing that may name a run's directory."""

from __future__ import annotations

import re

PATTERN = "[0-9a-f]{12}"


def is_job_id(text: object) -> bool:
    """Return whether this is a job's id; asked wherever one is read from outside."""
    return isinstance(text, str) and re.fullmatch(PATTERN, text) is not None

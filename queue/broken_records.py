"""A log of the records that cannot be read: one line each, and another when the damage changes."""

from __future__ import annotations

import logging

from pi0q.jobs.errors import BadRecord

logger = logging.getLogger(__name__)

#: Records that are remembered as logged; a stream of more is logged anew.
REMEMBERED = 10_000


class BrokenRecordLog:
    """Logs each damaged record once: a box reads the same queue every few seconds."""

    def __init__(self) -> None:
        self._logged: dict[str, str] = {}

    def __call__(self, error: BadRecord) -> None:
        """Log the damage unless the same was logged before."""
        if self._logged.get(error.job_id) == error.damage:
            return
        if len(self._logged) >= REMEMBERED:
            self._logged.clear()
        self._logged[error.job_id] = error.damage
        logger.warning(
            "passed over job %s: its record is damaged (%s); `pi0q prune --broken` removes such jobs",
            error.shown_id,
            error.damage,
        )

"""Exponential backoff as a value. Pure: the caller counts attempts and waits."""

from __future__ import annotations

from dataclasses import dataclass

#: Doublings after which a delay is the longest in any case; keeps the power within a float.
MAX_DOUBLINGS = 64


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Delay before each retry: `first` seconds, times `factor` for each further failure, at most `longest`."""

    first: float
    longest: float
    factor: float = 2.0

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after `attempt` failures in a row; the first failure is attempt 1."""
        return min(self.longest, self.first * self.factor ** min(max(attempt, 1) - 1, MAX_DOUBLINGS))

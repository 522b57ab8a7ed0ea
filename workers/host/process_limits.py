"""Limits of this process that its children inherit."""

from __future__ import annotations

import resource


def forbid_core_dumps() -> None:
    """Write no core dump if this process or a child crashes: its memory holds tokens and passwords."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

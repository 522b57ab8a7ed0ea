"""Amounts of memory and disk as people read them. Pure."""

from __future__ import annotations


def gib(mib: float) -> str:
    """An amount, in the unit that suits it."""
    return f"{mib / 1024:.1f} GiB" if mib >= 100 else f"{mib:.0f} MiB"

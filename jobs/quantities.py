"""Amounts with a unit: memory and disk, durations."""

from __future__ import annotations

import math
import re

import yaml

from pi0q.jobs.kinds import Kind, Tell, Value, shown, tag

_SIZE = re.compile(r"[0-9]+(\.[0-9]+)? ?([KMGT]i?B)")
_SPAN = re.compile(r"[0-9]+(\.[0-9]+)? ?(s|sec|m|min|h|d|seconds?|minutes?|hours?|days?)")


class Size(Kind):
    """An amount of memory or disk, in MiB (rounded up)."""

    @property
    def wants(self) -> str:
        return "a size with its unit, like 90GiB or 500MB"

    def scalar(self, node: yaml.ScalarNode, tell: Tell) -> Value:
        if tag(node) in ("int", "float"):
            tell(node, f"has no unit: write {node.value}GiB (or GB, MiB, TB …)")
            return None
        if not _SIZE.fullmatch(node.value):
            tell(node, f"must be {self.wants}, not {shown(node)}")
            return None
        import humanfriendly  # costs 15 ms or more, and most files name no size

        mib: int = math.ceil(humanfriendly.parse_size(node.value) / 2**20)
        if not 1 <= mib <= 2**30:
            tell(node, f"must be from 1MiB to 1024TiB, not {shown(node)}")
        return mib


class Span(Kind):
    """A duration, in seconds."""

    @property
    def wants(self) -> str:
        return "a duration with its unit, like 30min or 2h"

    def scalar(self, node: yaml.ScalarNode, tell: Tell) -> Value:
        if tag(node) in ("int", "float"):
            cure = f"write {node.value}min (or s, h, d)" if ":" not in node.value else "write it like 90min"
            tell(node, f"has no unit: {cure}")
            return None
        if not _SPAN.fullmatch(node.value):
            tell(node, f"must be {self.wants}, not {shown(node)}")
            return None
        import humanfriendly

        seconds = float(humanfriendly.parse_timespan(node.value))
        if not 1 <= seconds <= 7 * 86400:
            tell(node, f"must be from 1 second to 7 days, not {shown(node)}")
        return seconds

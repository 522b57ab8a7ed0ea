"""Amounts with a unit: memory and disk, durations."""

from __future__ import annotations

import math
import re

from pi0q.jobs.schema.nodes import ScalarNode
from pi0q.jobs.schema.value_types import Tell, Value, ValueType, shown

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT])(i?)B")
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|sec|m|min|h|d|seconds?|minutes?|hours?|days?)")
#: Seconds of a unit, by its first letter.
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Size(ValueType):
    """An amount of memory or disk, in MiB (rounded up)."""

    @property
    def wants(self) -> str:
        return "a size with its unit, like 90GiB or 500MB"

    def scalar(self, node: ScalarNode, tell: Tell) -> Value:
        if node.tag in ("int", "float"):
            tell(node, f"has no unit: write {node.value}GiB (or GB, MiB, TB …)")
            return None
        size = _SIZE.fullmatch(node.value)
        if not size:
            tell(node, f"must be {self.wants}, not {shown(node)}")
            return None
        number, letter, binary = size.groups()
        amount = float(number) * (1024 if binary else 1000) ** ("KMGT".index(letter) + 1)
        mib = math.ceil(int(min(amount, 2.0**80)) / 2**20)
        if not 1 <= mib <= 2**30:
            tell(node, f"must be from 1MiB to 1024TiB, not {shown(node)}")
        return mib


class Span(ValueType):
    """A duration, in seconds."""

    @property
    def wants(self) -> str:
        return "a duration with its unit, like 30min or 2h"

    def scalar(self, node: ScalarNode, tell: Tell) -> Value:
        if node.tag in ("int", "float"):
            cure = f"write {node.value}min (or s, h, d)" if ":" not in node.value else "write it like 90min"
            tell(node, f"has no unit: {cure}")
            return None
        span = _SPAN.fullmatch(node.value)
        if not span:
            tell(node, f"must be {self.wants}, not {shown(node)}")
            return None
        seconds = float(span[1]) * _SECONDS[span[2][0]]
        if not 1 <= seconds <= 7 * 86400:
            tell(node, f"must be from 1 second to 7 days, not {shown(node)}")
        return seconds

"""Types of `after` and `start_after`: names of jobs, and a time or a duration."""

from __future__ import annotations

import re

from pi0q.jobs.schema.nodes import MappingNode, Node, ScalarNode, SequenceNode
from pi0q.jobs.schema.units import Span
from pi0q.jobs.schema.value_types import Name, Tell, Value, ValueType, shown

#: Jobs that one job waits for, at the most; and the terms: after its success, after its end.
_MOST, _TERMS = 100, ("ok", "any")
_MOMENT = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})[Tt ](\d{1,2}):(\d\d)(?::(\d\d)(?:\.\d+)?)? ?([Zz]|[+-]\d{1,2}(?::?\d\d)?)?"
)


class AfterJobs(ValueType):
    """A job's name or id, a list of them, or lists under `ok` and `any`; read as {ok: […], any: […]}."""

    open = True

    @property
    def wants(self) -> str:
        return "a job's name or id, a list of them, or {ok: [job], any: [job]}"

    def read(self, node: Node, tell: Tell) -> Value:
        found: dict[str, Value] = {}
        if not isinstance(node, MappingNode):
            names = self._names(node, tell)
            return {"ok": names} if names else {}
        for key, value in node.value:
            if key.value in _TERMS and key.value not in found:
                found[str(key.value)] = self._names(value, tell)
            else:
                twice = " twice" if key.value in found else ""
                tell(key, f"takes `ok` (after a success) and `any` (after any end), not {shown(key)}{twice}")
        return {name: names for name, names in found.items() if names}

    def _names(self, node: Node, tell: Tell) -> list[Value]:
        if node.tag == "null":
            return []
        nodes = node.value if isinstance(node, SequenceNode) else [node]
        if len(nodes) > _MOST:
            tell(node, f"names {len(nodes)} jobs; {_MOST} are the most")
            return []
        return [name for one in nodes if (name := self._name(one, tell)) is not None]

    def _name(self, node: Node, tell: Tell) -> str | None:
        if not isinstance(node, ScalarNode) or node.tag == "null":
            tell(node, f"must be {self.wants}, not {shown(node)}")
            return None
        # An id of digits alone is a number to YAML.
        text = node.value if node.tag in ("int", "float") else Name().read(node, tell)
        if isinstance(text, str) and text.startswith("job:"):
            tell(node, f"names a job without `job:` before it: write {text[4:][:60]}")
            return None
        return text if isinstance(text, str) else None


class StartTime(ValueType):
    """A duration after the submit, read as seconds; or a moment with its zone, read as ISO 8601 in UTC."""

    @property
    def wants(self) -> str:
        return "a duration like 2h, or a time with its zone like 2026-11-30T02:00+08:00"

    def scalar(self, node: ScalarNode, tell: Tell) -> Value:
        match = _MOMENT.fullmatch(node.value.strip())
        if not match:
            if node.tag == "int" and ":" in node.value:
                tell(node, f"must be {self.wants}; a time of day needs its date and zone, not {shown(node)}")
                return None
            if node.tag == "str" and re.fullmatch(r"[0-9.]+ ?[a-z]+", node.value):
                return Span().scalar(node, tell)
            tell(node, f"must be {self.wants}, not {shown(node)}")
            return None
        if match[7] is None:
            tell(node, f"has no zone: write {node.value.strip()}+08:00 (or Z for UTC)")
            return None
        return _moment(match, node, tell)


def _moment(match: re.Match[str], node: ScalarNode, tell: Tell) -> str | None:
    """Return the moment in UTC; None where there is no such one."""
    from datetime import datetime, timedelta, timezone  # few jobs have a start time

    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    zone = match[7].replace(":", "")
    hours, minutes = (0, 0) if zone in "Zz" else (int(zone[:3]), int(zone[0] + (zone[3:] or "0")))
    try:
        offset = timezone(timedelta(hours=hours, minutes=minutes))
        moment = datetime(year, month, day, hour, minute, second, tzinfo=offset).astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        tell(node, f"is no time that exists ({error}): {shown(node)}")
        return None
    if not 2020 <= moment.year <= 2200:
        tell(node, f"must be in the years 2020 to 2200, not {shown(node)}")
        return None
    return moment.isoformat()

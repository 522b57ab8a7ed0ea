"""Type of `sweep`: which keys of the job file vary, each value held against the rule of its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pi0q.jobs.schema.nodes import MappingNode, Node, ScalarNode, SequenceNode
from pi0q.jobs.schema.rules import Rules
from pi0q.jobs.schema.value_types import Bool, Choice, Float, Int, Tell, Value, ValueType, shown
from pi0q.jobs.sweep import KINDS, LIST, METRICS, MOST, RANDOM, TPE, Sweep

_OPTIONS: Mapping[str, ValueType] = {
    "kind": Choice(*KINDS),
    "trials": Int(low=1, high=MOST),
    "seed": Int(low=0),
    "max_parallel": Int(low=1, high=MOST, nullable=True),
    "metric": Choice(*METRICS),
}
#: Keys outside `train` that may vary, and their sections.
_OTHERS = ("priority", "time_limit", "resources.", "checkpoints.", "launch.")
#: Values of one key.
_MOST_VALUES = MOST


class SweepSpace(ValueType):
    """A mapping of options and of keys to their values; read as the options and `space`."""

    open = True

    def __init__(self, rules: Callable[[], Rules]) -> None:
        super().__init__()
        self._rules = rules

    @property
    def wants(self) -> str:
        return "a mapping of keys to lists of values, like {train.seed: [1, 2, 3]}"

    def read(self, node: Node, tell: Tell) -> Value:
        if node.tag == "null" or (isinstance(node, MappingNode) and not node.value):
            return {}
        if not isinstance(node, MappingNode):
            return super().read(node, tell)
        told = list[Node]()
        found: dict[str, Value] = {}

        def telling(at: Node, text: str) -> None:
            told.append(at)
            tell(at, text)

        space: dict[str, Value] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in _OPTIONS and name not in found:
                found[name] = _OPTIONS[name].read(value, _prefixed(telling, name))
            elif name == "space" and isinstance(value, MappingNode):
                self._axes(value, "", space, telling)
            else:
                self._axes(MappingNode("map", [(key, value)], node.line), "", space, telling)
        if told:
            return {}
        found["space"] = space
        _whole(node, found, telling)
        return {} if told else found

    def scalar(self, node: ScalarNode, tell: Tell) -> Value:
        tell(node, f"must be {self.wants}, not {shown(node)}")
        return None

    def _axes(self, node: MappingNode, prefix: str, space: dict[str, Value], tell: Tell) -> None:
        rules = self._rules()
        for key_node, value in node.value:
            key = f"{prefix}{key_node.value}"
            if key in space:
                tell(key_node, f"names {key} twice")
            elif not key.startswith(("train.", *_OTHERS)) and key != "train" and f"{key}." not in _OTHERS:
                hint = f"; did you mean train.{key}?" if f"train.{key}" in rules else ""
                options = ", ".join(_OPTIONS)
                tell(
                    key_node,
                    f"varies keys of `train`, resources, checkpoints …, not `{key[:60]}`{hint} Options: {options}",
                )
            elif key in rules:
                space[key] = _axis(value, rules[key].kind, _prefixed(tell, key))
            elif rules.has_section(key) and isinstance(value, MappingNode):
                self._axes(value, f"{key}.", space, tell)
            else:
                tell(
                    key_node, f"names {key[:80]}, which is not a key of a job file: `pi0q submit --explain {key[:80]}`"
                )


def _prefixed(tell: Tell, name: str) -> Tell:
    return lambda node, text: tell(node, f"{name} {text}")


def _axis(node: Node, kind: ValueType, tell: Tell) -> Value:
    """Read the values of one key: a list, or a range of numbers."""
    if isinstance(node, MappingNode):
        return _range(node, kind, tell)
    if not isinstance(node, SequenceNode) or not node.value:
        tell(node, f"needs a list of values, like [{shown(node).strip('`')}], or {{from: 1, to: 10}}")
        return None
    if len(node.value) > _MOST_VALUES:
        tell(node, f"has {len(node.value)} values; {_MOST_VALUES} are the most")
        return None
    values: list[Value] = []
    for one in node.value:
        value = kind.read(one, tell)
        if value in values and not isinstance(value, bool):
            tell(one, f"has {shown(one)} twice")
        values.append(value)
    return values


def _range(node: MappingNode, kind: ValueType, tell: Tell) -> Value:
    if not isinstance(kind, (Int, Float)):
        tell(node, "is no number, so it takes a list of values, not a range")
        return None
    found: dict[str, Any] = {}
    for key, value in node.value:
        if key.value in ("from", "to"):
            found[key.value] = kind.read(value, tell)
        elif key.value == "log":
            found["log"] = Bool().read(value, tell)
        else:
            tell(key, f"takes from, to and log in a range, not {shown(key)}")
    low, high = found.get("from"), found.get("to")
    if low is None or high is None:
        tell(node, "needs `from` and `to`: {from: 1e-5, to: 1e-3, log: true}")
        return None
    if not low < high:
        tell(node, f"has a range from {low} to {high}, which is empty")
    if found.get("log") and low <= 0:
        tell(node, f"has a range from {low}, and `log` needs one above 0")
    if isinstance(kind, Float):
        found |= {"from": float(low), "to": float(high)}
    return found


def _whole(node: MappingNode, found: dict[str, Any], tell: Tell) -> None:
    """Hold the parts of a sweep against each other."""
    space, kind = found["space"], found.get("kind", KINDS[0])
    ranges = [key for key, one in space.items() if isinstance(one, dict)]
    if not space:
        tell(node, "names no key that varies: write {train.seed: [1, 2, 3]}")
    elif kind in (RANDOM, TPE) and not found.get("trials"):
        tell(node, f"of kind {kind} needs `trials: N`")
    elif kind not in (RANDOM, TPE) and ranges:
        tell(node, f"has a range for {ranges[0]}, which takes `kind: random` (or tpe) and `trials: N`")
    elif kind not in (RANDOM, TPE) and found.get("trials"):
        tell(node, f"has `trials`, which is for kinds random and tpe; a {kind} has as many as its values give")
    elif kind == LIST and len({len(one) for one in space.values()}) > 1:
        sizes = ", ".join(f"{key} {len(one)}" for key, one in space.items())
        tell(node, f"of kind list needs as many values of each key: {sizes}")
    elif (sweep := Sweep.of(found)) and sweep.total > MOST:
        tell(node, f"has {sweep.total} trials; {MOST} are the most: `kind: random` with `trials` takes some of them")

"""Kinds of values that are made of others: a record, one of several, whatever JSON can hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from pi0q.jobs.schema.nodes import MappingNode, Node, ScalarNode, SequenceNode
from pi0q.jobs.schema.value_types import Bool, Float, Int, Tell, Text, Value, ValueType, Word, shown

_FAR = 10**15


class Record(ValueType):
    """A mapping whose keys are known, like {type: STATE, shape: [14]}."""

    def __init__(self, fields: Mapping[str, ValueType], required: Collection[str] = ()) -> None:
        super().__init__()
        self.fields, self.required = fields, required

    @property
    def wants(self) -> str:
        return f"a mapping with {', '.join(self.fields)}"

    def read(self, node: Node, tell: Tell) -> Value:
        if not isinstance(node, MappingNode):
            return super().read(node, tell)
        found = dict[str, Value]()
        for key, value in node.value:
            name = str(key.value)
            if name in self.fields and name not in found:
                found[name] = self.fields[name].read(value, tell)
            else:
                tell(key, f"must be {self.wants}, not with {shown(key)}" + " twice" * (name in found))
        if missing := [name for name in self.required if name not in found]:
            tell(node, f"must be {self.wants}; {', '.join(missing)} is missing")
        return found

    def scalar(self, node: ScalarNode, tell: Tell) -> Value:
        tell(node, f"must be {self.wants}, not {shown(node)}")
        return None


class Either(ValueType):
    """One of several kinds; the first that takes a value reads it."""

    def __init__(self, *kinds: ValueType) -> None:
        super().__init__(nullable=any(kind.nullable for kind in kinds))
        self.kinds = kinds

    @property
    def wants(self) -> str:
        return " or ".join(dict.fromkeys(kind.wants for kind in self.kinds))

    def read(self, node: Node, tell: Tell) -> Value:
        if node.tag == "null":
            return super().read(node, tell)
        faults = list[list[tuple[Node, str]]]()
        for kind in self.kinds:
            told = list[tuple[Node, str]]()
            value = kind.read(node, _noting(told))
            if not told:
                return value
            faults.append(told)
        # What the value looks most like is what its user meant.
        for at, text in min(faults, key=lambda told: told[0][0] is node):
            tell(at, text)
        return None


def _noting(told: list[tuple[Node, str]]) -> Callable[[Node, str], None]:
    return lambda node, text: told.append((node, text))


class Anything(ValueType):
    """Whatever JSON can hold; text in it is a word."""

    @property
    def wants(self) -> str:
        return "a value, a list or a mapping"

    def read(self, node: Node, tell: Tell) -> Value:
        if isinstance(node, SequenceNode):
            return [self.read(item, tell) for item in node.value]
        if isinstance(node, MappingNode):
            return {str(Text().read(key, tell)): self.read(value, tell) for key, value in node.value}
        kinds: Mapping[str, ValueType] = {
            "bool": Bool(), "int": Int(low=-_FAR, high=_FAR), "float": Float(low=-_FAR, high=_FAR),
        }  # fmt: skip
        return None if node.tag == "null" else kinds.get(node.tag, Word()).read(node, tell)

"""Values that name boxes, GPUs and money."""

from __future__ import annotations

from pi0q.jobs.box_choice import GPU, PATTERN
from pi0q.jobs.cost import Money
from pi0q.jobs.schema.nodes import Node, ScalarNode
from pi0q.jobs.schema.value_types import ListOf, Tell, Text, Value


class BoxPattern(Text):
    """The name of a box, or a pattern."""

    @property
    def wants(self) -> str:
        return "the name of a box, or a pattern such as h100-*"

    def fault(self, text: str) -> str | None:
        return None if PATTERN.fullmatch(text) else f"must be {self.wants}, not `{text[:40]}`"


class BoxPatterns(ListOf):
    """One such name or a list of them."""

    def __init__(self) -> None:
        super().__init__(BoxPattern())

    @property
    def wants(self) -> str:
        return f"{self.of.wants}, or a list of them"

    def read(self, node: Node, tell: Tell) -> Value:
        if isinstance(node, ScalarNode) and node.tag != "null":
            return [self.of.read(node, tell)]
        return super().read(node, tell)


class GpuNames(Text):
    """Parts of GPU names with | between them."""

    @property
    def wants(self) -> str:
        return "part of a GPU's name, or several: H100|PRO 6000"

    def fault(self, text: str) -> str | None:
        good = all(GPU.fullmatch(part.strip()) for part in text.split("|"))
        return None if good else f"must be {self.wants}, not `{text[:40]}`"


class Amount(Text):
    """An amount of money."""

    @property
    def wants(self) -> str:
        return "an amount with its currency, like 50CNY"

    def fault(self, text: str) -> str | None:
        return None if Money.parse(text) else f"must be {self.wants}, not `{text[:40]}`"

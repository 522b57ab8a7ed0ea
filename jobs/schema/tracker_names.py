"""Types of `tracking` and `swanlab`: names of experiment trackers, of projects and of workspaces."""

from __future__ import annotations

import re

from pi0q.jobs.schema.nodes import MappingNode, Node, ScalarNode, SequenceNode
from pi0q.jobs.schema.value_types import Tell, Text, Value, ValueType, shown

#: Trackers that a job file can choose.
NAMES = ("wandb", "swanlab")
#: One word for a list of them.
WORDS: dict[str, tuple[str, ...]] = {**{name: (name,) for name in NAMES}, "both": NAMES, "none": ()}


class TrackerNames(ValueType):
    """One name, `both`, `none`, or a list of names; read as a list."""

    options = tuple(WORDS)[:2]

    @property
    def wants(self) -> str:
        return f"{', '.join(WORDS)}, or a list like [{', '.join(NAMES)}]"

    def read(self, node: Node, tell: Tell) -> Value:
        if node.tag == "null":
            return None
        items = node.value if isinstance(node, SequenceNode) else [node]
        found: list[Value] = []
        for item in [node] if isinstance(node, MappingNode) else items:
            names = self._names(item)
            if names is None:
                tell(item, f"must be {self.wants}, not {shown(item)}")
            else:
                found += [name for name in names if name not in found]
        return found

    def _names(self, node: Node) -> tuple[str, ...] | None:
        # YAML reads `off` as false; here it can mean only one thing.
        if isinstance(node, ScalarNode) and node.tag == "bool" and node.value.lower() in ("off", "no", "false"):
            return ()
        text = node.value if isinstance(node, ScalarNode) else ""
        return WORDS.get(text.strip().lower())


class SwanLabName(Text):
    """A name that SwanLab takes (its settings check the same)."""

    def __init__(self, what: str, signs: str, *, limit: int) -> None:
        super().__init__(limit=limit)
        self._what, self._signs = what, signs

    @property
    def wants(self) -> str:
        return f"the name of a SwanLab {self._what}"

    def fault(self, text: str) -> str | None:
        if text and not re.fullmatch(rf"[0-9A-Za-z{re.escape(self._signs)}]+", text):
            return f"must be of letters, digits and {' '.join(self._signs)}: SwanLab takes no other {self._what}"
        return super().fault(text)


PROJECT = SwanLabName("project", "_-+.", limit=100)
WORKSPACE = SwanLabName("workspace", "_-", limit=25)

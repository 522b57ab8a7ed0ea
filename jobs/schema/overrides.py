"""Values of a command line in place of a job file's: `pi0q submit FILE --set train.seed=2`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pi0q.jobs.errors import UsageError
from pi0q.jobs.schema.nodes import MappingNode, Node, ScalarNode

#: Line of a fault that stands in no file but on the command line.
NO_LINE = 0

Override = tuple[str, Node]


def read(settings: Iterable[str]) -> tuple[Override, ...]:
    """Read `KEY=VALUE` texts; a value is what YAML makes of it, as in the file.

    Raises:
        UsageError: with every text that is none.
    """
    from pi0q.jobs.schema.yaml_nodes import compose  # PyYAML: who reads records needs none

    found, wrong = list[Override](), list[str]()
    for text in settings:
        key, equals, value = text.partition("=")
        root, faults = compose(f"value: {value}") if equals and key else (None, [])
        if root is None or len(root.value) != 1:
            why = f" ({faults[0]})" if faults else ""
            wrong.append(f"--set takes KEY=VALUE, like train.seed=2 or resources.vram=24GiB, not {text!r}{why}")
        else:
            found.append((key.strip(), root.value[0][1]))
    if wrong:
        raise UsageError("\n".join([*wrong, "Nothing was queued."]))
    return tuple(found)


def applied(root: MappingNode, overrides: Sequence[Override]) -> MappingNode:
    """Return the file with these values in place of what it says of their keys; the last of two for one key counts."""
    for key, value in overrides:
        root = MappingNode(
            root.tag, [*_without(root, key, "").value, (ScalarNode("str", key, root.line), value)], root.line
        )
    return root


def _without(node: MappingNode, key: str, prefix: str) -> MappingNode:
    """Return the mapping without a key and all below it, whether written nested or with dots."""
    kept = list[tuple[Node, Node]]()
    for name, value in node.value:
        path = f"{prefix}{name.value}"
        if path == key or path.startswith(f"{key}."):
            continue
        inside = isinstance(value, MappingNode) and key.startswith(f"{path}.")
        kept.append((name, _without(value, key, f"{path}.") if inside and isinstance(value, MappingNode) else value))
    return MappingNode(node.tag, kept, node.line)

"""A job file as nodes that know their lines, and every fault of its structure.

Only plain YAML is taken: what can make a small file huge, run code or mean two things (aliases, tags, merge
keys, several documents, duplicate keys) is refused with its line.
"""

from __future__ import annotations

from typing import Any

import yaml

from pi0q.jobs.errors import Fault
from pi0q.jobs.schema import full_width
from pi0q.jobs.schema.nodes import MappingNode, Node, ScalarNode, SequenceNode, line_of

#: Largest job file, in bytes. 322 bytes of aliases can already become 39 MB; real files stay under 4 KiB.
MAX_BYTES = 64 * 1024
#: How deep mappings and lists may nest, the file itself being 1. The deepest flag needs 9
#: (train, dataset, image_transforms, tfs, the transform, kwargs, its setting, a list).
MAX_DEPTH = 10
#: Most values (keys and lists counted) in a file.
MAX_NODES = 500

_TAG = "tag:yaml.org,2002:"
#: What YAML allows in no file; PyYAML has compiled it already, which takes 8 ms.
_UNREADABLE = yaml.reader.Reader.NON_PRINTABLE


def compose(text: str | bytes) -> tuple[MappingNode | None, list[Fault]]:
    """The file's one mapping, or None if there is none to go on with, and what its structure has wrong."""
    if len(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text) > MAX_BYTES:
        return None, [Fault(1, "the file is over 64 KiB; a job file is a page or two: is this the right file?")]
    decoded = _decode(text)
    if isinstance(decoded, Fault):
        return None, [decoded]
    faults = [
        Fault(
            decoded.count("\n", 0, bad.start()) + 1,
            f"holds the control character U+{ord(bad[0]):04X}; remove it",
        )
        for bad in _UNREADABLE.finditer(decoded)
    ]
    if faults:
        return None, faults[:20]
    return _compose(decoded)


def _decode(text: str | bytes) -> str | Fault:
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Fault(text.count(b"\n", 0, error.start) + 1, "is not UTF-8 text; save the file as UTF-8")


def _compose(text: str) -> tuple[MappingNode | None, list[Fault]]:
    composer = _Composer(text)
    root: yaml.Node | None = None
    try:
        root = composer.get_single_node()
    except yaml.composer.ComposerError as error:
        composer.tell(error.problem_mark, "a second document starts here (`---`); put each job in a file of its own")
    except yaml.MarkedYAMLError as error:
        composer.tell(error.problem_mark or error.context_mark, _syntax(error))
        composer.faults = [_blamed(fault, text) for fault in composer.faults]
    except _Enough:
        pass
    finally:
        composer.dispose()
    if composer.faults:
        return None, composer.faults
    found = _converted(root) if root is not None else None
    if isinstance(found, MappingNode):
        return found, []
    what = "is empty" if root is None else "must be a mapping of keys to values (`name: …`, `train: …`)"
    told = f"the file {what}; `pi0q import 'lerobot-train …'` makes one of a command line"
    return None, [_blamed(Fault(line_of(found), told), text, last=text.count("\n") + 1)]


def _blamed(fault: Fault, text: str, *, last: int = 0) -> Fault:
    """Return the fault where it began: YAML complains about a line behind one with a full-width colon.

    `last` is the last line on which to look; the fault's own if left out.
    """
    found = full_width.first_line(text, last=last or fault.line)
    if not found:
        return fault
    where = "" if found[0] == fault.line else f", and line {fault.line} can't be read"
    return Fault(found[0], f"{found[1]}; YAML takes it for a part of the text{where}", fault.key)


def _converted(node: yaml.Node) -> Node:
    """Return PyYAML's node as one of ours; it is at most MAX_DEPTH deep."""
    tag, line = str(node.tag).removeprefix(_TAG), node.start_mark.line + 1 if node.start_mark is not None else None
    if isinstance(node, yaml.MappingNode):
        return MappingNode(tag, [(_converted(key), _converted(value)) for key, value in node.value], line)
    if isinstance(node, yaml.SequenceNode):
        return SequenceNode(tag, [_converted(item) for item in node.value], line)
    return ScalarNode(tag, node.value, line)


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem or error.context)
    if "'\\t'" in problem:
        return "is indented with a tab; YAML wants spaces"
    if "mapping values are not allowed" in problem:
        return "has a `: ` where none can be: check the indentation, or quote the value"
    if "expected ',' or" in problem:
        return f"is not YAML ({problem}): a bracket or a comma is missing at or before this line"
    if "could not find expected ':'" in problem:
        return "is not YAML: a key needs `: ` and a value (the line above may lack it)"
    return f"is not YAML: {problem}"


class _Enough(Exception):
    """So deep or so large that looking further could hurt."""


class _Composer(yaml.SafeLoader):
    """PyYAML's composer, which looks at each node as it comes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.faults: list[Fault] = []
        self._depth = 0
        self._nodes = 0

    def tell(self, mark: Any, text: str) -> None:
        self.faults.append(Fault(mark.line + 1 if mark is not None else 1, text))

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self.tell(event.start_mark, f"the file holds more than {MAX_NODES} values; a job needs fewer than 100")
            raise _Enough
        if self._depth >= MAX_DEPTH:
            self.tell(event.start_mark, f"is nested deeper than {MAX_DEPTH} levels; no key of a job is")
            raise _Enough
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            self.tell(event.start_mark, f"uses an alias (*{event.anchor}); write the value out")
            return yaml.ScalarNode("tag:yaml.org,2002:null", "")
        if event.anchor:
            self.tell(event.start_mark, f"sets an anchor (&{event.anchor}); remove it and write values out")
            event.anchor = None
        if event.tag:
            self.tell(event.start_mark, f"has a tag ({event.tag[:40]}); remove it: pi0q knows each key's type")
            event.tag = None
            if isinstance(event, yaml.ScalarEvent):
                event.implicit = (True, False)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

"""The text of a job file, made of settings or of a spec. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pi0q.jobs.spec import Spec, parse


def nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return flags with sections for the first part of their dotted names, in the same order."""
    tree: dict[str, Any] = {}
    for name, value in flags.items():
        section, dot, rest = name.partition(".")
        if dot:
            tree.setdefault(section, {})[rest] = value
        else:
            tree[name] = value
    return tree


def text_of(spec: Spec) -> str:
    """Return a job file that `parse` reads as this spec; what is left out by default is left out."""
    import yaml

    data, usual = spec.to_json(), _defaults()
    content: dict[str, Any] = {"name": spec.name}
    for key, value in data.items():
        if key in ("name", "train") or value == usual.get(key):
            continue
        if isinstance(value, Mapping):
            left_out = _section(usual, key)
            content[key] = {name: one for name, one in value.items() if one != left_out.get(name)}
        else:
            content[key] = value
    content["train"] = nested(spec.train)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _defaults() -> dict[str, object]:
    least = "train: {dataset: {repo_id: a/b}, policy: {type: act}}"
    return parse(least, filename="job.yaml").to_json()


def _section(data: Mapping[str, object], name: str) -> Mapping[str, Any]:
    found = data.get(name)
    return found if isinstance(found, Mapping) else {}


def differences(one: Spec, other: Spec) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys whose values differ, in the order of the files, each with both values; None for left out."""
    left, right = _flat(one), _flat(other)
    for key in dict.fromkeys([*left, *right]):
        if left.get(key) != right.get(key):
            yield key, left.get(key), right.get(key)


def _flat(spec: Spec) -> dict[str, Any]:
    """Return all settings of a spec but its name, by dotted key."""
    found: dict[str, Any] = {}
    for key, value in spec.to_json().items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif key != "name":
            found[key] = value
    return found

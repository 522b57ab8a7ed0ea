"""Facts of the weights that a job starts from: out of `config.json` and the headers of its safetensors files. Pure.

Both come from strangers. A header is some kB of JSON before the tensors: names, formats and shapes of all of them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pi0q.jobs.printable import printable
from pi0q.jobs.record_codecs import Codec, json_of, mapping, whole

#: Bytes of a header, of an index, and of a config.json that are read.
MOST_HEADER, MOST_INDEX, MOST_CONFIG = 8 << 20, 8 << 20, 1 << 20
#: Tensors of all files, dimensions of one, numbers in one, files of one model.
MOST_TENSORS, MOST_SIDES, MOST_NUMBERS, MOST_FILES = 100_000, 8, 1 << 44, 200
#: Bytes a number of each format of safetensors.
FORMATS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
WEIGHTS, INDEX, CONFIG, ADAPTER = (
    "model.safetensors", "model.safetensors.index.json", "config.json", "adapter_config.json",
)  # fmt: skip
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.safetensors")
_TYPE = re.compile(r"[a-z0-9_]{1,40}")
#: Parts of a tensor's name by which it belongs to what sees, or to what acts.
_VISION = re.compile(r"vision_(tower|model|encoder)|visual\.|image_encoder|\.rgb_encoder")
_EXPERT = re.compile(r"expert\.|action_(in|out)_proj|action_time|state_proj|action_head|action_model")
_LANGUAGE = re.compile(r"(paligemma|\.vlm)\.")
#: Settings of a policy that change what a training takes, and what each may be.
SETTINGS: Mapping[str, type] = {
    "dtype": str, "freeze_vision_encoder": bool, "train_expert_only": bool, "gradient_checkpointing": bool,
    "compile_model": bool,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a header."""

    name: str
    #: Bytes a number.
    width: int
    numbers: int


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """What is known of a base."""

    #: Type of its policy; "" where its config.json names none.
    policy: str = ""
    #: Parameters in all, and those of what sees and of what acts; 0 where no header was read.
    params: int = 0
    vision: int = 0
    expert: int = 0
    #: Bytes of its weights.
    bytes: int = 0
    #: Whether most parameters have 16 bits.
    narrow: bool = False
    #: Whether it holds an adapter alone.
    adapter: bool = False
    #: Settings of the policy that `policy.path` brings along, of SETTINGS.
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what a record and a cache keep."""
        return {**asdict(self), "settings": dict(self.settings)}


def header_bytes(first: bytes) -> int:
    """Return the size of a header by the first eight bytes of its file. Raises ValueError for one that is too large."""
    size = int.from_bytes(first[:8], "little")
    if len(first) < 8 or not 2 <= size <= MOST_HEADER:
        raise ValueError(f"its safetensors header has {size} bytes; at most {MOST_HEADER} are read")
    return size


def tensors(header: bytes) -> list[Tensor]:
    """Return the tensors of a header. Raises ValueError for one that safetensors would not write."""
    found = _object(header, MOST_HEADER)
    if len(found) > MOST_TENSORS:
        raise ValueError(f"its header names {len(found)} tensors")
    return [_tensor(name, told) for name, told in found.items() if name != "__metadata__"]


def _tensor(name: str, told: Any) -> Tensor:
    shape, width = (told["shape"], FORMATS.get(told["dtype"])) if _is_entry(told) else (None, None)
    if not isinstance(shape, list) or width is None or len(shape) > MOST_SIDES:
        raise ValueError(f"the tensor {printable(name[:60], lines=False)!r} has no format or shape")
    numbers = 1
    for side in shape:
        numbers *= whole(side, most=MOST_NUMBERS)
        if numbers > MOST_NUMBERS:
            raise ValueError("a tensor is larger than any model")
    begin, end = (whole(offset) for offset in told["data_offsets"])
    if end - begin != numbers * width:
        raise ValueError("a tensor has another size than its shape says")
    return Tensor(name=name[:300], width=width, numbers=numbers)


def _is_entry(told: Any) -> bool:
    offsets = told.get("data_offsets") if isinstance(told, dict) else None
    return isinstance(offsets, list) and len(offsets) == 2 and isinstance(told.get("dtype"), str) and "shape" in told


def files_of(index: bytes) -> list[str]:
    """Return the names of the files of a sharded model. Raises ValueError for an index that names anything else."""
    weights = _object(index, MOST_INDEX).get("weight_map")
    names = sorted(set(map(str, weights.values()))) if isinstance(weights, dict) else []
    if not 0 < len(names) <= MOST_FILES or not all(map(_FILE.fullmatch, names)):
        raise ValueError("its index names no safetensors files beside it")
    return names


def facts(config: bytes, found: Iterable[Tensor], *, adapter: bool = False) -> BaseFacts:
    """Return the facts of a base: its config.json, and the tensors of all its files. Raises ValueError."""
    settings = _object(config, MOST_CONFIG)
    kind = settings.get("type")
    told = {name: settings[name] for name, of in SETTINGS.items() if type(settings.get(name)) is of}
    told = {name: value for name, value in told.items() if value is not None and len(str(value)) <= 40}
    params = vision = expert = size = narrow = 0
    for tensor in found:
        params, size = params + tensor.numbers, size + tensor.numbers * tensor.width
        narrow += tensor.numbers if tensor.width == 2 else 0
        if _VISION.search(tensor.name):
            vision += tensor.numbers
        elif _EXPERT.search(tensor.name) and not _LANGUAGE.search(tensor.name):
            expert += tensor.numbers
    return BaseFacts(
        policy=kind if isinstance(kind, str) and _TYPE.fullmatch(kind) else "",
        params=params,
        vision=vision,
        expert=expert,
        bytes=size,
        narrow=2 * narrow > params,
        adapter=adapter,
        settings=told,
    )


def _object(data: bytes, most: int) -> dict[str, Any]:
    if len(data) > most:
        raise ValueError(f"it has more than {most} bytes")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def from_json(found: Any) -> BaseFacts:
    """Return the facts that `to_json` gave. Raises ValueError, TypeError or KeyError for anything else."""
    found = mapping(found)
    if set(found) != set(BaseFacts.__dataclass_fields__):
        raise ValueError
    numbers = {name: whole(found[name]) for name in ("params", "vision", "expert", "bytes")}
    policy, settings = found["policy"], mapping(found["settings"])
    sound = isinstance(policy, str) and (not policy or _TYPE.fullmatch(policy))
    sound = sound and all(type(found[name]) is bool for name in ("narrow", "adapter"))
    if not sound or any(type(value) is not SETTINGS.get(name) for name, value in settings.items()):
        raise ValueError
    if numbers["vision"] + numbers["expert"] > numbers["params"] or not math.isfinite(numbers["bytes"]):
        raise ValueError
    return BaseFacts(policy=policy, narrow=found["narrow"], adapter=found["adapter"], settings=settings, **numbers)


BASE = Codec(lambda text: from_json(json_of(text)), "facts of a base as JSON", lambda base: base and base.to_json())

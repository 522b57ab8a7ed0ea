"""FAKE, but the format is real: 8 bytes of header length, a JSON header, the data."""

import json
from pathlib import Path


def write(path: Path, tensors: dict[str, bytes], *, metadata: dict[str, str] | None = None) -> None:
    """Each tensor as U8; `metadata` goes to the header's `__metadata__`."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name, data in tensors.items():
        end = offset + len(data)
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensors.values()))


def read(path: Path) -> dict[str, bytes]:
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    spans = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    if any(start + end > len(raw) for _, end in spans.values()):
        raise ValueError(f"{path.name}: the file is shorter than its header says")
    return {name: raw[start + begin : start + end] for name, (begin, end) in spans.items()}

"""Compiled kernels that travel between boxes: the key of what they were compiled for, and an archive's manifest. Pure.

PLACE/compile/KEY/JOB/kernels.tar              regular files alone
PLACE/compile/KEY/JOB/pi0q.compiled.json       written last: what they were compiled for, sizes and SHA-256 hashes

torch looks its kernels up by keys of its own, so that a wrong archive costs time and no correctness; but it *runs*
what it finds: an archive is code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pi0q.jobs.checkpoint import File
from pi0q.jobs.replicas import within
from pi0q.jobs.schema.value_types import Value

FOLDER = "compile"
ARCHIVE = "kernels.tar"
MANIFEST = "pi0q.compiled.json"
#: The two caches, as folders of an archive: of torch's inductor and of Triton.
PARTS = ("inductor", "triton")
#: Limits of an archive, far above what a cold max-autotune of full pi0 leaves.
MOST_FILES = 50_000
MOST_BYTES = 4 * 1024**3
#: A file and a path beyond these are not packed.
LARGEST_FILE = 256 * 1024**2
LONGEST_PATH = 400
#: Bytes of a manifest: 50,000 files of 300 bytes each.
MOST_MANIFEST_BYTES = 16 * 1024**2
#: The form of key and archive: another one counts as none.
FORMAT = 1

#: Flags of a policy that change no compiled graph.
_UNSEEN = re.compile(
    r"policy\.(path|pretrained_path|pretrained_revision|push_to_hub|repo_id|private|tags|license|optimizer_.*|scheduler_.*)"
)
#: Other flags that do.
_SEEN = re.compile(r"policy\..+|peft\..+|accelerator\..+|batch_size|rename_map|use_amp")
_HASH = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(rf"({'|'.join(PARTS)})/[\x21-\x7e]+")


class BadArchive(Exception):
    """An archive or its manifest is not what pi0q writes; the text says what is wrong. Nothing of it is used."""


@dataclass(frozen=True, kw_only=True)
class CompiledFor:
    """What kernels were compiled for; where anything of it differs they are not tried."""

    #: Name and compute capability of each GPU of the job, as "NVIDIA H200 9.0".
    gpus: tuple[str, ...]
    driver: str
    #: Name and flags of the processor where the job has no GPU; else "": its kernels are not packed then.
    processor: str
    #: Versions in the trainer's Python.
    python: str
    torch: str
    #: That torch was built for; "" without.
    cuda: str
    triton: str
    lerobot: str
    #: Flags that shape the graph: the policy's, batch size, dtype, compile mode.
    train: Mapping[str, Value]
    #: Name -> type and shape of what the dataset feeds the policy.
    features: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"format": FORMAT, **asdict(self), "gpus": list(self.gpus)}

    @property
    def key(self) -> str:
        """Return the SHA-256 of its canonical JSON."""
        return key_of(self.to_json())


def key_of(compiled_for: Mapping[str, Any]) -> str:
    """Return the key of what a manifest says its kernels were compiled for."""
    text = json.dumps(compiled_for, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def compiles(train: Mapping[str, Value]) -> bool:
    """Return whether a job's policy is compiled."""
    return bool(train.get("policy.compile_model"))


def shaping_flags(train: Mapping[str, Value]) -> dict[str, Value]:
    """Return the flags of a job that shape the compiled graph."""
    return {name: value for name, value in train.items() if _SEEN.fullmatch(name) and not _UNSEEN.fullmatch(name)}


def input_shapes(info: object) -> dict[str, str]:
    """Return type and shape of a dataset's inputs and actions out of its `meta/info.json`, which may hold anything."""
    features = info.get("features") if isinstance(info, dict) else None
    found = {}
    for name, feature in features.items() if isinstance(features, dict) else ():
        if isinstance(feature, dict) and re.match(r"observation|action", name):
            found[name[:200]] = f"{feature.get('dtype')} {feature.get('shape')}"[:200]
    return found


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an archive holds."""

    compiled_for: Mapping[str, Any]
    archive: File
    #: Path below the caches, inductor/… or triton/… -> its file.
    files: Mapping[str, File]

    @property
    def key(self) -> str:
        return key_of(self.compiled_for)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files.values())

    def to_text(self) -> str:
        """Return the manifest as it is written; its SHA-256 names the archive."""
        listed = {path: vars(file) for path, file in sorted(self.files.items())}
        whole = {"compiled_for": dict(self.compiled_for), "archive": vars(self.archive), "files": listed}
        return json.dumps(whole, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_text(cls, text: str, *, key: str) -> Manifest:
        """Read the manifest of an archive for this key. Raises BadArchive."""
        try:
            raw = json.loads(text)
            manifest = cls(
                compiled_for=dict(raw["compiled_for"]),
                archive=_file(raw["archive"]),
                files={_path(path): _file(file) for path, file in dict(raw["files"]).items()},
            )
            found = manifest.key
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadArchive(f"its manifest can't be read: {error}") from None
        if found != key:
            raise BadArchive("it was compiled for something else")
        if len(manifest.files) > MOST_FILES or manifest.bytes > MOST_BYTES or manifest.archive.bytes > 2 * MOST_BYTES:
            raise BadArchive(f"it holds more than {MOST_FILES} files or {MOST_BYTES >> 30} GiB")
        return manifest


def sha256(text: str) -> str:
    """Return the hash by which a record vouches for a manifest."""
    return hashlib.sha256(text.encode()).hexdigest()


def may_hold(path: str) -> bool:
    """Return whether an archive may hold a file of this path."""
    try:
        return bool(_path(path))
    except ValueError:
        return False


def _path(path: object) -> str:
    if not isinstance(path, str) or len(path) > LONGEST_PATH or not _PATH.fullmatch(path):
        raise ValueError(f"it names the file {str(path)[:100]!r}")
    if any(part in ("", ".") for part in path.split("/")):
        raise ValueError(f"it names the file {path[:100]!r}")
    return within(path)


def _file(raw: Any) -> File:
    size, digest = raw["bytes"], raw["sha256"]
    if type(size) is not int or not 0 <= size <= 2 * MOST_BYTES or not isinstance(digest, str):
        raise ValueError("a size is none")
    if not _HASH.fullmatch(digest):
        raise ValueError("a hash is none")
    return File(bytes=size, sha256=digest)

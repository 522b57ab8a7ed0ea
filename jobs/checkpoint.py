"""LeRobot's checkpoint layout, the manifest of a verified one, and which to keep.

output/checkpoints/000010/pretrained_model/{config.json, model.safetensors, train_config.json, …}
                                                    with PEFT adapter_model.safetensors instead of model.safetensors
output/checkpoints/000010/training_state/{training_step.json, optimizer_state.safetensors, …}
output/checkpoints/000010/pi0q.manifest.json        written last, after everything is on the disk
output/checkpoints/last -> 000010
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pi0q.jobs.signing.manifest_signature import ManifestSignature

MANIFEST = "pi0q.manifest.json"
#: The trainer's word that LeRobot came to the end of this save; `last` may not point there yet (pi0q_trainer/hook.py).
FINISHED = "pi0q.manifest.json.saved"
#: LeRobot resumes from this file, not from its directory (lerobot#888).
CONFIG = "pretrained_model/train_config.json"
#: Without any of these a resume cannot start.
REQUIRED = (
    CONFIG,
    "pretrained_model/config.json",
    "training_state/training_step.json",
    "training_state/optimizer_state.safetensors",
)
#: The weights: all of them, or with PEFT the adapter's alone.
WEIGHTS = "pretrained_model/model.safetensors"
ADAPTER = ("pretrained_model/adapter_config.json", "pretrained_model/adapter_model.safetensors")


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a checkpoint."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint held when it was whole."""

    step: int
    #: Epoch of the run that wrote it.
    epoch: int
    #: Path below the checkpoint -> its file.
    files: Mapping[str, File]
    #: By the box that sealed it; None where that box had no key.
    signature: ManifestSignature | None = None

    @property
    def bytes(self) -> int:
        """Size of the whole checkpoint."""
        return sum(file.bytes for file in self.files.values())

    def part(self, below: str) -> Manifest:
        """Return the manifest of the files whose paths begin so alone."""
        return replace(self, files={path: file for path, file in self.files.items() if path.startswith(below)})

    def to_json(self) -> dict[str, Any]:
        signed = {"signed": self.signature.to_json()} if self.signature else {}
        return {
            "step": self.step,
            "epoch": self.epoch,
            "files": {path: vars(file) for path, file in sorted(self.files.items())},
            **signed,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Manifest:
        """Raises KeyError, TypeError or ValueError on anything that is not a manifest."""
        files = {
            path: File(bytes=int(file["bytes"]), sha256=str(file["sha256"]))
            for path, file in dict(raw["files"]).items()
        }
        signature = ManifestSignature.from_json(raw["signed"]) if "signed" in raw else None
        return cls(step=int(raw["step"]), epoch=int(raw["epoch"]), files=files, signature=signature)


def step_of(name: str) -> int | None:
    """The step that a directory below `checkpoints/` is named after; None for `last` and strangers."""
    return int(name) if name.isascii() and name.isdigit() else None


def missing(files: Iterable[str]) -> list[str]:
    """The files that a checkpoint of these files lacks."""
    there = set(files)
    weights = ADAPTER if there.intersection(ADAPTER) and WEIGHTS not in there else (WEIGHTS,)
    return sorted({*REQUIRED, *weights} - there)


def differences(manifest: Manifest, found: Mapping[str, File]) -> list[str]:
    """How the files on the disk differ from the manifest; empty if they are the same."""
    faults = [f"{path} is gone" for path in manifest.files if path not in found]
    faults += [f"{path} is not complete" for path in missing(manifest.files)]
    for path, file in manifest.files.items():
        if path in found and found[path].bytes != file.bytes:
            faults.append(f"{path} has {found[path].bytes} bytes instead of {file.bytes}")
        elif path in found and found[path].sha256 != file.sha256:
            faults.append(f"{path} has other bytes than were saved")
    return faults


def to_remove(verified: Iterable[int], keep: int, pinned: Collection[int] = ()) -> list[int]:
    """The steps whose checkpoints may go, oldest first: all verified ones but the newest `keep` and the pinned ones."""
    steps = sorted(verified)
    return [step for step in steps[: max(0, len(steps) - max(1, keep))] if step not in pinned]

"""What a job takes of a box: stated in its file, or estimated, with a line of reasons for each number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pi0q.jobs.kinds import Value
from pi0q.jobs.spec import Spec

_GIB = 2**30
#: Of a box, whatever the job: logs, caches of compilers, temporary files. GiB.
SPARE_GIB = 5.0
#: Allowance for a dataset whose size nobody has told. GiB.
DATASET_GIB = 10.0
#: A rehearsal's model has 17 M parameters, 68 MB a checkpoint (measured). GiB.
REHEARSAL_VRAM_GIB = 4.0
REHEARSAL_DISK_GIB = 2.0


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a box must have free."""

    gpus: int
    #: On each GPU, in MiB; 0 without a GPU.
    vram_mib: int
    #: On the data disk, in MiB.
    disk_mib: int
    #: One line a number: where it comes from.
    why: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Model:
    """Sizes of a policy."""

    #: Parameters held, in billions.
    params: float
    #: Of these get gradients when everything is trained: pi0's two language heads are held but never used (there
    #: is no Adam moment of theirs in a checkpoint).
    trained: float
    #: Of these get gradients under `train_expert_only`.
    expert: float
    #: The vision encoder's share, which `freeze_vision_encoder` leaves alone.
    vision: float
    #: GiB of activations a sample with one camera, in 16 bits: without and with gradient checkpointing.
    sample: tuple[float, float]
    #: Tokens a camera adds, and tokens besides (text, state, actions).
    tokens: tuple[int, int]
    #: GB of weights to download before the first step.
    download: float


# Parameters of pi0, pi05 and ACT: counted by building them (LeRobot 0.6.1); of the others: by their papers.
# Activations of pi0: one H100, bfloat16, one 224x224 camera: 34.9 GiB at batch 8, 37.0 GiB at batch 32 with
# gradient checkpointing, less 25.6 GiB static. The others of the family are pi0 by their count of tokens; those of
# smolvla and the small ones are guessed on the high side.
_PI0 = _Model(params=4.03, trained=3.24, expert=0.32, vision=0.41, sample=(1.17, 0.36), tokens=(256, 99), download=14.0)
_MODELS: dict[str, _Model] = {
    "pi0": _PI0,
    "pi05": _Model(
        params=4.14,
        trained=3.35,
        expert=0.43,
        vision=0.41,
        sample=(1.67, 0.51),
        tokens=(256, 250),
        download=14.0,
    ),
    "pi0_fast": _Model(
        params=3.45,
        trained=3.45,
        expert=3.45,
        vision=0.41,
        sample=(2.35, 0.72),
        tokens=(256, 456),
        download=12.0,
    ),
    "smolvla": _Model(
        params=0.45,
        trained=0.45,
        expert=0.10,
        vision=0.09,
        sample=(0.15, 0.15),
        tokens=(64, 99),
        download=1.0,
    ),
    "act": _Model(
        params=0.052,
        trained=0.052,
        expert=0.052,
        vision=0.0,
        sample=(0.15, 0.15),
        tokens=(1, 0),
        download=0.1,
    ),
    "diffusion": _Model(
        params=0.28, trained=0.28, expert=0.28, vision=0.0, sample=(0.15, 0.15), tokens=(1, 0), download=0.1
    ),
}
#: Cameras assumed while nobody has looked into the dataset.
CAMERAS = 2


def estimate(spec: Spec, *, cameras: int | None = None, dataset_gib: float | None = None) -> Needs:
    """What this job takes. What the file states wins; a rehearsal takes little, whatever the real job states.

    Args:
        cameras: Cameras of the dataset, if its `meta/info.json` was read.
        dataset_gib: Its size, if known; 0 if it is on the box already.
    """
    gpus, gpus_why = _gpus(spec)
    vram, vram_why = _vram(spec, cameras or CAMERAS) if gpus else (0, "vram 0: no GPU asked for")
    disk, disk_why = _disk(spec, dataset_gib)
    return Needs(gpus=gpus, vram_mib=vram, disk_mib=disk, why=(gpus_why, vram_why, disk_why))


def _gpus(spec: Spec) -> tuple[int, str]:
    stated = spec.resources.gpus
    if stated is not None:
        return stated, f"gpus {stated}: stated"
    if spec.train.get("policy.device") == "cpu":
        return 0, "gpus 0: policy.device is cpu"
    return 1, "gpus 1: not stated"


def _vram(spec: Spec, cameras: int) -> tuple[int, str]:
    stated = spec.resources.vram_mib
    if spec.rehearsal:
        mib = min(stated or math.inf, REHEARSAL_VRAM_GIB * 1024)
        return int(mib), f"vram {mib / 1024:.3g} GiB: a rehearsal's model is small"
    if stated is not None:
        return stated, f"vram {stated / 1024:.3g} GiB: stated"
    model, width = _model(spec), _width(spec)
    trained = _trained(spec, model)
    # Weights, then gradients and Adam's two moments for what is trained, all in the model's own format.
    static = 1e9 * width * (model.params + 3 * trained) / _GIB
    sample = model.sample[bool(spec.train.get("policy.gradient_checkpointing"))] * width / 2
    sample *= _more(model.tokens, cameras)
    if trained < model.trained / 2:
        # Without gradients through the large model most activations go at once; the share kept is a guess.
        sample *= 0.4
    batch = _int(spec.train, "batch_size", 8)
    gib = static + batch * sample
    why = (
        f"vram {gib:.1f} GiB: {model.params:g} B parameters, {trained:g} B of them trained, "
        f"in {8 * width} bits: {static:.1f} GiB; {batch} samples x {sample:.2f} GiB of activations "
        f"({cameras} camera{'s' if cameras > 1 else ''}{_advice(spec, width)})"
    )
    return math.ceil(gib * 1024), why


def _advice(spec: Spec, width: int) -> str:
    if width == 4 and str(spec.train.get("policy.type")).startswith("pi0"):
        return "; policy.dtype: bfloat16 would halve it"
    return ""


def _disk(spec: Spec, dataset_gib: float | None) -> tuple[int, str]:
    stated = spec.resources.disk_mib
    if spec.rehearsal:
        mib = min(stated or math.inf, REHEARSAL_DISK_GIB * 1024)
        return int(mib), f"disk {mib / 1024:.3g} GiB: a rehearsal's checkpoints are small"
    if stated is not None:
        return stated, f"disk {stated / 1024:.3g} GiB: stated"
    model, width = _model(spec), _width(spec)
    # The weights and Adam's two moments of what is trained; 21 GB for pi0, of which 22 GB were measured.
    checkpoint = 1.05 * 1e9 * width * (model.params + 2 * _trained(spec, model)) / _GIB
    dataset = (0.0 if "dataset.root" in spec.train else DATASET_GIB) if dataset_gib is None else dataset_gib
    base = model.download * 1e9 / _GIB
    count = spec.checkpoints.keep + 1
    gib = math.ceil(base + dataset + count * checkpoint + SPARE_GIB)
    why = (
        f"disk {gib} GiB: {base:.3g} GiB of base weights + {dataset:.3g} GiB dataset "
        f"+ {count} checkpoints of {checkpoint:.3g} GiB (one in the making) + {SPARE_GIB:g} GiB to spare"
    )
    return gib * 1024, why


def _model(spec: Spec) -> _Model:
    """The policy's sizes; one given by path is taken for the largest, pi0."""
    return _MODELS.get(str(spec.train.get("policy.type")), _PI0)


def _width(spec: Spec) -> int:
    return 2 if spec.train.get("policy.dtype") == "bfloat16" else 4


def _trained(spec: Spec, model: _Model) -> float:
    """Parameters with gradients and moments, in billions. SmolVLA by default trains only its expert."""
    train = spec.train
    if any(name.startswith("peft.") for name in train):
        return round(model.trained / 50, 3)
    small = train.get("policy.type") == "smolvla"
    if train.get("policy.train_expert_only", small):
        return model.expert
    frozen = model.vision if train.get("policy.freeze_vision_encoder", small) else 0.0
    return round(model.trained - frozen, 3)


def _more(tokens: tuple[int, int], cameras: int) -> float:
    """How many times the tokens of one camera there are."""
    each, besides = tokens
    return (each * cameras + besides) / (each + besides)


def _int(train: Mapping[str, Value], name: str, default: int) -> int:
    value = train.get(name)
    return value if isinstance(value, int) else default

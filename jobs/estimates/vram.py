"""VRAM that a training step takes on one GPU: weights, Adam's state, activations, and what CUDA itself holds.

Figures are from benchmarks/2026-11-29-vram.md: LeRobot 0.6.1's own training step on one H200, random weights,
LoRA of rank 16. tests/jobs/estimates/test_vram.py holds the estimates against all peaks of that report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pi0q.jobs import several_gpus
from pi0q.jobs.dataset import Images
from pi0q.jobs.estimates import policy_sizes
from pi0q.jobs.schema.defaults import number
from pi0q.jobs.spec import Spec
from pi0q.jobs.vram_peak import CONTEXT_MIB

_MIB = 2**20
#: What the allocator holds more than is in use, through fragmentation: 4 to 22 % were measured.
FRAGMENTATION = 1.175
#: What NCCL holds of each card of a job on several, MiB: a guess, until the first such job was measured.
NCCL_MIB = 1024


#: Assumed while nobody has looked into the dataset. The least: the box that takes the job knows the dataset and
#: reckons again.
UNKNOWN_IMAGES = Images(cameras=1)


@dataclass(frozen=True, kw_only=True)
class Activations:
    """What one sample holds between the forward and the backward pass, MiB; everything trained."""

    #: For each camera, whatever its size: the policy scales images to one size.
    camera: float = 0.0
    #: For each camera of 224 x 224, in proportion to its pixels: the policy takes images as they are.
    pixels: float = 0.0
    #: For the square of all image tokens, in proportion to (cameras x pixels) squared.
    attention: float = 0.0
    #: Text, state and actions.
    rest: float = 0.0
    #: Instead of `camera` and `rest` under gradient checkpointing, for each camera; None: it changes nothing.
    checkpointed: float | None = None
    #: Times as much in 32 bits where the figures are of 16 bits.
    in_32_bits: float = 1.0
    #: Workspace of convolutions, and more for each 480 x 640 of an image. MiB, not for each sample.
    workspace: tuple[float, float] = (0.0, 0.0)

    def of(self, images: Images, *, checkpointing: bool) -> float:
        """Return MiB a sample."""
        if checkpointing and self.checkpointed is not None:
            return self.checkpointed * images.cameras
        scaled = images.cameras * images.patches
        return self.camera * images.cameras + self.pixels * scaled + self.attention * scaled**2 + self.rest


#: Both formats of the pi0 family: 1.63 without and 1.68 with gradient checkpointing were measured.
_IN_32_BITS = 1.68
_MEASURED: dict[str, Activations] = {
    "pi0": Activations(camera=1430, rest=100, checkpointed=467, in_32_bits=_IN_32_BITS),
    "pi05": Activations(camera=1510, rest=640, checkpointed=467, in_32_bits=_IN_32_BITS),
    "smolvla": Activations(camera=693, rest=110),
    "act": Activations(pixels=22, attention=0.75, rest=30, workspace=(0, 300)),
    "diffusion": Activations(pixels=74, workspace=(500, 0)),
}
#: The same where the large part of the model is frozen: only the expert or an adapter is trained.
_MOSTLY_FROZEN: dict[str, Activations] = {
    "pi0": Activations(camera=850, rest=60, checkpointed=103, in_32_bits=_IN_32_BITS),
    "pi05": Activations(camera=970, rest=410, checkpointed=154, in_32_bits=_IN_32_BITS),
    "smolvla": Activations(camera=86, rest=86),
}
#: pi05 with 456 tokens besides the images' instead of 250.
_UNMEASURED: dict[str, Activations] = {
    "pi0_fast": Activations(camera=1510, rest=1170, checkpointed=467, in_32_bits=_IN_32_BITS)
}
#: MiB a sample for each million parameters of any other policy: pi0 has 0.4, act 1.0, smolvla 1.8.
_EACH_MILLION, _EACH_MILLION_OF_LARGE = 1.8, 0.5


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimate and the parts it is made of."""

    mib: int
    #: Weights, gradients and Adam's two moments with its temporary copy, at the optimizer's step. MiB.
    optimizer_mib: float
    #: Weights and Adam's two moments, which the activations come on top of. MiB.
    held_mib: float
    #: MiB of activations a sample.
    sample_mib: float
    #: Whether the policy's figures were measured.
    measured: bool


def estimate(spec: Spec, images: Images) -> Estimate:
    """Return what one step holds at its peak: the optimizer's step, or the end of the forward pass."""
    model, train = policy_sizes.of(spec), spec.train
    activations, measured = _activations(spec, model)
    weights = policy_sizes.weight_bytes(spec) / _MIB
    trained = policy_sizes.trained_bytes(spec) / _MIB
    checkpointing = bool(train.get("policy.gradient_checkpointing"))
    sample = activations.of(_as_the_policy_takes(spec, images), checkpointing=checkpointing)
    if policy_sizes.vision_is_frozen(spec) and not policy_sizes.is_mostly_frozen(spec):
        # 0.89 was measured of pi05 without gradient checkpointing.
        sample *= 0.9
    sample *= activations.in_32_bits if policy_sizes.width(spec) == 4 else 1.0
    optimizer, held = weights + 4 * trained, weights + 2 * trained
    if several_gpus.ranks(spec) > 1:
        # torch keeps gradients a second time, in the buckets that it adds up over the GPUs.
        optimizer, held = optimizer + trained, held + trained
    peak = max(optimizer, held + number(train, "batch_size") * sample)
    least, each = activations.workspace
    workspace = least + each * images.patches / (480 * 640 / 224**2)
    nccl = NCCL_MIB if several_gpus.ranks(spec) > 1 else 0
    mib = math.ceil(CONTEXT_MIB + nccl + FRAGMENTATION * peak + workspace)
    return Estimate(mib=mib, optimizer_mib=optimizer, held_mib=held, sample_mib=sample, measured=measured)


def _activations(spec: Spec, model: policy_sizes.Model) -> tuple[Activations, bool]:
    # One that nobody knows is taken for the largest, as its sizes are.
    policy = policy_sizes.kind(spec) or "pi0"
    table = _MOSTLY_FROZEN if policy_sizes.is_mostly_frozen(spec) else _MEASURED
    if policy in table:
        return table[policy], policy_sizes.is_certain(spec) and not policy_sizes.by_header(spec)
    each = _EACH_MILLION if model.params < 1 else _EACH_MILLION_OF_LARGE
    generic = Activations(rest=max(60.0, each * 1000 * model.params))
    return _UNMEASURED.get(policy, generic), False


def _as_the_policy_takes(spec: Spec, images: Images) -> Images:
    """Return the images after the policy's own crop."""
    shape = spec.train.get("policy.crop_shape") or spec.train.get("policy.resize_shape")
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(side, int) for side in shape):
        return images
    height, width = (int(str(side)) for side in shape)
    return Images(cameras=images.cameras, height=height, width=width)

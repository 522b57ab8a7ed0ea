"""What a job takes of a box: stated in its file, or estimated, with a line of reasons for each number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pi0q.jobs import disk, flags, model
from pi0q.jobs.disk import Plan
from pi0q.jobs.kinds import Value
from pi0q.jobs.spec import Spec

_GIB = 2**30
#: A rehearsal's model has 17 M parameters. GiB.
REHEARSAL_VRAM_GIB = 4.0


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a box must have free."""

    gpus: int
    #: On each GPU, in MiB; 0 without a GPU.
    vram_mib: int
    #: On the data disk, in MiB.
    disk_mib: int
    #: The same, thing by thing.
    disk: Plan
    #: One line a number: where it comes from.
    why: tuple[str, ...]


#: Cameras assumed while nobody has looked into the dataset.
CAMERAS = 2


def estimate(spec: Spec, *, cameras: int | None = None, sizes: Mapping[str, int] | None = None) -> Needs:
    """What this job takes. What the file states wins; a rehearsal takes little, whatever the real job states.

    Args:
        cameras: Cameras of the dataset, if its `meta/info.json` was read.
        sizes: Bytes of its repositories, by pin, as far as the Hub has told them.
    """
    gpus, gpus_why = _gpus(spec)
    vram, vram_why = _vram(spec, cameras or CAMERAS) if gpus else (0, "vram 0: no GPU asked for")
    plan = disk.plan(spec, sizes=sizes)
    return Needs(gpus=gpus, vram_mib=vram, disk_mib=plan.mib, disk=plan, why=(gpus_why, vram_why, _disk(plan)))


def lighter(spec: Spec, vram_mib: int) -> list[str]:
    """Changes to the job's file, one of which is enough, after which it takes no more than this of each GPU."""
    batch = _int(spec.train, "batch_size", 8)
    found = list[tuple[str, dict[str, Value]]]()
    changes: tuple[tuple[str, Value], ...] = (("policy.dtype", "bfloat16"), ("policy.gradient_checkpointing", True))
    for name, value in changes:
        told = str(value).lower()
        known = flags.misfit(name, str(spec.train.get("policy.type")), flags.FLAGS[name].known) is None
        if spec.train.get(name) != value and known:
            found.append((f"{name}: {told}", {name: value}))
    halves = [batch >> shift for shift in range(1, batch.bit_length())]
    fitting = next((size for size in halves if _takes(spec, {"batch_size": size}) <= vram_mib), None)
    enough = [told for told, change in found if _takes(spec, change) <= vram_mib]
    return [*enough, *([f"batch_size: {fitting}"] if fitting else [])]


def _takes(spec: Spec, change: Mapping[str, Value]) -> int:
    free = replace(spec.resources, vram_mib=None)
    return estimate(replace(spec, resources=free, train={**spec.train, **change})).vram_mib


def _disk(plan: Plan) -> str:
    if plan.stated_mib is not None:
        return f"disk {disk.gib(plan.mib)}: stated"
    parts = [f"{disk.gib(item.mib)} {item.kind}" for item in sorted(plan.items, key=lambda item: -item.mib)]
    return f"disk {disk.gib(plan.mib)}: {' + '.join(parts)}"


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
    sizes, width, trained = model.of(spec), model.width(spec), model.trained(spec)
    # Weights, then gradients and Adam's two moments for what is trained, all in the model's own format.
    static = 1e9 * width * (sizes.params + 3 * trained) / _GIB
    sample = sizes.sample[bool(spec.train.get("policy.gradient_checkpointing"))] * width / 2
    sample *= _more(sizes.tokens, cameras)
    if trained < sizes.trained / 2:
        # Without gradients through the large model most activations go at once; the share kept is a guess.
        sample *= 0.4
    batch = _int(spec.train, "batch_size", 8)
    gib = static + batch * sample
    why = (
        f"vram {gib:.1f} GiB: {sizes.params:g} B parameters, {trained:g} B of them trained, "
        f"in {8 * width} bits: {static:.1f} GiB; {batch} samples x {sample:.2f} GiB of activations "
        f"({cameras} camera{'s' if cameras > 1 else ''}{_advice(spec, width)})"
    )
    return math.ceil(gib * 1024), why


def _advice(spec: Spec, width: int) -> str:
    if width == 4 and str(spec.train.get("policy.type")).startswith("pi0"):
        return "; policy.dtype: bfloat16 would halve it"
    return ""


def _more(tokens: tuple[int, int], cameras: int) -> float:
    """How many times the tokens of one camera there are."""
    each, besides = tokens
    return (each * cameras + besides) / (each + besides)


def _int(train: Mapping[str, Value], name: str, default: int) -> int:
    value = train.get(name)
    return value if isinstance(value, int) else default

"""What a job takes of a box: stated in its file, or estimated, with a line of reasons for each number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pi0q.jobs.dataset import Images
from pi0q.jobs.estimates import disk, policy_sizes, vram
from pi0q.jobs.estimates.base_facts import BaseFacts
from pi0q.jobs.estimates.disk import DiskPlan
from pi0q.jobs.schema import flags, trained_model
from pi0q.jobs.schema.defaults import number
from pi0q.jobs.schema.value_types import Value
from pi0q.jobs.spec import Spec
from pi0q.jobs.vram_peak import Peak

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
    disk: DiskPlan
    #: One line a number: where it comes from.
    why: tuple[str, ...]


def estimate(
    spec: Spec,
    *,
    images: Images | None = None,
    sizes: Mapping[str, int] | None = None,
    peak: Peak | None = None,
    base: BaseFacts | None = None,
) -> Needs:
    """Return what this job takes. What the file states wins; a rehearsal takes little, whatever the real job states.

    Args:
        images: Of the dataset, if its `meta/info.json` was read.
        sizes: Bytes of its repositories, by pin, as far as the Hub has stated them.
        peak: The measured VRAM of a job of its shape, if one has run.
        base: What was read of the weights that it starts from.
    """
    spec = policy_sizes.informed(spec, base)
    if base and (name := policy_sizes.base(spec)):
        sizes = {name: base.bytes, **(sizes or {})} if base.bytes else sizes
    gpus, gpus_why = _gpus(spec)
    vram, vram_why = _vram(spec, images, peak) if gpus else (0, "vram 0: no GPU asked for")
    plan = disk.plan(spec, sizes=sizes)
    return Needs(gpus=gpus, vram_mib=vram, disk_mib=plan.mib, disk=plan, why=(gpus_why, vram_why, _disk(plan)))


def lighter(spec: Spec, vram_mib: int) -> list[str]:
    """Changes to the job's file, one of which is enough, after which it takes no more than this of each GPU."""
    batch = number(spec.train, "batch_size")
    found = list[tuple[str, dict[str, Value]]]()
    changes: tuple[tuple[str, Value], ...] = (("policy.dtype", "bfloat16"), ("policy.gradient_checkpointing", True))
    for name, value in changes:
        told = str(value).lower()
        known = flags.misfit(name, flags.chosen(spec.train, name)) is None
        if spec.train.get(name) != value and known:
            found.append((f"{name}: {told}", {name: value}))
    halves = [batch >> shift for shift in range(1, batch.bit_length())]
    fitting = next((size for size in halves if _takes(spec, {"batch_size": size}) <= vram_mib), None)
    enough = [told for told, change in found if _takes(spec, change) <= vram_mib]
    return [*enough, *([f"batch_size: {fitting}"] if fitting else [])]


def _takes(spec: Spec, change: Mapping[str, Value]) -> int:
    free = replace(spec.resources, vram_mib=None)
    return estimate(replace(spec, resources=free, train={**spec.train, **change})).vram_mib


def _disk(plan: DiskPlan) -> str:
    if plan.stated_mib is not None:
        return f"disk {disk.gib(plan.mib)}: stated"
    parts = [f"{disk.gib(item.mib)} {item.kind}" for item in sorted(plan.items, key=lambda item: -item.mib)]
    return f"disk {disk.gib(plan.mib)}: {' + '.join(parts)}"


def _gpus(spec: Spec) -> tuple[int, str]:
    stated = spec.resources.gpus
    if stated is not None:
        return stated, f"gpus {stated}: stated"
    if trained_model.on_cpu(spec.train):
        return 0, f"gpus 0: {trained_model.section(spec.train)}.device is cpu"
    return 1, "gpus 1: not stated"


def _vram(spec: Spec, images: Images | None, peak: Peak | None) -> tuple[int, str]:
    stated = spec.resources.vram_mib
    if spec.rehearsal:
        mib = min(stated or math.inf, REHEARSAL_VRAM_GIB * 1024)
        return int(mib), f"vram {mib / 1024:.3g} GiB: a rehearsal's model is small"
    if stated is not None:
        return stated, f"vram {stated / 1024:.3g} GiB: stated"
    found = vram.estimate(spec, images or vram.UNKNOWN_IMAGES)
    if peak:
        mib = peak.need_mib(found.mib)
        return mib, f"vram {mib / 1024:.1f} GiB: {peak.sentence(found.mib)}"
    sizes, width, batch = policy_sizes.of(spec), policy_sizes.width(spec), number(spec.train, "batch_size")
    assumed = images or f"{vram.UNKNOWN_IMAGES} assumed"
    why = (
        f"vram {found.mib / 1024:.1f} GiB: {sizes.params:g} B parameters in {8 * width} bits, "
        f"{policy_sizes.trained(spec):g} B of them trained: {found.optimizer_mib / 1024:.1f} GiB at the optimizer's "
        f"step, or {found.held_mib / 1024:.1f} GiB and {batch} samples x {found.sample_mib / 1024:.2f} GiB in the "
        f"backward pass "
        f"({assumed}{_advice(spec, width)}); {_certainty(found, by_header=policy_sizes.by_header(spec))}"
    )
    return found.mib, why


def _certainty(found: vram.Estimate, *, by_header: bool) -> str:
    if found.measured:
        return "measured peaks lie up to 25% below this"
    if by_header:
        return (
            "by the parameters that its base's header names: without a measured peak it may be off by half, and "
            "`resources: {vram: ...}` overrides it"
        )
    return "a guess: no peak of this policy was measured, and `resources: {vram: ...}` overrides it"


def _advice(spec: Spec, width: int) -> str:
    if width == 4 and policy_sizes.kind(spec).startswith("pi0"):
        return "; policy.dtype: bfloat16 would halve it"
    return ""

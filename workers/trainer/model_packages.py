"""Packages that a policy or reward model imports beyond LeRobot's own; LeRobot's extras bring them. Pure.

Read from LeRobot 0.6.1: the calls of `require_package`, and what transformers asks for besides. Releases before it
import some of them always, so that a box with one of those has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pi0q.jobs.schema import trained_model
from pi0q.jobs.schema.value_types import Value

#: LeRobot's extra and its modules, by policy or reward model.
EXTRAS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "diffusion": ("diffusion", ("diffusers",)),
    "eo1": ("eo1", ("transformers", "qwen_vl_utils")),
    "evo1": ("evo1", ("transformers",)),
    "fastwam": ("fastwam", ("transformers", "diffusers")),
    "groot": ("groot", ("transformers", "diffusers", "peft")),
    "lingbot_va": ("lingbot_va", ("transformers", "diffusers")),
    "molmoact2": ("molmoact2", ("transformers", "peft", "scipy")),
    "multi_task_dit": ("multi_task_dit", ("transformers", "diffusers")),
    "pi0_fast": ("pi", ("transformers", "scipy")),
    "reward_classifier": ("transformers-dep", ("transformers",)),
    "sarm": ("sarm", ("transformers", "faker")),
    "smolvla": ("smolvla", ("transformers", "num2words")),
    "vla_jepa": ("vla_jepa", ("transformers", "diffusers")),
    "wall_x": ("wallx", ("transformers", "peft", "torchdiffeq", "qwen_vl_utils")),
    "xvla": ("xvla", ("transformers",)),
}
ADAPTER = ("peft", ("peft",))


def missing(seen: Mapping[str, Any], train: Mapping[str, Value]) -> Iterator[str]:
    """Yield why this environment can't train this job's model: a package that it lacks, and the fix.

    Args:
        seen: What `inspect_main` printed; nothing is said where it did not look for packages.
    """
    absent = frozenset(map(str, seen.get("absent") or ()))
    kind = trained_model.kind(train)
    needed = [(f"{trained_model.section(train)} {kind}", *EXTRAS[kind])] if kind in EXTRAS else []
    if any(name.startswith("peft.") for name in train):
        needed.append(("an adapter (peft.*)", *ADAPTER))
    for what, extra, modules in needed:
        if lacking := [module for module in modules if module in absent]:
            yield (
                f"package: {what} needs {' and '.join(lacking)}, which the trainer's environment lacks. "
                f"Fix: pip install 'lerobot[{extra}]=={seen.get('lerobot')}' there"
            )

"""Sizes of the policies that LeRobot trains, and how a job's flags change them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pi0q.jobs import start_point
from pi0q.jobs.schema import trained_model

if TYPE_CHECKING:
    from pi0q.jobs.estimates.base_facts import BaseFacts
    from pi0q.jobs.spec import Spec


#: The gated repository whose tokenizer pi0 reads (processor_pi0.py); none of its 11 GB of weights.
PALIGEMMA = "google/paligemma-3b-pt-224"
#: Which flag names the tokenizer of a policy, and what it is if left out.
TOKENIZERS = {
    "pi0": ("", PALIGEMMA),
    "pi05": ("", PALIGEMMA),
    "pi0_fast": ("policy.text_tokenizer_name", PALIGEMMA),
}


@dataclass(frozen=True, kw_only=True)
class Model:
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
    #: GB of weights that `pretrained_path` brings.
    base: float
    #: GB that the policy fetches by itself from the Hub, whatever the file says.
    backbone: float = 0.0
    #: Parameters that stay in 32 bits where the rest is in 16, in billions; all but the norms are the vision encoder's.
    wide: float = 0.0
    #: Whether LeRobot holds it in 16 bits where the file says nothing.
    narrow: bool = False


# Parameters: counted by building them (LeRobot 0.6.1); of pi0_fast: by its paper.
_PI0 = Model(params=4.03, trained=3.24, expert=0.32, vision=0.41, base=14.0, wide=0.418)
_MODELS: dict[str, Model] = {
    "pi0": _PI0,
    "pi05": Model(
        params=4.14,
        trained=3.35,
        expert=0.43,
        vision=0.41,
        base=14.0,
        wide=0.534,
    ),
    "pi0_fast": Model(
        params=3.45,
        trained=3.45,
        expert=3.45,
        vision=0.41,
        base=12.0,
        wide=0.418,
    ),
    "smolvla": Model(
        params=0.45,
        trained=0.39,
        expert=0.10,
        vision=0.09,
        base=1.0,
        backbone=2.1,
    ),
    "act": Model(
        params=0.052,
        trained=0.052,
        expert=0.052,
        vision=0.0,
        base=0.25,
    ),
    "diffusion": Model(
        params=0.27,
        trained=0.27,
        expert=0.27,
        vision=0.0,
        base=1.2,
    ),
}

#: The same of all others: by the sizes of what they are built of, and LeRobot's hardware guide (24 to 40 GB at batch 8
#: for groot, xvla, wall_x and eo1; 2 to 6 GB for tdmpc and vqbet). Nothing of them was measured.
_GUESSED: dict[str, Model] = {
    "eo1": Model(params=3.8, trained=3.8, expert=3.8, vision=0.67, base=7.6, backbone=7.6, narrow=True),
    "evo1": Model(params=0.8, trained=0.8, expert=0.8, vision=0.3, base=1.6, backbone=1.9, narrow=True),
    "fastwam": Model(params=6.0, trained=6.0, expert=1.0, vision=0.0, base=12.0, backbone=23.0, narrow=True),
    "groot": Model(params=3.0, trained=1.1, expert=1.1, vision=0.0, base=6.0, backbone=6.0),
    "lingbot_va": Model(params=11.0, trained=5.3, expert=5.3, vision=0.0, base=22.0, backbone=22.0, narrow=True),
    "molmoact2": Model(params=5.0, trained=5.0, expert=0.5, vision=0.4, base=10.0, backbone=10.0, narrow=True),
    "multi_task_dit": Model(params=0.3, trained=0.3, expert=0.3, vision=0.0, base=1.2, backbone=0.6),
    "reward_classifier": Model(params=0.02, trained=0.02, expert=0.02, vision=0.0, base=0.1, backbone=0.1),
    "sarm": Model(params=0.21, trained=0.06, expert=0.06, vision=0.0, base=0.3, backbone=0.6),
    "tdmpc": Model(params=0.003, trained=0.003, expert=0.003, vision=0.0, base=0.02),
    "vla_jepa": Model(params=2.8, trained=2.5, expert=2.5, vision=0.0, base=5.6, backbone=5.6, narrow=True),
    "vqbet": Model(params=0.05, trained=0.05, expert=0.05, vision=0.0, base=0.2),
    "wall_x": Model(params=4.2, trained=4.2, expert=4.2, vision=0.67, base=8.4, backbone=8.4, narrow=True),
    "xvla": Model(params=0.9, trained=0.9, expert=0.9, vision=0.36, base=3.6),
}
#: Policies of well-known bases, for `policy.path`, which brings its type along.
_BASES = {
    "lerobot/pi0": "pi0", "lerobot/pi0_base": "pi0", "lerobot/pi05_base": "pi05", "lerobot/pi0fast-base": "pi0_fast",
    "lerobot/smolvla_base": "smolvla", "lerobot/xvla-base": "xvla", "lerobot/fastwam_base": "fastwam",
}  # fmt: skip


def informed(spec: Spec, base: BaseFacts | None) -> Spec:
    """Return the job with what is known of its base, for estimates alone: of one given by path its type and settings.

    What the job's file says wins, as it does in LeRobot.
    """
    if base is None:
        return spec
    train: dict[str, Any] = dict(spec.train)
    if train.get("policy.path") and base.policy:
        train = {"policy.type": base.policy, **{f"policy.{name}": of for name, of in base.settings.items()}, **train}
    kind = trained_model.kind(train)
    # Weights of another policy say nothing of this one.
    return replace(spec, train=train, base=base if base.policy in ("", kind) else None)


def kind(spec: Spec) -> str:
    """Return the policy or reward model that the job trains; of one given by path what its base is known to be.

    A base that is not known is taken for the policy whose name stands in its own (`you/smolvla_box`); "" if none does.
    """
    path = str(spec.train.get("policy.path") or "")
    if found := trained_model.kind(spec.train) or _BASES.get(path, ""):
        return found
    name = path.rpartition("/")[2].lower().replace("-", "_")
    return max(
        (of for of in (*_MODELS, *_GUESSED) if of in name and len(of) > 3), key=len, default="pi0" * ("pi0" in name)
    )


def by_header(spec: Spec) -> bool:
    """Return whether the sizes are those of the base's header: of a policy, or a variant, that nobody counted."""
    return _scaled(spec) is not None


def is_certain(spec: Spec) -> bool:
    """Return whether it is known what the job trains."""
    return bool(trained_model.kind(spec.train)) or str(spec.train.get("policy.path")) in _BASES


def of(spec: Spec) -> Model:
    """Return the model's sizes; one that nobody knows is taken for the largest that was measured, pi0."""
    name = kind(spec)
    return _scaled(spec) or _MODELS.get(name) or _GUESSED.get(name) or _PI0


#: By how much the parameters of a base may differ from those that were counted for its policy: shared tensors stand in
#: a file once, and a model has them twice.
_NEAR = 0.15


def _scaled(spec: Spec) -> Model | None:
    """Return the sizes by the header of the base; None where none was read, or it is the model that was counted."""
    facts = spec.base
    if facts is None or facts.adapter or not facts.params:
        return None
    params, known = facts.params / 1e9, _MODELS.get(kind(spec))
    if known is None:
        return Model(
            params=round(params, 3),
            trained=round(params, 3),
            expert=round(facts.expert / 1e9 or params, 3),
            vision=round(facts.vision / 1e9, 3),
            base=facts.bytes / 1e9,
            narrow=facts.narrow,
        )
    in_file = known.base / 4
    nearest = min((in_file, known.params), key=lambda count: abs(params - count))
    if abs(params - nearest) <= _NEAR * nearest:
        return None
    by = params / nearest
    return Model(
        params=round(by * known.params, 3),
        trained=round(by * known.trained, 3),
        expert=round(facts.expert / 1e9 or by * known.expert, 3),
        vision=round(facts.vision / 1e9 or by * known.vision, 3),
        base=facts.bytes / 1e9,
        backbone=known.backbone,
        wide=round(by * known.wide, 3),
        narrow=known.narrow,
    )


def width(spec: Spec) -> int:
    """Bytes a parameter."""
    asked = spec.train.get("policy.dtype")
    return 2 if asked == "bfloat16" or (asked in (None, "auto") and of(spec).narrow) else 4


def trained(spec: Spec) -> float:
    """Parameters with gradients and moments, in billions. SmolVLA by default trains only its expert."""
    train, model = spec.train, of(spec)
    if is_adapted(spec):
        return round(model.trained / 50, 3)
    if train.get("policy.train_expert_only", _small(spec)):
        return model.expert
    return round(model.trained - (model.vision if vision_is_frozen(spec) else 0.0), 3)


def weight_bytes(spec: Spec) -> float:
    """Return the bytes of all weights, each in its own format."""
    model, each = of(spec), width(spec)
    return 1e9 * (each * model.params + (4 - each) * model.wide)


def trained_bytes(spec: Spec) -> float:
    """Return the bytes of the weights that get gradients; the gradients take as much, Adam's moments twice as much."""
    model, each = of(spec), width(spec)
    wide = 0.0 if vision_is_frozen(spec) or is_mostly_frozen(spec) else model.wide
    return 1e9 * (each * trained(spec) + (4 - each) * wide)


def is_adapted(spec: Spec) -> bool:
    """Return whether an adapter is trained instead of the model's own weights."""
    return any(name.startswith("peft.") for name in spec.train)


def adapted_base(spec: Spec) -> str:
    """Return the base that each start of an adapter needs, also a resume: its checkpoints hold the adapter alone.

    "" where the model's own weights are trained, or the adapter that the file names brings its base along.
    """
    own = is_adapted(spec) and not spec.rehearsal and not spec.train.get("policy.use_peft")
    return str(base(spec) or "") if own else ""


def is_mostly_frozen(spec: Spec) -> bool:
    """Return whether only an expert or an adapter is trained, so that most of the model keeps no activations."""
    return trained(spec) < of(spec).trained / 2


def checkpoint_bytes(spec: Spec) -> int:
    """One checkpoint: the weights, and Adam's two moments of what is trained, each in its own format.

    23.1 GB were measured for all of pi0 in bfloat16, where 23.8 come out here: its last language layer is held as
    trained and has no moments.
    """
    model, bytes_each, learnt = of(spec), width(spec), trained(spec)
    if is_adapted(spec):
        # LeRobot saves the adapter alone, in 32 bits, and its moments.
        return round(1.01e9 * 4 * 3 * learnt)
    narrow = bytes_each * (model.params + 2 * learnt)
    all_trained = learnt >= model.trained
    wide = (4 - bytes_each) * model.wide * (3 if all_trained else 1)
    return round(1.01e9 * (narrow + wide))


def model_bytes(spec: Spec) -> int:
    """Return the bytes of a whole model's weights, as `pretrained_model` of a checkpoint holds them."""
    return round(1.01 * weight_bytes(spec))


def base(spec: Spec) -> str | None:
    """The weights that the training starts from: owner/name, a path on the box, or `job:ID@STEP`; None: nothing."""
    path = spec.train.get("policy.path")
    found = path or (None if spec.rehearsal else trained_model.setting(spec.train, "pretrained_path"))
    return str(found) if found else None


def is_on_hub(spec: Spec) -> bool:
    """Return whether the job starts from weights of a repository of the Hub."""
    found = base(spec)
    return bool(found) and not str(found).startswith("/") and not start_point.parse(found)


def tokenizer(spec: Spec) -> str | None:
    """The repository whose tokenizer the policy reads; None if it has none of its own."""
    flag, default = TOKENIZERS.get(str(spec.train.get("policy.type")), ("", ""))
    found = spec.train.get(flag) or default
    return str(found) if found else None


def _small(spec: Spec) -> bool:
    return kind(spec) == "smolvla"


def vision_is_frozen(spec: Spec) -> bool:
    return bool(spec.train.get("policy.freeze_vision_encoder", _small(spec)))

"""Sizes of the policies that LeRobot trains, and how a job's flags change them."""

from __future__ import annotations

from dataclasses import dataclass

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
    #: GiB of activations a sample with one camera, in 16 bits: without and with gradient checkpointing.
    sample: tuple[float, float]
    #: Tokens a camera adds, and tokens besides (text, state, actions).
    tokens: tuple[int, int]
    #: GB of weights that `pretrained_path` brings.
    base: float
    #: GB that the policy fetches by itself from the Hub, whatever the file says.
    backbone: float = 0.0
    #: Parameters that stay in 32 bits where the rest is in 16, in billions; all but the norms are the vision encoder's.
    wide: float = 0.0


# Parameters of pi0, pi05 and ACT: counted by building them (LeRobot 0.6.1); of the others: by their papers.
# Activations of pi0: one H100, bfloat16, one 224x224 camera: 34.9 GiB at batch 8, 37.0 GiB at batch 32 with
# gradient checkpointing, less 25.6 GiB static. The others of the family are pi0 by their count of tokens; those of
# smolvla and the small ones are guessed on the high side.
_PI0 = Model(
    params=4.03, trained=3.24, expert=0.32, vision=0.41, sample=(1.17, 0.36), tokens=(256, 99), base=14.0, wide=0.418
)
_MODELS: dict[str, Model] = {
    "pi0": _PI0,
    "pi05": Model(
        params=4.14,
        trained=3.35,
        expert=0.43,
        vision=0.41,
        sample=(1.67, 0.51),
        tokens=(256, 250),
        base=14.0,
        wide=0.534,
    ),
    "pi0_fast": Model(
        params=3.45,
        trained=3.45,
        expert=3.45,
        vision=0.41,
        sample=(2.35, 0.72),
        tokens=(256, 456),
        base=12.0,
        wide=0.418,
    ),
    "smolvla": Model(
        params=0.45,
        trained=0.45,
        expert=0.10,
        vision=0.09,
        sample=(0.15, 0.15),
        tokens=(64, 99),
        base=1.0,
        backbone=2.1,
    ),
    "act": Model(
        params=0.052,
        trained=0.052,
        expert=0.052,
        vision=0.0,
        sample=(0.15, 0.15),
        tokens=(1, 0),
        base=0.25,
    ),
    "diffusion": Model(
        params=0.28,
        trained=0.28,
        expert=0.28,
        vision=0.0,
        sample=(0.15, 0.15),
        tokens=(1, 0),
        base=1.2,
    ),
}


def of(spec: Spec) -> Model:
    """The policy's sizes; one given by path is taken for the largest, pi0."""
    return _MODELS.get(str(spec.train.get("policy.type")), _PI0)


def width(spec: Spec) -> int:
    """Bytes a parameter."""
    return 2 if spec.train.get("policy.dtype") == "bfloat16" else 4


def trained(spec: Spec) -> float:
    """Parameters with gradients and moments, in billions. SmolVLA by default trains only its expert."""
    train, model = spec.train, of(spec)
    if any(name.startswith("peft.") for name in train):
        return round(model.trained / 50, 3)
    if train.get("policy.train_expert_only", _small(spec)):
        return model.expert
    return round(model.trained - (model.vision if _blind(spec) else 0.0), 3)


def checkpoint_bytes(spec: Spec) -> int:
    """One checkpoint: the weights, and Adam's two moments of what is trained, each in its own format.

    23.1 GB were measured for all of pi0 in bfloat16, where 23.8 come out here: its last language layer is held as
    trained and has no moments.
    """
    model, bytes_each, learnt = of(spec), width(spec), trained(spec)
    narrow = bytes_each * (model.params + 2 * learnt)
    all_trained = learnt >= model.trained
    wide = (4 - bytes_each) * model.wide * (3 if all_trained else 1)
    return round(1.01e9 * (narrow + wide))


def base(spec: Spec) -> str | None:
    """The weights that the training starts from: owner/name, or a path on the box; None: from nothing."""
    path = spec.train.get("policy.path")
    found = path or (None if spec.rehearsal else spec.train.get("policy.pretrained_path"))
    return str(found) if found else None


def tokenizer(spec: Spec) -> str | None:
    """The repository whose tokenizer the policy reads; None if it has none of its own."""
    flag, default = TOKENIZERS.get(str(spec.train.get("policy.type")), ("", ""))
    found = spec.train.get(flag) or default
    return str(found) if found else None


def _small(spec: Spec) -> bool:
    return spec.train.get("policy.type") == "smolvla"


def _blind(spec: Spec) -> bool:
    return bool(spec.train.get("policy.freeze_vision_encoder", _small(spec)))

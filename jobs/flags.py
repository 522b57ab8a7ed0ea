"""The flags of `lerobot-train` that a job may set, and why the others may not be set.

One table, read from LeRobot 0.4.4 and 0.6.1 (a test holds it against whichever is installed). A flag that is not in
it is refused: LeRobot's parser can import code, open files and submit paid jobs by flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from pi0q.jobs.kinds import Bool, Float, Int, Kind, Many, Name, Names, Place, Repo, Text, Value, one_of
from pi0q.jobs.rules import nearest

#: Policies a job may train.
POLICIES = ("pi0", "pi05", "pi0_fast", "smolvla", "act", "diffusion")
#: LeRobot releases that the table was read from, by the line they stand for.
VERSIONS = {"0.4": "0.4.4", "0.6": "0.6.1"}

Policies: TypeAlias = frozenset[str]

_NONE: Policies = frozenset()
_ALL: Policies = frozenset(POLICIES)
_PI: Policies = frozenset({"pi0", "pi05", "pi0_fast"})
_FLOW: Policies = frozenset({"pi0", "pi05"})
_VLA: Policies = _PI | {"smolvla"}
_SMOL: Policies = frozenset({"smolvla"})
_FAST: Policies = frozenset({"pi0_fast"})
_ACT: Policies = frozenset({"act"})
_DIFF: Policies = frozenset({"diffusion"})
_RESNET: Policies = _ACT | _DIFF


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag of the trainer."""

    #: As `lerobot-train` spells it, without the dashes.
    name: str
    #: Reads and bounds its value.
    kind: Kind
    #: Policies that know it, by LeRobot line; none where that line doesn't have it.
    known: Mapping[str, Policies]
    #: One sentence for people.
    says: str


def _both(name: str, kind: Kind, says: str, of: Policies = _ALL) -> Flag:
    return Flag(name=name, kind=kind, says=says, known={"0.4": of, "0.6": of})


def _new(name: str, kind: Kind, says: str, of: Policies = _ALL, before: Policies = _NONE) -> Flag:
    """A flag that 0.6 brought, or brought to more policies."""
    return Flag(name=name, kind=kind, says=says, known={"0.4": before, "0.6": of})


_COUNT = Int(low=1)
_RATE = Float(low=0.0, high=10.0)
_UNIT = Float(low=0.0, high=1.0)
_PAIR = Many(of=_UNIT, size=2)
_PIXELS = Many(of=Int(low=1, high=8192), size=2)
_WORDS = Many(of=Text())
_GEMMA = one_of("gemma_2b", "gemma_300m")
_MODES = Names(of=one_of("MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY"))

_TOP = (
    _both("job_name", Name(), "Name of the WandB run; the job's name if left out."),
    _both("steps", Int(low=1, high=100_000_000), "Training steps in all; 100000 if left out."),
    _both("batch_size", Int(low=1, high=65_536), "Samples a step and GPU; 8 if left out."),
    _both(
        "save_freq",
        _COUNT,
        "Steps between checkpoints; 20000 if left out. `checkpoints.every` saves by time.",
    ),
    _both("log_freq", _COUNT, "Steps between two lines of the log; 200 if left out."),
    _both(
        "seed",
        Int(low=0, high=2**32 - 1, nullable=True),
        "Seed of data order and new weights; 1000 if left out.",
    ),
    _both("num_workers", Int(low=0, high=64), "Processes that load data; 4 if left out."),
    _both("tolerance_s", Float(low=0.0, high=10.0), "How far video timestamps may be off, in seconds."),
    _both(
        "use_policy_training_preset",
        Bool(),
        "Optimizer and scheduler as the policy has them (true if left out).",
    ),
    _both("rename_map", Names(), "Renames observations: {name in the dataset: name the policy knows}."),
    _new("cudnn_deterministic", Bool(), "Deterministic cuDNN algorithms: some 10-20 % slower."),
    _new("prefetch_factor", Int(low=1, high=64), "Batches each data process loads ahead."),
    _new("persistent_workers", Bool(), "Keep data processes between epochs."),
    _new(
        "dataloader_multiprocessing_context",
        one_of("spawn", "fork", "forkserver", nullable=True),
        "How data processes start.",
    ),
    _new(
        "eval_steps",
        Int(),
        "Steps between losses on held-out episodes; 0 for none. Needs dataset.eval_split.",
    ),
    _new("max_eval_samples", Int(), "Most held-out samples looked at; 0 for all."),
)
_DATASET = (
    _both(
        "dataset.repo_id",
        Repo(),
        "The dataset, as owner/name (local/name for one that lives in dataset.root).",
    ),
    _both(
        "dataset.root", Place(), "Directory of a dataset already on the box; the box's owner must allow it."
    ),
    _both("dataset.episodes", Many(of=Int(), nullable=True), "Use only these episodes."),
    _both(
        "dataset.revision",
        Text(limit=100),
        "Branch, tag or commit of the dataset; pinned at submit if left out.",
    ),
    _both("dataset.streaming", Bool(), "Read the dataset over the network instead of downloading it."),
    _both("dataset.use_imagenet_stats", Bool(), "Normalise images by ImageNet's statistics."),
    _both("dataset.video_backend", one_of("torchcodec", "pyav", "video_reader"), "What decodes videos."),
    _both("dataset.image_transforms.enable", Bool(), "Vary brightness, contrast, hue … of training images."),
    _both(
        "dataset.image_transforms.max_num_transforms", Int(low=0, high=20), "Most transforms on one image."
    ),
    _both("dataset.image_transforms.random_order", Bool(), "Apply transforms in random order."),
    _new("dataset.return_uint8", Bool(), "Hand video frames over as bytes: less memory."),
    _new("dataset.depth_output_unit", one_of("mm", "m"), "Unit of depth images."),
    _new(
        "dataset.eval_split",
        Float(low=0.0, high=0.99),
        "Share of episodes held out for a loss on unseen data.",
    ),
)
_WANDB = (
    _both("wandb.enable", Bool(), "Report the run to WandB."),
    _both("wandb.project", Text(limit=128), "WandB project."),
    _both("wandb.entity", Text(limit=128), "WandB user or team."),
    _both("wandb.notes", Text(), "A note shown with the run."),
    _both(
        "wandb.mode",
        one_of("online", "offline", "disabled"),
        "`offline` keeps the run on the box, to sync later.",
    ),
    _both("wandb.disable_artifact", Bool(), "Don't upload each checkpoint; pi0q says true if left out."),
    _new("wandb.add_tags", Bool(), "Tag the run with policy, seed and dataset."),
)
_POLICY = (
    _both("policy.type", one_of(*POLICIES), "What to train."),
    _both(
        "policy.path",
        Repo(path=True),
        "A policy to go on from, its type and settings included; instead of `type`.",
    ),
    _both(
        "policy.pretrained_path", Repo(path=True, nullable=True), "Weights to start from, like lerobot/pi0."
    ),
    _new(
        "policy.pretrained_revision",
        Text(limit=100),
        "Branch, tag or commit of those weights; pinned if left out.",
    ),
    _both("policy.device", one_of("cuda", "cpu"), "Where to train. pi0q chooses which GPU."),
    _both("policy.use_amp", Bool(), "Automatic mixed precision."),
    _both("policy.use_peft", Bool(), "The weights to start from are a PEFT adapter."),
    _both(
        "policy.push_to_hub",
        Bool(),
        "Push the trained policy to the Hub at the end; pi0q says false if left out.",
    ),
    _both("policy.repo_id", Repo(nullable=True), "Repository to push to."),
    _both("policy.private", Bool(nullable=True), "Make that repository private."),
    _both("policy.tags", Many(of=Text(limit=100), nullable=True), "Tags of the model card."),
    _both("policy.license", Text(limit=100, nullable=True), "License of the model card."),
    _both("policy.n_obs_steps", Int(low=1, high=100), "Observations a prediction sees."),
    _both("policy.n_action_steps", Int(low=1, high=10_000), "Actions carried out of each predicted chunk."),
    _both("policy.chunk_size", Int(low=1, high=10_000), "Actions predicted at once.", _VLA | _ACT),
    _both(
        "policy.normalization_mapping",
        _MODES,
        "How each kind of feature is normalised: {ACTION: MEAN_STD, …}.",
    ),
    _both("policy.optimizer_lr", _RATE, "Peak learning rate."),
    _both("policy.optimizer_weight_decay", _RATE, "Weight decay."),
    _both("policy.optimizer_betas", _PAIR, "Adam's two betas.", _VLA | _DIFF),
    _both("policy.optimizer_eps", _UNIT, "Adam's epsilon.", _VLA | _DIFF),
    _both(
        "policy.optimizer_grad_clip_norm", Float(high=1e6), "Gradients longer than this are shortened.", _VLA
    ),
    _both("policy.scheduler_warmup_steps", Int(), "Steps in which the learning rate rises.", _VLA | _DIFF),
    _both("policy.scheduler_decay_steps", _COUNT, "Steps in which it falls again.", _VLA),
    _both("policy.scheduler_decay_lr", _RATE, "Where it ends.", _VLA),
    _both("policy.scheduler_name", Text(limit=60), "Scheduler of the diffusers library.", _DIFF),
)
_VLAS = (
    _both(
        "policy.dtype",
        one_of("float32", "bfloat16"),
        "Number format; float32 if left out, twice the memory.",
        _PI,
    ),
    _new(
        "policy.gradient_checkpointing",
        Bool(),
        "Compute activations twice to keep fewer.",
        of=_PI | _DIFF,
        before=_PI,
    ),
    _both(
        "policy.compile_model", Bool(), "torch.compile: faster steps, 10-30 minutes to start.", _VLA | _DIFF
    ),
    _both(
        "policy.compile_mode",
        one_of("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
        "How hard torch.compile tries.",
        _VLA | _DIFF,
    ),
    _both("policy.freeze_vision_encoder", Bool(), "Leave the vision encoder as it is.", _FLOW | _SMOL),
    _both("policy.train_expert_only", Bool(), "Train the action expert, leave the rest.", _FLOW | _SMOL),
    _both("policy.paligemma_variant", _GEMMA, "Size of the language model.", _PI),
    _both("policy.action_expert_variant", _GEMMA, "Size of the action expert.", _PI),
    _both("policy.max_state_dim", Int(low=1, high=1024), "Width that states are padded to.", _VLA),
    _both("policy.max_action_dim", Int(low=1, high=1024), "Width that actions are padded to.", _VLA),
    _both("policy.tokenizer_max_length", Int(low=1, high=4096), "Most tokens of the task's text.", _VLA),
    _both("policy.empty_cameras", Int(low=0, high=8), "Blank cameras to add.", _VLA),
    _both("policy.image_resolution", _PIXELS, "Height and width that images are brought to.", _PI),
    _both(
        "policy.num_inference_steps",
        Int(low=1, high=1000, nullable=True),
        "Denoising steps in use.",
        _FLOW | _DIFF,
    ),
    _both("policy.time_sampling_beta_alpha", Float(high=100), "Shape of the sampled times.", _FLOW),
    _both("policy.time_sampling_beta_beta", Float(high=100), "Shape of the sampled times.", _FLOW),
    _both("policy.time_sampling_scale", _UNIT, "Range of the sampled times.", _FLOW),
    _both("policy.time_sampling_offset", _UNIT, "Start of the sampled times.", _FLOW),
    _both("policy.min_period", Float(high=1e4), "Shortest period of the time embedding.", _FLOW | _SMOL),
    _both("policy.max_period", Float(high=1e4), "Longest period of the time embedding.", _FLOW | _SMOL),
    _new("policy.use_relative_actions", Bool(), "Predict actions relative to the state.", _PI),
    _new("policy.relative_exclude_joints", _WORDS, "Joints whose actions stay absolute.", _PI),
    _both("policy.max_action_tokens", Int(low=1, high=4096), "Most tokens of an action chunk.", _FAST),
    _both("policy.use_kv_cache", Bool(), "Cache keys and values in use.", _FAST),
    _both("policy.resize_imgs_with_padding", _PIXELS, "Height and width that images are padded to.", _SMOL),
    _both("policy.num_steps", Int(low=1, high=1000), "Denoising steps in use.", _SMOL),
    _both("policy.use_cache", Bool(), "Cache keys and values in use.", _SMOL),
    _both("policy.train_state_proj", Bool(), "Train the layer that reads the state.", _SMOL),
    _both("policy.vlm_model_name", Repo(), "The vision-language model underneath.", _SMOL),
    _both("policy.load_vlm_weights", Bool(), "Start from that model's own weights.", _SMOL),
    _both("policy.attention_mode", one_of("cross_attn", "self_attn"), "How the expert attends.", _SMOL),
    _both(
        "policy.num_expert_layers",
        Int(low=-1, high=200),
        "Layers of the expert; -1: as many as the model.",
        _SMOL,
    ),
    _both("policy.num_vlm_layers", Int(low=-1, high=200), "Layers kept of the vision-language model.", _SMOL),
    _both(
        "policy.self_attn_every_n_layers",
        Int(low=-1, high=200),
        "How often the expert attends to itself.",
        _SMOL,
    ),
    _both(
        "policy.expert_width_multiplier",
        Float(high=10),
        "Width of the expert, as a share of the model's.",
        _SMOL,
    ),
    _both("policy.adapt_to_pi_aloha", Bool(), "Aloha: convert joints to the pi convention.", _SMOL),
)
_SMALL = (
    _both("policy.vision_backbone", one_of("resnet18", "resnet34", "resnet50"), "Vision network.", _RESNET),
    _both(
        "policy.pretrained_backbone_weights",
        Text(limit=100, nullable=True),
        "Its weights; null: new.",
        _RESNET,
    ),
    _both(
        "policy.replace_final_stride_with_dilation", Bool(), "ResNet's last stage keeps its resolution.", _ACT
    ),
    _both("policy.pre_norm", Bool(), "Normalise before each block.", _ACT),
    _both("policy.dim_model", Int(low=8, high=65_536), "Width of the transformer.", _ACT),
    _both("policy.n_heads", Int(low=1, high=1024), "Attention heads.", _ACT),
    _both("policy.dim_feedforward", Int(low=1, high=1_000_000), "Width of its feed-forward layers.", _ACT),
    _both("policy.feedforward_activation", one_of("relu", "gelu", "glu"), "Their activation.", _ACT),
    _both("policy.n_encoder_layers", Int(low=1, high=1000), "Encoder layers.", _ACT),
    _both("policy.n_decoder_layers", Int(low=1, high=1000), "Decoder layers.", _ACT),
    _both("policy.use_vae", Bool(), "Train with a variational objective.", _ACT),
    _both("policy.latent_dim", Int(low=1, high=65_536), "Width of its latent.", _ACT),
    _both("policy.n_vae_encoder_layers", Int(low=1, high=1000), "Layers of its encoder.", _ACT),
    _both(
        "policy.temporal_ensemble_coeff",
        Float(high=100, nullable=True),
        "Blend overlapping chunks in use.",
        _ACT,
    ),
    _both("policy.dropout", _UNIT, "Share of activations dropped.", _ACT),
    _both("policy.kl_weight", Float(high=1e6), "Weight of the variational term.", _ACT),
    _both("policy.optimizer_lr_backbone", _RATE, "Learning rate of the vision network.", _ACT),
    _both("policy.horizon", Int(low=1, high=10_000), "Actions predicted at once.", _DIFF),
    _both("policy.drop_n_last_frames", Int(high=10_000), "Frames left out at an episode's end.", _DIFF),
    _both(
        "policy.resize_shape", Many(of=_COUNT, size=2, nullable=True), "Height, width after resizing.", _DIFF
    ),
    _both("policy.crop_ratio", _UNIT, "Share of an image kept by the crop.", _DIFF),
    _both(
        "policy.crop_shape", Many(of=_COUNT, size=2, nullable=True), "Height and width of the crop.", _DIFF
    ),
    _both("policy.crop_is_random", Bool(), "Crop at random places in training.", _DIFF),
    _both("policy.use_group_norm", Bool(), "Group normalisation in the vision network.", _DIFF),
    _both(
        "policy.spatial_softmax_num_keypoints",
        Int(low=1, high=10_000),
        "Keypoints of the vision network.",
        _DIFF,
    ),
    _both("policy.use_separate_rgb_encoder_per_camera", Bool(), "A vision network a camera.", _DIFF),
    _both("policy.down_dims", Many(of=_COUNT), "Widths of the U-Net.", _DIFF),
    _both("policy.kernel_size", Int(low=1, high=99), "Kernel of the U-Net.", _DIFF),
    _both("policy.n_groups", Int(low=1, high=4096), "Groups of its normalisation.", _DIFF),
    _both("policy.diffusion_step_embed_dim", Int(low=1, high=65_536), "Width of the step embedding.", _DIFF),
    _both("policy.use_film_scale_modulation", Bool(), "Scale as well as shift by the condition.", _DIFF),
    _both("policy.noise_scheduler_type", one_of("DDPM", "DDIM"), "Noise scheduler.", _DIFF),
    _both("policy.num_train_timesteps", Int(low=1, high=100_000), "Diffusion steps in training.", _DIFF),
    _both("policy.beta_schedule", Text(limit=60), "Schedule of the noise.", _DIFF),
    _both("policy.beta_start", _UNIT, "First noise.", _DIFF),
    _both("policy.beta_end", _UNIT, "Last noise.", _DIFF),
    _both("policy.prediction_type", one_of("epsilon", "sample"), "What the U-Net predicts.", _DIFF),
    _both("policy.clip_sample", Bool(), "Clip samples in use.", _DIFF),
    _both("policy.clip_sample_range", Float(high=1e6), "To this range.", _DIFF),
    _both("policy.do_mask_loss_for_padding", Bool(), "Leave padded actions out of the loss.", _DIFF),
)
_TRAINING = (
    _both(
        "optimizer.type",
        one_of("adam", "adamw", "sgd"),
        "Your own optimizer (use_policy_training_preset: false).",
    ),
    _both("optimizer.lr", _RATE, "Its learning rate."),
    _both("optimizer.weight_decay", _RATE, "Its weight decay."),
    _both("optimizer.grad_clip_norm", Float(high=1e6), "Gradients longer than this are shortened."),
    _both("optimizer.betas", _PAIR, "Adam's two betas."),
    _both("optimizer.eps", _UNIT, "Adam's epsilon."),
    _both("scheduler.type", one_of("cosine_decay_with_warmup", "diffuser"), "Your own scheduler."),
    _both("scheduler.num_warmup_steps", Int(), "Steps in which the learning rate rises."),
    _both("scheduler.num_decay_steps", _COUNT, "Steps in which it falls."),
    _both("scheduler.peak_lr", _RATE, "Its highest value."),
    _both("scheduler.decay_lr", _RATE, "Its last value."),
    _both("scheduler.name", Text(limit=60), "Scheduler of the diffusers library (type: diffuser)."),
    _both("peft.method_type", Text(limit=40), "Train an adapter instead of all weights: LORA …"),
    _both("peft.r", Int(low=1, high=4096), "Rank of the adapter."),
    _both("peft.target_modules", _WORDS, "Layers that get an adapter."),
    _both("peft.full_training_modules", _WORDS, "Layers trained whole."),
    _both("peft.init_type", Text(limit=60, nullable=True), "How the adapter starts."),
    _new("peft.lora_alpha", Int(low=1, high=65_536, nullable=True), "Scaling of the adapter."),
)

#: Every flag a job may set, by name.
FLAGS: dict[str, Flag] = {
    flag.name: flag for flag in (*_TOP, *_DATASET, *_WANDB, *_POLICY, *_VLAS, *_SMALL, *_TRAINING)
}

#: Flags refused on purpose: pattern and why.
DENIED: dict[str, str] = {
    "output_dir": "is pi0q's to set: each run has its own directory on the box's data disk",
    "resume": "is pi0q's to set: it resumes from the newest checkpoint that verifies",
    "config_path": "is pi0q's to set when it resumes; write the settings themselves here",
    "checkpoint_path": "is pi0q's to set when it resumes",
    "wandb.run_id": "is pi0q's to set: one run for the job's whole life, whatever box it is on",
    "save_checkpoint": "is always true: a job without checkpoints could not be resumed",
    "save_checkpoint_to_hub": "is not taken: `checkpoints.copy_to` copies verified checkpoints elsewhere",
    "*discover_packages_path": "is not taken: it would import any package on the box",
    "job.*": "is not taken: it would submit a paid Hugging Face job, with the box's tokens",
    "env.*": "is not taken: it would run a simulator's code on the box",
    "eval.*": "is not taken: it belongs to a simulator (env.*), which pi0q doesn't run",
    "eval_freq": "is not taken: pi0q runs no simulator and sets it to 0 itself; leave it out",
    "env_eval_freq": "is not taken: pi0q runs no simulator and sets it to 0 itself; leave it out",
    "reward_model.*": "is not taken: pi0q trains policies",
    "policy.action_tokenizer_name": "is not taken: LeRobot runs code from the repository that it names",
    "policy.text_tokenizer_name": "is not taken: LeRobot runs code from the repository that it names",
}


def denial(name: str) -> str | None:
    """Why this flag is refused on purpose; None if it isn't."""
    for pattern, why in DENIED.items():
        section = pattern.removesuffix(".*")
        if fnmatchcase(name, pattern) or (name == section and pattern.endswith(".*")):
            return why
    return None


def unknown(name: str) -> str:
    """The fault of a flag that isn't in the table, to follow its name."""
    why = denial(name)
    if why:
        return why
    near = nearest(name, FLAGS)
    hint = f"; did you mean {near}?" if near else ""
    return f"is not a flag that pi0q passes to lerobot-train{hint}"


def line(version: str) -> str | None:
    """The line of the table that speaks for a LeRobot release: "0.6.1" -> "0.6"; None if none does."""
    short = ".".join(version.split(".")[:2])
    return short if short in VERSIONS else None


def misfit(name: str, policy: str, known: Mapping[str, Policies]) -> str | None:
    """What is wrong with giving this flag to this policy; None if nothing."""
    policies = frozenset[str]().union(*known.values())
    if policy in policies or policy not in POLICIES:
        return None
    return f"is not a setting of {policy}, but of {', '.join(sorted(policies))}; leave it out"


def problems(train: Mapping[str, Value], version: str) -> list[str]:
    """What in this job a LeRobot of that version would refuse; empty if it fits.

    A release between the lines that the table was read from (0.5) is held to what both of them know.
    """
    policy = train.get("policy.type")
    mine = line(version)
    told = []
    for name in train:
        flag = FLAGS.get(name)
        if flag is None:
            told.append(f"{name} {unknown(name)}")
            continue
        lines = [mine] if mine else list(VERSIONS)
        missing = [of for of in lines if not _knows(flag, of, policy)]
        if missing:
            have = [of for of in VERSIONS if _knows(flag, of, policy)]
            cure = f"LeRobot {' and '.join(have)} has it" if have else "leave it out"
            told.append(f"{name} is unknown to LeRobot {version}; {cure}")
    starts = any(train.get(name) for name in ("policy.pretrained_path", "policy.path"))
    if train.get("rename_map") and mine != "0.4" and not starts:
        told.append("rename_map needs weights to start from in LeRobot 0.6: set policy.pretrained_path")
    return told


def _knows(flag: Flag, of: str, policy: Value) -> bool:
    policies = flag.known[of]
    return policy in policies if isinstance(policy, str) else bool(policies)

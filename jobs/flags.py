"""The flags of `lerobot-train` that a job may set, and why the others may not be set.

One table, read from LeRobot 0.4.4 and 0.6.1 (a test holds it against whichever is installed). A flag that is
not in it is refused: LeRobot's parser can import code, open files and submit paid jobs by flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from pi0q.jobs.flag import COUNT, PAIR, POLICIES, RATE, UNIT, VERSIONS, WORDS, Flag, Policies, both, new
from pi0q.jobs.kinds import Bool, Choice, Float, Int, Many, Name, Names, Place, Repo, Text, Value
from pi0q.jobs.policy_flags import POLICY_FLAGS
from pi0q.jobs.rules import nearest

_TOP = (
    both("job_name", Name(), "Name of the WandB run; the job's name if left out."),
    both("steps", Int(low=1, high=100_000_000), "Training steps in all; 100000 if left out."),
    both("batch_size", Int(low=1, high=65_536), "Samples a step and GPU; 8 if left out."),
    both(
        "save_freq",
        COUNT,
        "Steps between checkpoints; 20000 if left out. `checkpoints.every` saves by time.",
    ),
    both("log_freq", COUNT, "Steps between two lines of the log; 200 if left out."),
    both(
        "seed",
        Int(low=0, high=2**32 - 1, nullable=True),
        "Seed of data order and new weights; 1000 if left out.",
    ),
    both("num_workers", Int(low=0, high=64), "Processes that load data; 4 if left out."),
    both("tolerance_s", Float(low=0.0, high=10.0), "How far video timestamps may be off, in seconds."),
    both(
        "use_policy_training_preset",
        Bool(),
        "Optimizer and scheduler as the policy has them (true if left out).",
    ),
    both("rename_map", Names(), "Renames observations: {name in the dataset: name the policy knows}."),
    new("cudnn_deterministic", Bool(), "Deterministic cuDNN algorithms: some 10-20 % slower."),
    new("prefetch_factor", Int(low=1, high=64), "Batches each data process loads ahead."),
    new("persistent_workers", Bool(), "Keep data processes between epochs."),
    new(
        "dataloader_multiprocessing_context",
        Choice("spawn", "fork", "forkserver", nullable=True),
        "How data processes start.",
    ),
    new(
        "eval_steps",
        Int(),
        "Steps between losses on held-out episodes; 0 for none. Needs dataset.eval_split.",
    ),
    new("max_eval_samples", Int(), "Most held-out samples looked at; 0 for all."),
)
_DATASET = (
    both(
        "dataset.repo_id",
        Repo(),
        "The dataset, as owner/name (local/name for one that lives in dataset.root).",
    ),
    both("dataset.root", Place(), "Directory of a dataset already on the box; the box's owner must allow it."),
    both("dataset.episodes", Many(Int(), nullable=True), "Use only these episodes."),
    both(
        "dataset.revision",
        Text(limit=100),
        "Branch, tag or commit of the dataset; pinned at the first claim if left out.",
    ),
    both("dataset.streaming", Bool(), "Read the dataset over the network instead of downloading it."),
    both("dataset.use_imagenet_stats", Bool(), "Normalise images by ImageNet's statistics."),
    both("dataset.video_backend", Choice("torchcodec", "pyav", "video_reader"), "What decodes videos."),
    both("dataset.image_transforms.enable", Bool(), "Vary brightness, contrast, hue … of training images."),
    both("dataset.image_transforms.max_num_transforms", Int(low=0, high=20), "Most transforms on one image."),
    both("dataset.image_transforms.random_order", Bool(), "Apply transforms in random order."),
    new("dataset.return_uint8", Bool(), "Hand video frames over as bytes: less memory."),
    new("dataset.depth_output_unit", Choice("mm", "m"), "Unit of depth images."),
    new(
        "dataset.eval_split",
        Float(low=0.0, high=0.99),
        "Share of episodes held out for a loss on unseen data.",
    ),
)
_WANDB = (
    both("wandb.enable", Bool(), "Report the run to WandB."),
    both("wandb.project", Text(limit=128), "WandB project."),
    both("wandb.entity", Text(limit=128), "WandB user or team."),
    both("wandb.notes", Text(), "A note shown with the run."),
    both(
        "wandb.mode",
        Choice("online", "offline", "disabled"),
        "`offline` keeps the run on the box, to sync later.",
    ),
    both("wandb.disable_artifact", Bool(), "Don't upload each checkpoint; pi0q says true if left out."),
    new("wandb.add_tags", Bool(), "Tag the run with policy, seed and dataset."),
)
_TRAINING = (
    both(
        "optimizer.type",
        Choice("adam", "adamw", "sgd"),
        "Your own optimizer (use_policy_training_preset: false).",
    ),
    both("optimizer.lr", RATE, "Its learning rate."),
    both("optimizer.weight_decay", RATE, "Its weight decay."),
    both("optimizer.grad_clip_norm", Float(high=1e6), "Gradients longer than this are shortened."),
    both("optimizer.betas", PAIR, "Adam's two betas."),
    both("optimizer.eps", UNIT, "Adam's epsilon."),
    both("scheduler.type", Choice("cosine_decay_with_warmup", "diffuser"), "Your own scheduler."),
    both("scheduler.num_warmup_steps", Int(), "Steps in which the learning rate rises."),
    both("scheduler.num_decay_steps", COUNT, "Steps in which it falls."),
    both("scheduler.peak_lr", RATE, "Its highest value."),
    both("scheduler.decay_lr", RATE, "Its last value."),
    both("scheduler.name", Text(limit=60), "Scheduler of the diffusers library (type: diffuser)."),
    both("peft.method_type", Text(limit=40), "Train an adapter (LORA …) instead of all weights."),
    both("peft.r", Int(low=1, high=4096), "Rank of the adapter."),
    both("peft.target_modules", WORDS, "Layers that get an adapter."),
    both("peft.full_training_modules", WORDS, "Layers trained whole."),
    both("peft.init_type", Text(limit=60, nullable=True), "How the adapter starts."),
    new("peft.lora_alpha", Int(low=1, high=65_536, nullable=True), "Scaling of the adapter."),
)

#: Every flag a job may set, by name.
FLAGS: dict[str, Flag] = {flag.name: flag for flag in (*_TOP, *_DATASET, *_WANDB, *POLICY_FLAGS, *_TRAINING)}

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

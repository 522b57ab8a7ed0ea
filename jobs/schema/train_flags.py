"""What pi0q says by hand of the flags outside `policy.*`: bounds, choices, units, one sentence each."""

from __future__ import annotations

from pi0q.jobs.schema.compound_types import Either
from pi0q.jobs.schema.flag_types import COUNT, PAIR, RATE, UNIT, WORDS, Note, WandbProject
from pi0q.jobs.schema.value_types import (
    Bool,
    Choice,
    DatasetName,
    Float,
    HubFile,
    Int,
    ListOf,
    MapOf,
    Name,
    PathType,
    Text,
)

#: peft reads a text as a regular expression of module names, or `all-linear`.
TARGETS = Either(ListOf(Text()), Text(limit=4000, nullable=True))
PROGRESS = HubFile(nullable=True)

_TOP = (
    Note("job_name", Name(), "Name of the WandB run; the job's name if left out."),
    Note("steps", Int(low=1, high=100_000_000), "Training steps in all; 100000 if left out."),
    Note("batch_size", Int(low=1, high=65_536), "Samples a step and GPU; 8 if left out."),
    Note("save_freq", COUNT, "Steps between checkpoints; 20000 if left out. `checkpoints.every` saves by time."),
    Note("log_freq", COUNT, "Steps between two lines of the log; 200 if left out."),
    Note("seed", Int(low=0, high=2**32 - 1, nullable=True), "Seed of data order and new weights; 1000 if left out."),
    Note("num_workers", Int(low=0, high=64), "Processes that load data; 4 if left out."),
    Note("tolerance_s", Float(low=0.0, high=10.0), "How far video timestamps may be off, in seconds."),
    Note("use_policy_training_preset", Bool(), "Optimizer and scheduler as the policy has them (true if left out)."),
    Note("rename_map", MapOf(), "Renames observations: {name in the dataset: name the policy knows}."),
    Note("cudnn_deterministic", Bool(), "Deterministic cuDNN algorithms: some 10-20 % slower."),
    Note("prefetch_factor", Int(low=1, high=64), "Batches each data process loads ahead."),
    Note("persistent_workers", Bool(), "Keep data processes between epochs."),
    Note(
        "dataloader_multiprocessing_context",
        Choice("spawn", "fork", "forkserver", nullable=True),
        "How data processes start.",
    ),
    Note("eval_steps", Int(), "Steps between losses on held-out episodes; 0 for none. Needs dataset.eval_split."),
    Note("max_eval_samples", Int(), "Most held-out samples looked at; 0 for all."),
)
_DATASET = (
    Note(
        "dataset.repo_id", DatasetName(), "The dataset, as owner/name (local/name for one that lives in dataset.root)."
    ),
    Note("dataset.root", PathType(), "Directory of a dataset already on the box; the box's owner must allow it."),
    Note("dataset.episodes", ListOf(Int(), nullable=True), "Use only these episodes."),
    Note(
        "dataset.revision",
        Text(limit=100),
        "Branch, tag or commit of the dataset; pinned at the first claim if left out.",
    ),
    Note("dataset.streaming", Bool(), "Read the dataset over the network instead of downloading it."),
    Note("dataset.use_imagenet_stats", Bool(), "Normalise images by ImageNet's statistics."),
    Note("dataset.video_backend", Choice("torchcodec", "pyav", "video_reader"), "What decodes videos."),
    Note("dataset.image_transforms.enable", Bool(), "Vary brightness, contrast, hue … of training images."),
    Note("dataset.image_transforms.max_num_transforms", Int(low=0, high=20), "Most transforms on one image."),
    Note(
        "dataset.image_transforms.tfs",
        None,
        "The transforms, {name: {weight, type, kwargs}}; one without its type changes LeRobot's own of that name.",
    ),
    Note("dataset.image_transforms.random_order", Bool(), "Apply transforms in random order."),
    Note("dataset.return_uint8", Bool(), "Hand video frames over as bytes: less memory."),
    Note("dataset.depth_output_unit", Choice("mm", "m"), "Unit of depth images."),
    Note("dataset.eval_split", Float(low=0.0, high=0.99), "Share of episodes held out for a loss on unseen data."),
)
_WANDB = (
    Note("wandb.enable", Bool(), "Report the run to WandB."),
    Note("wandb.project", WandbProject(), "WandB project."),
    Note("wandb.entity", Text(limit=128), "WandB user or team."),
    Note("wandb.notes", Text(), "A note shown with the run."),
    Note("wandb.mode", Choice("online", "offline", "disabled"), "`offline` keeps the run on the box, to sync later."),
    Note("wandb.disable_artifact", Bool(), "Don't upload each checkpoint; pi0q says true if left out."),
    Note("wandb.add_tags", Bool(), "Tag the run with policy, seed and dataset."),
)
_TRAINING = (
    Note("optimizer.type", None, "Your own optimizer (use_policy_training_preset: false)."),
    Note("optimizer.lr", RATE, "Its learning rate."),
    Note("optimizer.weight_decay", RATE, "Its weight decay."),
    Note("optimizer.grad_clip_norm", Float(high=1e6), "Gradients longer than this are shortened."),
    Note("optimizer.betas", PAIR, "Adam's two betas."),
    Note("optimizer.eps", UNIT, "Adam's epsilon."),
    Note("scheduler.type", None, "Your own scheduler."),
    Note("scheduler.num_warmup_steps", Int(), "Steps in which the learning rate rises."),
    Note("scheduler.num_decay_steps", COUNT, "Steps in which it falls."),
    Note("scheduler.peak_lr", RATE, "Its highest value."),
    Note("scheduler.decay_lr", RATE, "Its last value."),
    Note("scheduler.name", Text(limit=60), "Scheduler of the diffusers library (type: diffuser)."),
    Note("peft.method_type", Text(limit=40), "Train an adapter (LORA …) instead of all weights."),
    Note("peft.r", Int(low=1, high=4096), "Rank of the adapter."),
    Note("peft.target_modules", TARGETS, "Layers that get an adapter: a list of names, or one regular expression."),
    Note("peft.full_training_modules", WORDS, "Layers trained whole."),
    Note("peft.init_type", Text(limit=60, nullable=True), "How the adapter starts."),
    Note("peft.lora_alpha", Int(low=1, high=65_536, nullable=True), "Scaling of the adapter."),
    Note(
        "sample_weighting.type",
        Choice("rabc", "uniform"),
        "Weigh samples by the progress that a reward model saw (RA-BC).",
    ),
    Note(
        "sample_weighting.progress_path",
        PROGRESS,
        "The progress file, hf://datasets/owner/name/file.parquet; the dataset's sarm_progress.parquet if left out.",
    ),
    Note("sample_weighting.kappa", None, "Progress from which a sample counts in full; 0.01 if left out."),
    Note("rabc_progress_path", PROGRESS, "The same in LeRobot 0.4 and 0.5."),
    Note("use_rabc", None, "Weigh samples by the progress that a reward model saw (RA-BC), in LeRobot 0.4 and 0.5."),
)

#: Top level, dataset, tracker, then optimizer, adapter and the like.
TRAIN_NOTES = (*_TOP, *_DATASET, *_WANDB, *_TRAINING)

"""What a job may not set, and why: flags that reach code, packages, paths or paid jobs, and what pi0q sets itself."""

from __future__ import annotations

#: Also the end of a longer name.
_ANY_PACKAGE = "*discover_packages_path"
_RUNS_CODE = "is not taken: LeRobot runs code from the repository that it names"

#: Flags refused on purpose, and why: by name, by section ("job.*", also "job" itself) or by last part ("*.model_name").
DENIED: dict[str, str] = {
    "output_dir": "is pi0q's to set: each run has its own directory on the box's data disk",
    "policy.output_dir": "is pi0q's to set: each run has its own directory on the box's data disk",
    "resume": "is pi0q's to set: it resumes from the newest checkpoint that verifies",
    "policy.resume": "is pi0q's to set: it resumes from the newest checkpoint that verifies",
    "config_path": "is pi0q's to set when it resumes; write the settings themselves here",
    "checkpoint_path": "is pi0q's to set when it resumes",
    "wandb.run_id": "is pi0q's to set: one run for the job's whole life, whatever box it is on",
    "swanlab.*": "is not taken: write `tracking: swanlab` beside `train`, and `swanlab: {project: …}` there",
    "save_checkpoint": "is always true: a job without checkpoints could not be resumed",
    "save_checkpoint_to_hub": "is not taken: `checkpoints.copy_to` copies verified checkpoints elsewhere",
    _ANY_PACKAGE: "is not taken: it would import any package on the box",
    "job.*": "is not taken: it would submit a paid Hugging Face job, with the box's tokens",
    "env.*": "is not taken: it would run a simulator's code on the box",
    "eval.*": "is not taken: it belongs to a simulator (env.*), which pi0q doesn't run",
    "eval_freq": "is not taken: pi0q runs no simulator and sets it to 0 itself; leave it out",
    "env_eval_freq": "is not taken: pi0q runs no simulator and sets it to 0 itself; leave it out",
    "reward_model.path": "is not taken: write reward_model.type, and its weights as reward_model.pretrained_path",
    "*.action_tokenizer_name": _RUNS_CODE,
    "*.action_tokenizer_path": _RUNS_CODE,
    "*.text_tokenizer_name": _RUNS_CODE,
    "*.tokenizer_assets_repo": _RUNS_CODE,
    "*.model_name": _RUNS_CODE,
}

_BY_REINFORCEMENT = "lerobot-train doesn't train: reinforcement learning does, with a robot or a simulator at hand"
_INFERENCE = "lerobot-train doesn't train: it is used as it comes"
#: What LeRobot registers beside what `lerobot-train` trains, and why a job can't be of it.
NOT_TRAINED: dict[str, str] = {
    "gaussian_actor": _BY_REINFORCEMENT,
    "sac": _BY_REINFORCEMENT,
    "robometer": _INFERENCE,
    "topreward": _INFERENCE,
}


def denial(name: str) -> str | None:
    """Return why this flag is refused on purpose; None if it isn't."""
    if name.endswith(_ANY_PACKAGE[1:]):
        return DENIED[_ANY_PACKAGE]
    patterns = (name, f"{name.partition('.')[0]}.*", f"*.{name.rpartition('.')[2]}")
    return next((DENIED[pattern] for pattern in patterns if pattern in DENIED), None)

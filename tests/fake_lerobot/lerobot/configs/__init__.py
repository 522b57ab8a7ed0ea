"""FAKE: `--a.b=value` flags over a saved train_config.json, as attributes; an unknown flag is exit code 2."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

DEFAULTS: dict[str, Any] = {
    "dataset": {
        "repo_id": None,
        "root": None,
        "revision": None,
        "streaming": False,
        "video_backend": "pyav",
        "eval_split": 0.0,
    },
    "env": None,
    "policy": {
        "type": None,
        "device": "cpu",
        "dtype": "float32",
        "push_to_hub": True,
        "repo_id": None,
        "private": None,
        "pretrained_path": None,
        "compile_model": False,
    },
    "output_dir": None,
    "job_name": None,
    "resume": False,
    "seed": 1000,
    "num_workers": 4,
    "batch_size": 8,
    "steps": 100_000,
    "env_eval_freq": 20_000,
    "log_freq": 200,
    "eval_steps": 0,
    "max_eval_samples": 0,
    "save_checkpoint": True,
    "save_freq": 20_000,
    "use_policy_training_preset": True,
    "optimizer": {},
    "scheduler": {},
    "tolerance_s": 0.0001,
    "prefetch_factor": 4,
    "persistent_workers": True,
    "wandb": {
        "enable": False,
        "disable_artifact": False,
        "project": "lerobot",
        "entity": None,
        "notes": None,
        "run_id": None,
        "mode": None,
        "add_tags": True,
    },
    "peft": None,
    "rename_map": {},
}
#: sections of which LeRobot knows many more names than the fake has a use for
OPEN = {"dataset", "policy", "optimizer", "scheduler"}


class Config(SimpleNamespace):
    """What `TrainPipelineConfig` is to the train script."""

    job_name: str | None
    output_dir: Any

    def to_dict(self) -> dict[str, Any]:
        def plain(value: Any) -> Any:
            if isinstance(value, SimpleNamespace):
                return {key: plain(inner) for key, inner in vars(value).items()}
            return str(value) if isinstance(value, Path) else value

        return dict(plain(self))

    def save_pretrained(self, directory: Path) -> None:
        (directory / "train_config.json").write_text(json.dumps(self.to_dict(), indent=4))

    def validate(self) -> None:
        if self.resume:
            if not self.config_path:
                raise ValueError("A config_path is expected when resuming a run.")
            self.checkpoint_path = Path(self.config_path).parent.parent
            self.policy.pretrained_path = str(self.checkpoint_path / "pretrained_model")
        if self.policy.type is None:
            raise ValueError("Neither policy nor reward_model is configured.")
        self.job_name = self.job_name or self.policy.type
        self.output_dir = Path(self.output_dir or f"outputs/train/{self.job_name}")
        if not self.resume and self.output_dir.is_dir():
            raise FileExistsError(
                f"Output directory {self.output_dir} already exists and resume is {self.resume}. "
                f"Please change your output directory so that {self.output_dir} is not overwritten."
            )
        if self.policy.push_to_hub and not self.policy.repo_id:
            raise ValueError("'repo_id' argument missing. Please specify it to push the model to the hub.")


def refuse(why: str) -> NoReturn:
    print(f"usage: lerobot-train [-h] ...\nlerobot-train: error: {why}", file=sys.stderr)
    raise SystemExit(2)


def value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def flags(argv: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    waiting = list(argv)
    while waiting:
        flag = waiting.pop(0)
        if not flag.startswith("--"):
            refuse(f"unrecognized arguments: {flag}")
        name, equals, text = flag[2:].partition("=")
        if not equals:
            text = waiting.pop(0) if waiting and not waiting[0].startswith("--") else "true"
        found[name] = value_of(text)
    return found


def put(config: dict[str, Any], name: str, value: Any) -> None:
    first, _, rest = name.partition(".")
    if first not in config or (rest and first not in OPEN and rest not in (config[first] or {})):
        refuse(f"unrecognized arguments: --{name}={value}")
    if rest:
        config[first] = {**(config[first] or {}), rest: value}
    else:
        config[first] = value


def parse(argv: list[str]) -> Config:
    given = flags(argv)
    config_path = given.pop("config_path", None)
    config: dict[str, Any] = json.loads(json.dumps(DEFAULTS))
    if config_path:
        config.update(json.loads(Path(config_path).read_text()))
        config.pop("checkpoint_path", None)
    if path := given.pop("policy.path", None):
        config["policy"] |= {"type": "pi0", "pretrained_path": path}
    for name, value in given.items():
        put(config, name, value)
    config.pop("config_path", None)
    sections = {k: SimpleNamespace(**v) if isinstance(v, dict) else v for k, v in config.items()}
    return Config(**sections, config_path=config_path, checkpoint_path=None)

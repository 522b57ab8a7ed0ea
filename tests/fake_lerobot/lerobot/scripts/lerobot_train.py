"""FAKE train script: the globals, order of calls, files, console lines and exit codes of LeRobot 0.6.1's.

The loss falls smoothly and has a random part drawn from the saved random state. As in the real one that is
restored too early: a resume repeats the unkilled run's losses only if it is put back before the first step.

Environment:
    FAKE_STEP_SECONDS  a step's length (0)
    FAKE_SLOWLY        file with a step; while it is there, each from that one on takes half a second more
    FAKE_SAVE_SECONDS  a save's length (0)
    FAKE_MODEL_BYTES   size of model.safetensors' data (4096); the optimizer's is twice that
    FAKE_EVAL_SECONDS  an evaluation's length (0); FAKE_EVAL_LOSSES: its losses, {"10": 0.5, ...}
    FAKE_PUSH_SECONDS  the final push's length (0)
    FAKE_WANDB         "hang", "refused" or "deleted" (ids without a dot): what comes of an online run; "…@PATH": only
                       once PATH exists
    FAKE_FAULT, FAKE_FAULT_ONCE  see `lerobot.faults`
    FAKE_RECORD        file that gets a JSON line of each step, save and end: pid, step, CLOCK_MONOTONIC at both ends
    FAKE_LAYOUT        "0.4": no should_save_checkpoint; "other": update_policy is called one_step
"""

import contextlib
import importlib
import json
import logging
import os
import random
import sys
import time
from pathlib import Path
from pprint import pformat
from types import SimpleNamespace
from typing import Any

from .. import configs, faults, processor
from ..utils import safetensors
from ..utils.random_utils import load_rng_state, save_rng_state

LAYOUT = os.environ.get("FAKE_LAYOUT", "0.6")
#: Of several ranks, as accelerate has them: the first saves and logs; here nothing is computed together.
RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


if os.environ.get("FAKE_VRAM_MIB"):
    # The hook asks torch only where the trainer has it.
    importlib.import_module("torch")


def setting(name: str, default: float = 0) -> float:
    return float(os.environ.get(name) or default)


def record(event: str, step: int, began: float) -> None:
    """What a witness of several boxes needs: which process trained when."""
    if path := os.environ.get("FAKE_RECORD"):
        line = {"e": event, "pid": os.getpid(), "step": step, "t0": began, "t": time.monotonic()}
        line |= {"job": os.environ.get("PI0Q_JOB"), "epoch": int(os.environ.get("PI0Q_EPOCH", 0))}
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, json.dumps(line).encode() + b"\n")
        os.close(handle)


class Meter:
    def __init__(self, name: str, fmt: str) -> None:
        self.name, self.fmt, self.val = name, fmt, 0.0

    def __str__(self) -> str:
        return f"{self.name}:{self.val:{self.fmt}}"


class MetricsTracker:
    """Assigning to a metric updates its meter; reading gives the meter."""

    loss: Any
    grad_norm: Any
    lr: Any
    update_s: Any
    dataloading_s: Any

    def __init__(self, batch_size: int, initial_step: int) -> None:
        formats = {"loss": ".3f", "grad_norm": ".3f", "lr": "0.1e", "update_s": ".3f", "dataloading_s": ".3f"}
        short = {"grad_norm": "grdn", "update_s": "updt_s", "dataloading_s": "data_s"}
        self.__dict__["metrics"] = {name: Meter(short.get(name, name), fmt) for name, fmt in formats.items()}
        self.__dict__.update(steps=initial_step, batch_size=batch_size)

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["metrics"][name]

    def __setattr__(self, name: str, value: float) -> None:
        self.metrics[name].val = value

    def step(self) -> None:
        self.__dict__["steps"] += 1

    def to_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, **{name: meter.val for name, meter in self.metrics.items()}}

    def __str__(self) -> str:
        samples = self.steps * self.batch_size
        place = f"step:{short_number(self.steps)} smpl:{short_number(samples)} ep:0 epch:{samples / 200:.2f}"
        return " ".join([place, *map(str, self.metrics.values()), "smp/s:9"])


def short_number(n: float) -> str:
    for unit in ("", "K", "M"):
        if n < 1000:
            return f"{n:.0f}{unit}"
        n /= 1000
    return f"{n:.0f}B"


class FakePolicy:
    def __init__(self, cfg: Any, weights: bytes) -> None:
        self.config, self.weights = cfg, weights

    def parameters(self) -> list[Any]:
        return [SimpleNamespace(numel=lambda: len(self.weights), requires_grad=True)]

    def save_pretrained(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(vars(self.config), indent=4))
        safetensors.write(directory / "model.safetensors", {"model.weight": self.weights})

    def push_model_to_hub(self, cfg: Any) -> None:
        time.sleep(setting("FAKE_PUSH_SECONDS"))
        logging.info(f"Model pushed to https://huggingface.co/{cfg.policy.repo_id}")


class WandBLogger:
    """As the real one: an id of its own unless given, a run directory, a URL only when online."""

    def __init__(self, cfg: Any) -> None:
        offline = cfg.wandb.mode not in (None, "online")
        faults.wandb_init(cfg.wandb.run_id, offline=offline)
        cfg.wandb.run_id = cfg.wandb.run_id or f"{random.getrandbits(40):08x}"[:8]
        prefix = "offline-run" if offline else "run"
        place = cfg.output_dir / "wandb" / f"{prefix}-20261122_120000-{cfg.wandb.run_id}"
        (place / "files").mkdir(parents=True, exist_ok=True)
        (place / f"run-{cfg.wandb.run_id}.wandb").touch()
        url = None if offline else f"https://wandb.ai/fake/{cfg.wandb.project}/runs/{cfg.wandb.run_id}"
        run = SimpleNamespace(id=cfg.wandb.run_id, url=url, dir=str(place / "files"), offline=offline)
        self._wandb, self.disable_artifact = SimpleNamespace(run=run), cfg.wandb.disable_artifact
        logging.info("Logs will be synced with wandb.")
        logging.info(f"Track this run --> {url}")

    def log_dict(self, _metrics: dict[str, float], _step: int) -> None: ...

    def log_policy(self, _checkpoint_dir: Path) -> None: ...


def make_policy(cfg: Any, **_: Any) -> FakePolicy:
    size = int(setting("FAKE_MODEL_BYTES", 4096))
    if cfg.pretrained_path and (model := Path(cfg.pretrained_path) / "model.safetensors").exists():
        return FakePolicy(cfg, safetensors.read(model)["model.weight"])
    return FakePolicy(cfg, bytes(size))


def compile_model() -> None:
    """As torch.compile: a kernel is made once and found the next time, where there is a directory for it."""
    place = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if not place:
        return
    kernel = Path(place) / "ab" / "kernel.py"
    logging.info("FAKE kernel found" if kernel.is_file() else "FAKE kernel compiled")
    kernel.parent.mkdir(parents=True, exist_ok=True)
    kernel.write_text("fake")


def make_optimizer_and_scheduler(_cfg: Any, policy: FakePolicy) -> tuple[Any, Any]:
    return SimpleNamespace(state=policy.weights * 2), SimpleNamespace(last_epoch=0)


def load_training_state(checkpoint: Path, optimizer: Any, scheduler: Any) -> tuple[int, Any, Any]:
    state = checkpoint / "training_state"
    if not state.is_dir():
        raise NotADirectoryError(state)
    load_rng_state(state)
    optimizer.state = safetensors.read(state / "optimizer_state.safetensors")["state"]
    return int(json.loads((state / "training_step.json").read_text())["step"]), optimizer, scheduler


def slowly(step: int) -> float:
    """Seconds."""
    with contextlib.suppress(OSError):
        since = Path(os.environ.get("FAKE_SLOWLY", "")).read_text()
        # Just as it is written it is empty.
        return 0.5 if since and step >= int(since) else 0.0
    return 0.0


def update_policy(
    tracker: MetricsTracker, policy: FakePolicy, *_: Any, **__: Any
) -> tuple[MetricsTracker, dict[str, Any]]:
    start, step = time.perf_counter(), tracker.steps + 1
    began = time.monotonic()
    record("stepping", step, began)
    faults.before_step(step)
    if seconds := setting("FAKE_STEP_SECONDS") + slowly(step):
        time.sleep(seconds)
    tracker.loss = faults.loss_at(step, 1 / (1 + step / 100) + random.random() / 100)
    tracker.grad_norm, tracker.lr = 10 / (1 + step / 100), 2.5e-5
    policy.weights = step.to_bytes(8, "little") + policy.weights[8:]
    tracker.update_s = time.perf_counter() - start
    record("step", step, began)
    return tracker, {}


def held_out_loss(step: int) -> float:
    """FAKE_EVAL_LOSSES: the losses of the evaluations as a JSON object, by step; else one that falls, with noise."""
    time.sleep(setting("FAKE_EVAL_SECONDS"))
    told = json.loads(os.environ.get("FAKE_EVAL_LOSSES") or "{}")
    return float(told.get(str(step), 1 / (1 + step / 100) + random.random() / 1000))


def get_step_checkpoint_dir(output_dir: Path, total_steps: int, step: int) -> Path:
    return output_dir / "checkpoints" / f"{step:0{max(6, len(str(total_steps)))}d}"


def should_save_checkpoint(step: int, save_freq: int, total_steps: int) -> bool:
    return (save_freq > 0 and step % save_freq == 0) or step == total_steps


def save_checkpoint(
    checkpoint_dir: Path,
    step: int,
    cfg: Any,
    policy: FakePolicy,
    optimizer: Any,
    scheduler: Any,
    **numbers: int,
) -> None:
    began = time.monotonic()
    record("saving", step, began)
    model, state = checkpoint_dir / "pretrained_model", checkpoint_dir / "training_state"
    policy.save_pretrained(model)
    cfg.save_pretrained(model)
    for name in ("policy_preprocessor", "policy_postprocessor"):
        (model / f"{name}.json").write_text(json.dumps({"name": name, "steps": []}))
    faults.inside_save(step)
    time.sleep(setting("FAKE_SAVE_SECONDS"))
    state.mkdir(parents=True, exist_ok=True)
    (state / "training_step.json").write_text(json.dumps({"step": step, **numbers}))
    save_rng_state(state)
    safetensors.write(state / "optimizer_state.safetensors", {"state": optimizer.state})
    (state / "optimizer_param_groups.json").write_text(json.dumps([{"lr": 2.5e-5, "params": [0]}]))
    (state / "scheduler_state.json").write_text(json.dumps(vars(scheduler)))
    record("saved", step, began)


def update_last_checkpoint(checkpoint_dir: Path) -> None:
    last = checkpoint_dir.parent / "last"
    if last.is_symlink():
        last.unlink()
    last.symlink_to(checkpoint_dir.name)


def init_logging() -> None:
    def where(record: logging.LogRecord) -> bool:
        record.where = f"{record.pathname}:{record.lineno}"[-15:]
        return True

    handler = logging.StreamHandler()
    handler.addFilter(where)
    logging.basicConfig(
        handlers=[handler],
        force=True,
        level=logging.INFO,
        format="%(levelname)s %(asctime)s %(where)15s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )


def show_bar(done: int, total: int) -> None:
    percent = 100 * done // max(total, 1)
    sys.stderr.write(f"\rTraining: {percent:3d}%|          | {done}/{total} [00:00<00:00,  9.99step/s]")
    sys.stderr.flush()


def train() -> None:
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise ValueError("configure accelerate by lerobot-train's own flags")
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # as accelerate does
    cfg = configs.parse(sys.argv[1:])
    faults.come_late(cfg.output_dir)
    cfg.validate()
    init_logging()
    if RANK:
        logging.getLogger().setLevel(logging.WARNING)
        print(f"FAKE rank {RANK} of {RANKS}", flush=True)
    logging.info(pformat(cfg.to_dict()))
    random.seed(cfg.seed + RANK)
    wandb_logger = WandBLogger(cfg) if cfg.wandb.enable and not RANK else None
    for line in ("Creating dataset", "Creating policy", "Creating optimizer and scheduler"):
        logging.info(line)
    policy = make_policy(cfg=cfg.policy, ds_meta=None, rename_map=cfg.rename_map)
    if cfg.policy.pretrained_path:
        processor.make_steps(Path(cfg.policy.pretrained_path))
    # A config that was written by hand need not have it.
    if getattr(cfg.policy, "compile_model", False):
        compile_model()
    optimizer, scheduler = make_optimizer_and_scheduler(cfg, policy)
    step = 0
    if cfg.resume:
        step, optimizer, scheduler = load_training_state(cfg.checkpoint_path, optimizer, scheduler)
        logging.info(f"Resuming data order at epoch 0, sample {step * cfg.batch_size}")
    random.random()  # what the real one draws between restoring the random state and the first step
    logging.info(f"Output dir: {cfg.output_dir}")
    logging.info(f"{cfg.steps=} ({short_number(cfg.steps)})")
    loop(cfg, step, policy, optimizer, scheduler, wandb_logger)
    logging.info("End of training")
    record("done", cfg.steps, time.monotonic())
    if cfg.policy.push_to_hub:
        policy.push_model_to_hub(cfg)


def loop(cfg: Any, step: int, policy: FakePolicy, optimizer: Any, scheduler: Any, wandb_logger: Any) -> None:
    first, one_step = step, globals()["one_step" if LAYOUT == "other" else "update_policy"]
    tracker = MetricsTracker(cfg.batch_size, initial_step=step)
    accelerator = SimpleNamespace(scaler=None, wait_for_everyone=lambda: None) if RANKS > 1 else None
    show_bar(0, cfg.steps - first)
    logging.info(f"Start offline training on a fixed dataset, with effective batch size: {cfg.batch_size}")
    for _ in range(step, cfg.steps):
        tracker.dataloading_s = 0.0
        tracker, _ = one_step(tracker, policy, {}, optimizer, 1.0, accelerator=accelerator)
        step += 1
        show_bar(step - first, cfg.steps - first)
        tracker.step()
        if LAYOUT == "0.4":
            is_saving_step = step % cfg.save_freq == 0 or step == cfg.steps
        else:
            is_saving_step = should_save_checkpoint(step, cfg.save_freq, cfg.steps)
        if cfg.log_freq > 0 and step % cfg.log_freq == 0:
            logging.info(tracker)
            if wandb_logger:
                wandb_logger.log_dict({"loss": tracker.loss.val}, step)
        if cfg.eval_steps > 0 and cfg.dataset.eval_split and step % cfg.eval_steps == 0:
            eval_loss = held_out_loss(step)
            logging.info(f"step {step}: eval_loss={eval_loss:.4f}")
        if cfg.save_checkpoint and is_saving_step and not RANK:
            logging.info(f"Checkpoint policy after step {step}")
            checkpoint_dir = get_step_checkpoint_dir(cfg.output_dir, cfg.steps, step)
            save_checkpoint(
                checkpoint_dir=checkpoint_dir,
                step=step,
                cfg=cfg,
                policy=policy,
                optimizer=optimizer,
                scheduler=scheduler,
                num_processes=RANKS,
                batch_size=cfg.batch_size,
            )
            update_last_checkpoint(checkpoint_dir)
            if wandb_logger:
                wandb_logger.log_policy(checkpoint_dir)
        if cfg.save_checkpoint and is_saving_step and accelerator:
            accelerator.wait_for_everyone()
    sys.stderr.write("\n")


def main() -> None:
    train()


if LAYOUT == "0.4":
    del should_save_checkpoint
if LAYOUT == "other":
    one_step = update_policy
    del update_policy


if __name__ == "__main__":
    main()

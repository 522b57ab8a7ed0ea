"""LeRobot's `lerobot-train`, with ears and a voice: `PYTHON trainer.py --dataset.repo_id=… (its flags)`.

Run by the trainer's interpreter (Python >= 3.10 with LeRobot 0.4.4 to 0.6.1), so it imports the standard
library only, nothing of pi0q. The training is LeRobot's: globals of its train script are replaced by the
methods of `Hook` that bear their names. A LeRobot laid out otherwise runs as it is (`hooked` is false).

Environment:
    PI0Q_EVENTS        file or FIFO that gets one JSON object a line; unset: no events
    PI0Q_PARENT        pid of the runner; the trainer dies with it
    PI0Q_LEASE         file of two little-endian 64-bit numbers, nanoseconds of CLOCK_BOOTTIME, that a living runner
                       moves on: past the first it is as after SIGTERM, past the second the process ends at once
    PI0Q_SAVE_EVERY_S  save also when this many seconds passed since the last save
    PI0Q_REHEARSAL     1: pi0 and pi05 shrunk to 17 M parameters, no base weights
    PI0Q_FAST_INIT     1: weights that stay random are made on the GPU too, as those that are loaded always are
Signals:
    SIGUSR1  save at the end of this step and go on
    SIGTERM  save at the end of this step, then exit 75; at once before the first step or after the last save
    SIGUSR2  print where each thread is
Exit code: 75 interrupted; 76 loss not finite, nothing saved; 77 past the lease; 1 an exception; else LeRobot's.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import importlib.metadata
import json
import logging
import math
import mmap
import os
import platform
import signal
import struct
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

TRAIN = "lerobot.scripts.lerobot_train"
INTERRUPTED, NONFINITE, LEASE_OVER = 75, 76, 77
#: PIPE_BUF is 4096: up to there one write to a FIFO is whole or not at all
LINE_BYTES = 4095
#: how long a full FIFO may hold up an event that matters; a `step` is dropped at once, seconds
PATIENCE_S = 2.0
#: how long WandB may take to finish its run before an early exit, seconds
WANDB_S = 20.0
#: the longest time between two looks at the lease, seconds
LOOK_S = 1.0
#: our name of a number -> LeRobot's meter
METERS = {k: k for k in ("loss", "lr", "grad_norm", "update_s")} | {"data_s": "dataloading_s"}
#: what LeRobot's pi0 prints before it goes on with random weights as if nothing had happened
UNLOADED = "Returning model without loading pretrained weights"


class Events:
    """The voice: whole lines or none, and never an exception or a long wait for the training."""

    def __init__(self, path: str | None) -> None:
        self.path, self.fd = path, -1

    def send(self, event: str, **fields: object) -> None:
        line = encode({"event": event, "t": time.time(), **fields})
        patience = time.monotonic() + (0 if event == "step" else PATIENCE_S)
        while self.path and not self._write(self.path, line) and time.monotonic() < patience:
            time.sleep(0.02)

    def _write(self, path: str, line: bytes) -> bool:
        """True when there is nothing left to try: it is written, or nobody listens."""
        try:
            if self.fd < 0:
                self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
            os.write(self.fd, line)
        except BlockingIOError:
            return False
        except OSError:
            if self.fd >= 0:
                os.close(self.fd)
            self.fd = -1
        return True


def encode(event: dict[str, object]) -> bytes:
    """One line of JSON, at most LINE_BYTES: the longest text is cut to fit; NaN and inf become null."""
    event = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in event.items()}
    while len(line := json.dumps(event, ensure_ascii=False).encode(errors="replace") + b"\n") > LINE_BYTES:
        longest = max(event, key=lambda key: len(str(event[key])))
        event[longest] = str(event[longest])[: len(str(event[longest])) * 3 // 4]
    return line


class Lease:
    """How long this process may go on, as its runner last wrote it down."""

    def __init__(self, path: str | None) -> None:
        self.file, self.fenced = None, False
        if path:
            with open(path, "rb") as file:  # noqa: PTH123 (a mapping wants a handle)
                self.file = mmap.mmap(file.fileno(), 16, prot=mmap.PROT_READ)
            threading.Thread(target=self.watch, name="pi0q lease", daemon=True).start()

    def look(self) -> float:
        """Acts on what is past; seconds until there may be something to act on."""
        if self.file is None:
            return math.inf
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        fence, end = struct.unpack("<QQ", self.file[:])  # one copy: never half of a number
        if now >= end:
            os._exit(LEASE_OVER)  # no step, no save, no push, not a word to WandB: another may be at work
        if now >= fence and not self.fenced:
            self.fenced = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        return float((end if self.fenced else fence) - now) / 1e9

    def watch(self) -> None:
        while True:
            time.sleep(min(LOOK_S, self.look()))


class Hook:
    """Stands in for the functions of LeRobot's train script that bear the same names, and calls them.

    A save on demand is LeRobot's own save. 0.6 asks `should_save_checkpoint` at every step; 0.4 compares
    `cfg.save_freq` inline, so there it is 1 between the end of a step and its save, and no longer.
    """

    NEEDED = ("update_policy", "save_checkpoint", "update_last_checkpoint", "make_optimizer_and_scheduler")
    WELCOME = ("should_save_checkpoint", "make_policy", "WandBLogger")

    def __init__(self, events: Events, lease: Lease | None = None) -> None:
        self.events, self.lease, self.pid = events, lease or Lease(None), os.getpid()
        self.every_s = float(os.environ.get("PI0Q_SAVE_EVERY_S") or math.inf)
        self.original: dict[str, Any] = {}
        self.cfg: Any = None
        self.save_freq: Any = None
        self.step: int | None = None
        self.params = self.vram_peak = 0
        self.saved_at = self.saving_at = time.monotonic()
        self.unsaved = False  # a step was done here that no checkpoint has: a stop waits for its save
        self.stop = False
        self.wanted = False  # SIGUSR1 came
        self.asked = False  # LeRobot was told to save at the end of this step

    def install(self, train: Any) -> bool:
        """Replace what is there; False, and nothing touched, when LeRobot is laid out in another way."""
        if not all(callable(getattr(train, name, None)) for name in (*self.NEEDED, "main")):
            return False
        for name in (*self.NEEDED, *self.WELCOME):
            if hasattr(train, name):
                self.original[name] = getattr(train, name)
                setattr(train, name, getattr(self, name))
        logging.getLogger().addFilter(self.hear)
        return True

    def on_usr1(self, *_: object) -> None:
        self.wanted = True

    def on_term(self, *_: object) -> None:
        if os.getpid() != self.pid:  # a forked data loader worker inherits this handler
            os._exit(128 + signal.SIGTERM)
        if not self.stop:
            self.stop = True
            self.events.send("stopping", why="SIGTERM", step=self.step)
            if not self.unsaved:
                leave(INTERRUPTED)

    # Before the loop.

    def make_policy(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        model, said = pi0_module(cfg.type), [""]
        if model is not None:
            model.print = recorder(said)
        if os.environ.get("PI0Q_REHEARSAL") == "1":
            if model is not None:
                shrink(model)
            if "--resume=true" not in sys.argv:
                cfg.pretrained_path = None
        with fast_init(cfg):
            policy = self.original["make_policy"](cfg, *args, **kwargs)
        if UNLOADED in said:
            raise RuntimeError(
                f"LeRobot did not load the weights of {cfg.pretrained_path} and would train random ones "
                f"({said[said.index(UNLOADED) - 1]}). pi0q stops here: is model.safetensors there, and whole?"
            )
        return policy

    def make_optimizer_and_scheduler(self, cfg: Any, policy: Any, *args: Any, **kwargs: Any) -> Any:
        self.cfg, self.save_freq = cfg, cfg.save_freq
        self.params = sum(p.numel() for p in policy.parameters())
        return self.original["make_optimizer_and_scheduler"](cfg, policy, *args, **kwargs)

    def WandBLogger(self, cfg: Any) -> Any:
        if cfg.resume:
            forgive_unknown_run()
        logger = self.original["WandBLogger"](cfg)
        run = getattr(getattr(logger, "_wandb", None), "run", None)
        if run is not None:
            offline = bool(getattr(run, "offline", not run.url))
            place = str(Path(run.dir).parent)
            self.events.send("wandb", run_id=run.id, url=run.url or None, dir=place, offline=offline)
        return logger

    def ready(self, step: int) -> None:
        """The last moment before the first step. LeRobot restores the random state much too early."""
        self.step, self.saved_at = step, time.monotonic()
        self.events.send("ready", step=step, steps=self.cfg.steps, params=self.params)
        if getattr(self.cfg.policy, "compile_model", False):
            self.events.send("compiling")
        if self.cfg.resume:
            random_utils = importlib.import_module("lerobot.utils.random_utils")
            random_utils.load_rng_state(Path(self.cfg.checkpoint_path) / "training_state")

    # Each step.

    def update_policy(self, tracker: Any, *args: Any, **kwargs: Any) -> Any:
        if self.step is None:
            self.ready(tracker.steps)
        if self.asked:  # LeRobot was asked and did not save: save_checkpoint is false
            self.settle()
            if self.stop:
                leave(INTERRUPTED)
        self.lease.look()
        result = self.original["update_policy"](tracker, *args, **kwargs)
        self.lease.look()
        self.step, self.unsaved = tracker.steps + 1, True
        self.report(result[0], getattr(kwargs.get("accelerator"), "scaler", None))
        if "should_save_checkpoint" not in self.original and self.due():
            self.cfg.save_freq = 1
        return result

    def report(self, tracker: Any, scaler: object) -> None:
        now = {key: getattr(getattr(tracker, name, None), "val", None) for key, name in METERS.items()}
        self.events.send("step", step=self.step, steps=self.cfg.steps, **now, **self.vram())
        # A scaler skips the steps whose gradient overflowed; without one it is in the weights by now.
        loss, norm = now["loss"], now["grad_norm"]
        if not all(math.isfinite(x) for x in (loss, None if scaler else norm) if x is not None):
            self.events.send("nonfinite", step=self.step, loss=repr(loss), grad_norm=repr(norm))
            leave(NONFINITE)

    def vram(self) -> dict[str, int | None]:
        """What torch holds of the GPU now and held at most, MiB, without the CUDA context."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            return {"vram_mib": None, "vram_peak_mib": None}
        self.vram_peak = max(self.vram_peak, torch.cuda.max_memory_reserved())
        return {"vram_mib": torch.cuda.memory_reserved() >> 20, "vram_peak_mib": self.vram_peak >> 20}

    # Saves.

    def due(self) -> bool:
        self.asked = self.stop or self.wanted or time.monotonic() - self.saved_at >= self.every_s
        return self.asked

    def settle(self) -> None:
        self.asked = self.wanted = False
        self.cfg.save_freq = self.save_freq

    def should_save_checkpoint(self, *args: Any, **kwargs: Any) -> bool:
        return self.due() or bool(self.original["should_save_checkpoint"](*args, **kwargs))

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        self.settle()  # before LeRobot writes cfg.save_freq down
        self.lease.look()
        self.saving_at = time.monotonic()
        self.events.send("saving", step=self.step)
        return self.original["save_checkpoint"](*args, **kwargs)

    def update_last_checkpoint(self, checkpoint_dir: Path) -> Any:
        self.lease.look()
        result = self.original["update_last_checkpoint"](checkpoint_dir)
        self.saved_at = time.monotonic()
        seconds = round(self.saved_at - self.saving_at, 3)
        self.events.send("saved", step=self.step, path=str(checkpoint_dir), seconds=seconds)
        self.wanted = False
        self.unsaved = (self.step or 0) < self.cfg.steps
        if self.stop:
            leave(INTERRUPTED)
        return result

    def hear(self, record: logging.LogRecord) -> bool:
        if record.msg == "End of training":
            self.lease.look()
            if getattr(self.cfg and self.cfg.policy, "push_to_hub", False):
                self.events.send("pushing")
        if str(record.msg).startswith("Model pushed to "):
            self.events.send("pushed", url=str(record.msg).split()[-1])
        return True


def pi0_module(policy_type: str) -> Any:
    """LeRobot's module of pi0 or pi05; None for other policies."""
    with contextlib.suppress(ImportError):
        if policy_type in ("pi0", "pi05"):
            return importlib.import_module(f"lerobot.policies.{policy_type}.modeling_{policy_type}")
    return None


def recorder(said: list[str]) -> Any:
    def say(*words: object, **how: Any) -> None:
        said.append(" ".join(map(str, words)))
        print(*words, **how)

    return say


def shrink(model: Any) -> None:
    """Let this module of LeRobot's build a model of 17 M parameters where it would build one of 4 B."""
    name = "PaliGemmaForConditionalGeneration"
    vlm = getattr(model, f"{name}WithPiGemma", None) or getattr(model, name)
    build = vlm.__init__

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        vision = config.vision_config
        vision.num_hidden_layers, vision.num_attention_heads = 2, 2
        vision.hidden_size, vision.intermediate_size, vision.projection_dim = 64, 128, 64
        config.projection_dim, config.text_config.vocab_size = 64, 512
        config._vocab_size, config.image_token_index = 512, 511
        build(self, config, *args, **kwargs)

    vlm.__init__ = init
    small = {"width": 64, "depth": 2, "mlp_dim": 128, "num_heads": 8, "num_kv_heads": 1, "head_dim": 32}
    model.get_gemma_config = lambda _variant: model.GemmaConfig(**small)


def fast_init(cfg: Any) -> Any:
    """Build the model on the GPU: LeRobot fills full-size pi0 with random numbers on the CPU for 170 s first,
    also where all of them are about to be overwritten by a checkpoint."""
    torch: Any = sys.modules.get("torch")
    wanted = cfg.pretrained_path or os.environ.get("PI0Q_FAST_INIT") == "1"
    on_gpu = str(cfg.device).startswith("cuda") and torch and torch.cuda.is_available()
    return torch.device("cuda") if wanted and on_gpu else contextlib.nullcontext()


def forgive_unknown_run() -> None:
    """LeRobot resumes a WandB run that "must" exist; one that was never synced would end the training."""
    with contextlib.suppress(ImportError):
        wandb: Any = importlib.import_module("wandb")
        init = wandb.init
        wandb.init = lambda *args, **kwargs: init(*args, **{**kwargs, "resume": "allow"})


def leave(code: int) -> NoReturn:
    """Exit now: WandB gets WANDB_S to finish its run; threads, workers and atexit are not waited for."""
    wandb: Any = sys.modules.get("wandb")
    if getattr(wandb, "run", None) is not None:
        end = threading.Thread(target=wandb.finish, kwargs={"exit_code": code}, daemon=True)
        end.start()
        end.join(WANDB_S)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def version(package: str) -> str | None:
    return next((found.version for found in importlib.metadata.distributions(name=package)), None)


def load(hook: Hook) -> tuple[Any, bool]:
    """LeRobot's `main`, and whether it is hooked."""
    try:
        train = importlib.import_module(TRAIN)
        if hook.install(train):
            return train.main, True
    except ModuleNotFoundError as error:
        if error.name not in (TRAIN, "lerobot.scripts"):
            raise
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="lerobot-train")
    return script.load(), False


def main() -> None:
    if parent := os.environ.get("PI0Q_PARENT"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):  # it died before that line
            os._exit(INTERRUPTED)
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    events = Events(os.environ.get("PI0Q_EVENTS"))
    hook = Hook(events, Lease(os.environ.get("PI0Q_LEASE")))
    signal.signal(signal.SIGUSR1, hook.on_usr1)
    signal.signal(signal.SIGTERM, hook.on_term)
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [place for place in sys.path if place != here]  # our neighbours must not shadow imports
    try:
        run, hooked = load(hook)
        versions = {name: version(name) for name in ("lerobot", "torch")}
        events.send("start", **versions, python=platform.python_version(), pid=os.getpid(), hooked=hooked)
        run()
    except SystemExit as error:
        if error.code not in (None, 0):
            events.send("error", type="SystemExit", message=str(error.code))
        raise
    except Exception as error:
        traceback.print_exc()
        events.send("error", type=type(error).__name__, message=str(error)[:2000])
        leave(1)
    events.send("end", step=hook.cfg.steps if hook.cfg else None)


if __name__ == "__main__":
    main()

"""LeRobot's train script with our functions in the place of its own."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from . import card, health, pi0, wandb_run
from .cost import Cost
from .ends import INTERRUPTED, NONFINITE, leave
from .events import Events
from .lease import Lease
from .order import Order

#: the word that a save came to its end; jobs/checkpoint.py has the same
FINISHED = "pi0q.manifest.json.saved"
#: our name of a number -> LeRobot's meter
METERS = {k: k for k in ("loss", "lr", "grad_norm", "update_s")} | {"data_s": "dataloading_s"}


class Hook:
    """Stands in for the functions of LeRobot's train script that bear the same names, and calls them.

    A save on demand is LeRobot's own save. 0.6 asks `should_save_checkpoint` at every step; 0.4 compares
    `cfg.save_freq` inline, so there it is 1 between the end of a step and its save, and no longer.
    """

    NEEDED = ("update_policy", "save_checkpoint", "update_last_checkpoint", "make_optimizer_and_scheduler")
    WELCOME = ("should_save_checkpoint", "make_policy", "WandBLogger")

    def __init__(self, events: Events) -> None:
        self.events, self.lease, self.pid = events, Lease(None), os.getpid()
        self.every_s = float(os.environ.get("PI0Q_SAVE_EVERY_S") or math.inf)
        self.order = Order()
        self.cost = Cost(float(os.environ.get("PI0Q_SAVE_COST_S") or 0))
        self.original: dict[str, Any] = {}
        self.cfg: Any = None
        self.ds_meta: Any = None
        self.save_freq: Any = None
        self.step: int | None = None
        self.params = self.vram_peak = 0
        self.gpu = health.GpuWatch()
        self.saved_at = self.saving_at = time.monotonic()
        self.unsaved = False  # a step was done here that no checkpoint has: a stop waits for its save
        self.stop = False
        self.wishes = self.answered = 0  # how often SIGUSR1 came, and how many of them a save has answered
        self.asked = False  # LeRobot was told to save at the end of this step

    def install(self, train: Any) -> bool:
        """Replace what is there; False, and nothing touched, when LeRobot is laid out in another way."""
        if not all(callable(getattr(train, name, None)) for name in (*self.NEEDED, "main")):
            return False
        self.order.install(train)
        for name in (*self.NEEDED, *self.WELCOME):
            if hasattr(train, name):
                self.original[name] = getattr(train, name)
                setattr(train, name, getattr(self, name))
        logging.getLogger().addFilter(self.hear)
        self.gpu.listen()
        return True

    def on_usr1(self, *_: object) -> None:
        self.wishes += 1

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
        self.gpu.check(cfg.device)
        model, said = pi0.module(cfg.type), [""]
        if model is not None:
            model.print = pi0.recorder(said)
        if os.environ.get("PI0Q_REHEARSAL") == "1":
            if model is not None:
                pi0.shrink(model)
            if "--resume=true" not in sys.argv:
                cfg.pretrained_path = None
        with pi0.fast_init(cfg):
            self.policy = policy = self.original["make_policy"](cfg, *args, **kwargs)
        self.ds_meta = kwargs.get("ds_meta")
        if pi0.UNLOADED in said:
            raise RuntimeError(
                f"LeRobot did not load the weights of {cfg.pretrained_path} and would train random ones "
                f"({said[said.index(pi0.UNLOADED) - 1]}). pi0q stops here: is model.safetensors there, and whole?"
            )
        return policy

    def make_optimizer_and_scheduler(self, cfg: Any, policy: Any, *args: Any, **kwargs: Any) -> Any:
        self.cfg, self.policy, self.save_freq = cfg, policy, cfg.save_freq
        self.params = sum(p.numel() for p in policy.parameters())
        return self.original["make_optimizer_and_scheduler"](cfg, policy, *args, **kwargs)

    def WandBLogger(self, cfg: Any) -> Any:
        logger = wandb_run.begin(self.original["WandBLogger"], cfg)
        run = getattr(getattr(logger, "_wandb", None), "run", None)
        if run is not None:
            offline = bool(getattr(run, "offline", not run.url))
            place = str(Path(run.dir).parent)
            self.events.send("wandb", run_id=run.id, url=run.url or None, dir=place, offline=offline)
        return logger

    def ready(self, step: int, scaler: Any) -> None:
        """The last moment before the first step."""
        self.step, self.saved_at = step, time.monotonic()
        self.events.send("ready", step=step, steps=self.cfg.steps, params=self.params)
        if getattr(self.cfg.policy, "compile_model", False):
            self.events.send("compiling")
        self.order.settle(self.cfg, scaler)

    # Each step.

    def update_policy(self, tracker: Any, *args: Any, **kwargs: Any) -> Any:
        scaler = getattr(kwargs.get("accelerator"), "scaler", None)
        if self.step is None:
            self.ready(tracker.steps, scaler)
        if self.asked:  # LeRobot was asked and did not save: save_checkpoint is false
            self.settle()
            if self.stop:
                leave(INTERRUPTED)
        self.lease.look()
        result = self.original["update_policy"](tracker, *args, **kwargs)
        self.lease.look()
        self.step, self.unsaved = tracker.steps + 1, True
        self.report(result[0], scaler)
        if "should_save_checkpoint" not in self.original and self.due():
            self.cfg.save_freq = 1
        return result

    def report(self, tracker: Any, scaler: object) -> None:
        now = {key: getattr(getattr(tracker, name, None), "val", None) for key, name in METERS.items()}
        self.events.send("step", step=self.step, steps=self.cfg.steps, **now, **self.vram())
        # A scaler skips the steps whose gradient overflowed; without one it is in the weights by now.
        for what, value in (("loss", now["loss"]), ("gradient", None if scaler else now["grad_norm"])):
            if value is not None and not math.isfinite(value):
                self.diverged(what, str(value), loss=repr(now["loss"]), grad_norm=repr(now["grad_norm"]))

    def diverged(self, what: str, value: str, **numbers: str) -> NoReturn:
        """Ends the run before its weights can be saved: the last checkpoint is finite."""
        self.events.send("nonfinite", step=self.step, what=what, value=value, **numbers)
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
        waited = time.monotonic() - self.saved_at >= self.cost.interval(self.every_s)
        self.asked = self.stop or waited or self.wishes > self.answered
        return self.asked

    def settle(self) -> None:
        self.asked = False
        self.cfg.save_freq = self.save_freq

    def should_save_checkpoint(self, *args: Any, **kwargs: Any) -> bool:
        return self.due() or bool(self.original["should_save_checkpoint"](*args, **kwargs))

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        self.settle()  # before LeRobot writes cfg.save_freq down
        self.lease.look()
        if bad := health.not_finite(self.policy):
            self.diverged("weights", f"not finite ({bad})")
        self.saving_at = time.monotonic()
        self.events.send("saving", step=self.step)
        result = self.original["save_checkpoint"](*args, **kwargs)
        with contextlib.suppress(OSError):  # so that a kill before `last` points there loses nothing
            (Path(kwargs.get("checkpoint_dir") or args[0]) / FINISHED).write_bytes(b"")
        return result

    def update_last_checkpoint(self, checkpoint_dir: Path) -> Any:
        self.lease.look()
        result = self.original["update_last_checkpoint"](checkpoint_dir)
        self.saved_at = time.monotonic()
        seconds = self.saved_at - self.saving_at
        self.cost.add(seconds)
        # A wish that came in the midst of a save is answered by it: no step was done since.
        wishes, answered = self.wishes, self.answered
        self.answered = wishes
        told = {"seconds": round(seconds, 3), "cost_s": round(self.cost.mean(), 3), "wanted": wishes > answered}
        self.events.send("saved", step=self.step, path=str(checkpoint_dir), **told)
        self.unsaved = (self.step or 0) < self.cfg.steps
        if self.stop:
            leave(INTERRUPTED)
        return result

    def hear(self, record: logging.LogRecord) -> bool:
        if record.msg == "End of training":
            self.lease.look()
            card.write(self.cfg, self.policy, self.ds_meta)
        return True

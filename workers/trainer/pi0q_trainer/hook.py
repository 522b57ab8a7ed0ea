"""Hook into LeRobot's train script: replaces functions of it that call the originals."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from . import adapter, checks, model_card, pi0, wandb_init
from .data_order import DataOrder
from .events import Events
from .exits import EARLY_STOP, INTERRUPTED, NONFINITE, WANDB_END_S, leave
from .held_out import HeldOut, SaveDecision
from .lease import Lease
from .ranks import Ranks
from .save_interval import Schedule
from .trackers import Trackers, is_train_log

#: marks a save as complete; jobs/checkpoint.py has the same
FINISHED = "pi0q.manifest.json.saved"
#: our name of a number -> LeRobot's meter
METERS = {k: k for k in ("loss", "lr", "grad_norm", "update_s")} | {"data_s": "dataloading_s"}


def numbers(tracker: Any) -> dict[str, Any]:
    """Return the numbers of the step that has just ended; None where LeRobot has no such meter."""
    return {key: getattr(getattr(tracker, name, None), "val", None) for key, name in METERS.items()}


class Hook:
    """Stands in for the functions of LeRobot's train script that bear the same names, and calls them.

    A save on demand is LeRobot's own save. 0.6 asks `should_save_checkpoint` at every step; 0.4 compares
    `cfg.save_freq` inline, so there it is 1 between the end of a step and its save, and no longer.
    """

    NEEDED = ("update_policy", "save_checkpoint", "update_last_checkpoint", "make_optimizer_and_scheduler")
    WELCOME = ("should_save_checkpoint", "make_policy", "WandBLogger")

    def __init__(self, events: Events, ranks: Ranks | None = None) -> None:
        self.events, self.lease, self.pid = events, Lease(None), os.getpid()
        self.trackers = Trackers(events)
        self.order, self.held_out = DataOrder(ranks or Ranks({})), HeldOut.of_environment()
        self.saves = Schedule(
            every_s=float(os.environ.get("PI0Q_SAVE_EVERY_S") or math.inf),
            cost_s=float(os.environ.get("PI0Q_SAVE_COST_S") or 0),
        )
        self.original: dict[str, Any] = {}
        self.cfg: Any = None
        self.ds_meta: Any = None
        self.step: int | None = None
        self.gpu = checks.GpuWatch()
        self.unsaved = False  # a step was done here that no checkpoint has: a stop waits for its save
        self.stop = False

    def install(self, train: Any) -> bool:
        """Replace what is there; False, and nothing touched, when LeRobot is laid out in another way."""
        if not all(callable(getattr(train, name, None)) for name in (*self.NEEDED, "main")):
            return False
        self.order.install(train)
        for name in (*self.NEEDED, *self.WELCOME):
            if hasattr(train, name):
                self.original[name] = getattr(train, name)
                setattr(train, name, getattr(self, name))
        logging.getLogger().addFilter(self.on_log_record)
        self.gpu.install()
        if self.ranks.count > 1:
            self.before_ranks_meet(train)
        return True

    @property
    def ranks(self) -> Ranks:
        return self.order.ranks

    def before_ranks_meet(self, train: Any) -> None:
        """Have WandB begin, which may start this process anew, as soon as the flags are read: the others wait here."""
        configs = importlib.import_module("lerobot.configs.train").TrainPipelineConfig
        validate = configs.validate

        def validate_and_meet(cfg: Any) -> Any:
            result = validate(cfg)
            if "WandBLogger" in self.original and cfg.wandb.enable and cfg.wandb.project:
                logger = self.WandBLogger(cfg)
                train.WandBLogger = lambda _: logger
            self.ranks.host_store(sys.modules.get("torch"))
            return result

        configs.validate = validate_and_meet

    def on_usr1(self, *_: object) -> None:
        self.saves.request()

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
        model, printed = pi0.module(cfg.type), [""]
        if model is not None:
            model.print = pi0.recorder(printed)
        if os.environ.get("PI0Q_REHEARSAL") == "1":
            if model is not None:
                pi0.shrink(model)
            if "--resume=true" not in sys.argv:
                cfg.pretrained_path = None
        with pi0.fast_init(cfg), adapter.base_here(cfg):
            self.policy = policy = self.original["make_policy"](cfg, *args, **kwargs)
        self.ds_meta = kwargs.get("ds_meta")
        if pi0.UNLOADED in printed:
            raise RuntimeError(
                f"LeRobot did not load the weights of {cfg.pretrained_path} and would train random ones "
                f"({printed[printed.index(pi0.UNLOADED) - 1]}); pi0q stops here. "
                "Fix: check that model.safetensors is there and complete"
            )
        return policy

    def make_optimizer_and_scheduler(self, cfg: Any, policy: Any, *args: Any, **kwargs: Any) -> Any:
        self.cfg, self.policy, self.saves.frequency = cfg, policy, cfg.save_freq
        return self.original["make_optimizer_and_scheduler"](cfg, policy, *args, **kwargs)

    def WandBLogger(self, cfg: Any) -> Any:
        logger = wandb_init.begin(self.original["WandBLogger"], cfg)
        run = getattr(getattr(logger, "_wandb", None), "run", None)
        if run is not None:
            offline = bool(getattr(run, "offline", not run.url))
            place = str(Path(run.dir).parent)
            self.events.send("wandb", run_id=run.id, url=run.url or None, dir=place, offline=offline)
        return logger

    def ready(self, step: int, scaler: Any) -> None:
        """The last moment before the first step."""
        self.step = step
        self.saves.restart_clock()
        params = sum(p.numel() for p in self.policy.parameters())
        if self.cfg.resume:
            self.held_out.load(Path(self.cfg.checkpoint_path))
        self.events.send("ready", step=step, steps=self.cfg.steps, params=params, **self.held_out.fields())
        if self.held_out.exhausted and step < self.cfg.steps:
            self.stop_early()  # it was killed between its last save and its end
        if getattr(self.cfg.policy, "compile_model", False):
            self.events.send("compiling")
        self.trackers.begin(self.cfg)
        self.order.restore_state(self.cfg, scaler)

    # Each step.

    def update_policy(self, tracker: Any, *args: Any, **kwargs: Any) -> Any:
        scaler = getattr(kwargs.get("accelerator"), "scaler", None)
        if self.step is None:
            self.ready(tracker.steps, scaler)
        if self.saves.told:  # LeRobot was told to and did not save: save_checkpoint is false
            self.restore_save_freq()
            if self.stop:
                leave(INTERRUPTED)
        self.lease.look()
        result = self.original["update_policy"](tracker, *args, **kwargs)
        self.lease.look()
        self.step, self.unsaved = tracker.steps + 1, True
        self.report(result[0], scaler)
        self.trackers.step(result[1])
        if self.ranks.count > 1:
            self.agree()
        if "should_save_checkpoint" not in self.original and self.due():
            self.cfg.save_freq = 1
        return result

    def agree(self) -> None:
        """Decide for all ranks whether they save at the end of this step, and whether they stop then."""
        self.ranks.decide(save=self.saves.due(), stop=self.stop)
        if self.ranks.decision.stop:
            self.on_term()  # another rank was told to

    def report(self, tracker: Any, scaler: object) -> None:
        now = numbers(tracker)
        self.events.send("step", step=self.step, steps=self.cfg.steps, **now, **self.memory())
        self.check_finite(now, scaler)

    def memory(self) -> dict[str, Any]:
        """Return the VRAM of the fullest card, and of several ranks the peak of each, theirs as of the step before."""
        own: dict[str, Any] = self.gpu.memory()
        if self.ranks.count == 1 or own["vram_peak_mib"] is None:
            return own
        all_ranks = [(own["vram_mib"], own["vram_peak_mib"]), *self.ranks.vram]
        now, peaks = (list(one) for one in zip(*all_ranks, strict=True))
        return {"vram_mib": max(now), "vram_peak_mib": max(peaks), "vram_peaks_mib": peaks}

    def check_finite(self, now: Mapping[str, Any], scaler: object) -> None:
        # A scaler skips the steps whose gradient overflowed; without one it is in the weights by now.
        for what, value in (("loss", now["loss"]), ("gradient", None if scaler else now["grad_norm"])):
            if value is not None and not math.isfinite(value):
                self.diverged(what, str(value), loss=repr(now["loss"]), grad_norm=repr(now["grad_norm"]))

    def diverged(self, what: str, value: str, **numbers: str) -> NoReturn:
        """Ends the run before its weights can be saved: the last checkpoint is finite."""
        self.events.send("nonfinite", step=self.step, what=what, value=value, **numbers)
        leave(NONFINITE)

    # Saves.

    def due(self) -> bool:
        self.saves.told = self.ranks.decision.save if self.ranks.count > 1 else self.stop or self.saves.due()
        return self.saves.told

    def restore_save_freq(self) -> None:
        self.saves.told = False
        self.cfg.save_freq = self.saves.frequency

    def should_save_checkpoint(self, *args: Any, **kwargs: Any) -> bool:
        saves = self.due() or bool(self.original["should_save_checkpoint"](*args, **kwargs))
        if not self.held_out.evaluates(self.cfg, self.step or 0):
            return saves
        self.events.send("evaluating", step=self.step)
        # LeRobot takes it for a truth value, see held_out.py.
        return cast(bool, SaveDecision(lambda loss: self.evaluated(loss, saves=saves)))

    def evaluated(self, loss: float | None, *, saves: bool) -> bool:
        """Take in the loss of an evaluation; return whether LeRobot is to save now."""
        self.lease.look()
        step, best = self.step or 0, False
        if loss is not None:
            self.trackers.log({"eval/eval_loss": loss}, step)
            best = self.held_out.add(step, loss) and self.held_out.save_best
            self.held_out.ends_here = self.held_out.exhausted and step < self.cfg.steps
        self.events.send("evaluated", step=step, eval_loss=loss, best=best, **self.held_out.fields())
        return self.due() or saves or best or self.held_out.ends_here

    def stop_early(self) -> NoReturn:
        """End the training as its last step would."""
        self.events.send("early_stop", step=self.step, **self.held_out.fields())
        self.lease.look()
        model_card.write(self.cfg, self.policy, self.ds_meta)
        leave(EARLY_STOP, wandb_s=WANDB_END_S)

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        self.restore_save_freq()  # before LeRobot writes cfg.save_freq down
        self.lease.look()
        if bad := checks.not_finite(self.policy):
            self.diverged("weights", f"not finite ({bad})")
        self.saves.begin()
        self.events.send("saving", step=self.step)
        result = self.original["save_checkpoint"](*args, **kwargs)
        place = Path(kwargs.get("checkpoint_dir") or args[0])
        self.order.keep_states_of_ranks(place)
        self.held_out.save(place)
        self.trackers.flush()  # before it counts: what a resume does not do again is on the disk
        with contextlib.suppress(OSError):  # so that a kill before `last` points there loses nothing
            (place / FINISHED).write_bytes(b"")
        return result

    def update_last_checkpoint(self, checkpoint_dir: Path) -> Any:
        self.lease.look()
        result = self.original["update_last_checkpoint"](checkpoint_dir)
        self.events.send("saved", step=self.step, path=str(checkpoint_dir), **self.saves.end())
        self.unsaved = (self.step or 0) < self.cfg.steps
        if self.stop:
            leave(INTERRUPTED)
        if self.held_out.ends_here:
            self.stop_early()
        return result

    def on_log_record(self, record: logging.LogRecord) -> bool:
        if is_train_log(record.msg):
            self.trackers.train_log(record.msg)
        elif record.msg == "End of training":
            self.lease.look()
            model_card.write(self.cfg, self.policy, self.ds_meta)
        return True

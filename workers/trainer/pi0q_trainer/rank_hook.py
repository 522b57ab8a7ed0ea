"""Hook of each rank but the first: it follows what rank 0 decides, and saves and reports nothing but its own death."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from typing import Any

from . import checks, data_order
from .exits import INTERRUPTED, leave
from .held_out import SaveDecision
from .hook import Hook, numbers


class RankHook(Hook):
    """Stands in for the same functions of LeRobot's train script as `Hook`; LeRobot calls none that saves here."""

    #: Whether LeRobot saves on rank 0 at the end of this step.
    saving = False
    original_barrier: Any = None

    def on_usr1(self, *_: object) -> None:
        """Do nothing: rank 0 alone is asked to save."""

    def on_term(self, *_: object) -> None:
        """Note a stop for the next step boundary; before there is one rank 0 ends the run."""
        if os.getpid() != self.pid:
            os._exit(128 + signal.SIGTERM)
        self.stop = True

    def before_ranks_meet(self, train: Any) -> None:
        """Leave it to rank 0 to look whether the output directory is new: with WandB rank 0 may have made it by now."""
        configs = importlib.import_module("lerobot.configs.train").TrainPipelineConfig
        validate = configs.validate

        def validate_beside(cfg: Any) -> Any:
            if cfg.resume:
                return validate(cfg)
            place, cfg.output_dir = cfg.output_dir, None
            try:
                return validate(cfg)
            finally:
                cfg.output_dir = place

        configs.validate = validate_beside

    def ready(self, step: int, scaler: Any) -> None:
        self.step = step
        if self.cfg.resume:
            self.held_out.load(Path(self.cfg.checkpoint_path))
        self.order.restore_state(self.cfg, scaler)

    def update_policy(self, tracker: Any, *args: Any, **kwargs: Any) -> Any:
        if self.original_barrier is None and (accelerator := kwargs.get("accelerator")) is not None:
            self.original_barrier = accelerator.wait_for_everyone
            accelerator.wait_for_everyone = self.wait_for_everyone
        self.ranks.request(stop=self.stop, vram=self.gpu.memory())
        result = super().update_policy(tracker, *args, **kwargs)
        if "should_save_checkpoint" not in self.original:
            step, freq = self.step or 0, self.cfg.save_freq
            self.expect_save((freq > 0 and step % freq == 0) or step == self.cfg.steps)
        return result

    def agree(self) -> None:
        self.ranks.await_decision()
        self.stop = self.stop or self.ranks.decision.stop

    def report(self, tracker: Any, scaler: object) -> None:
        self.check_finite(numbers(tracker), scaler)

    def should_save_checkpoint(self, *args: Any, **kwargs: Any) -> bool:
        saves = super().should_save_checkpoint(*args, **kwargs)
        if not isinstance(saves, SaveDecision):
            self.expect_save(saves)
        return saves

    def evaluated(self, loss: float | None, *, saves: bool) -> bool:
        """Decide as rank 0 does: LeRobot has the mean loss of all ranks on each."""
        self.expect_save(super().evaluated(loss, saves=saves))
        return self.saving

    def expect_save(self, saves: bool) -> None:
        self.saving = saves and bool(self.cfg.save_checkpoint)

    def wait_for_everyone(self) -> Any:
        """LeRobot's barrier; behind a step with a save rank 0 writes this rank's random state into the checkpoint."""
        if self.saving:
            self.saving = False
            self.restore_save_freq()
            self.lease.look()
            if bad := checks.not_finite(self.policy):
                self.diverged("weights", f"not finite ({bad})")
            self.ranks.send_state(data_order.own_state())
            self.unsaved = (self.step or 0) < self.cfg.steps
            if self.ranks.decision.stop or self.held_out.ends_here:
                leave(INTERRUPTED)  # rank 0 writes the checkpoint and leaves too: nobody comes to the barrier
        return self.original_barrier()

"""Loss on held-out episodes: LeRobot's own evaluation (0.6 and newer, `eval_steps`), the best one, and the early stop.

LeRobot asks `should_save_checkpoint` before it evaluates and uses the answer after it, so at a step with an evaluation
the answer is a `SaveDecision`, which decides at its use, with the loss at hand. The state lies in each checkpoint: a
training that goes on from one counts as if it had never stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: In training_state/: the best loss so far, its step, and the evaluations since.
STATE = "pi0q_held_out.json"


class HeldOut:
    """The best loss of this training's evaluations."""

    def __init__(self, *, save_best: bool = False, patience: int = 0) -> None:
        """`save_best`: save at each best loss. `patience`: evaluations without a better one that end it; 0 for none."""
        self.save_best, self.patience = save_best, patience
        #: None before the first evaluation with a finite loss.
        self.loss: float | None = None
        self.step: int | None = None
        #: Evaluations after the best one.
        self.since = 0
        #: Evaluations in all.
        self.count = 0
        #: Whether the next save is the last one: no better loss for too long.
        self.ends_here = False

    @classmethod
    def of_environment(cls) -> HeldOut:
        wanted = os.environ.get("PI0Q_BEST") == "eval_loss"
        return cls(save_best=wanted, patience=int(os.environ.get("PI0Q_PATIENCE") or 0) if wanted else 0)

    @staticmethod
    def evaluates(cfg: Any, step: int) -> bool:
        """Return whether LeRobot evaluates after this step."""
        every = getattr(cfg, "eval_steps", 0) or 0
        return every > 0 and bool(getattr(cfg.dataset, "eval_split", 0)) and step % every == 0

    def add(self, step: int, loss: float) -> bool:
        """Count an evaluation; return whether it is the best one. Of equals the first counts."""
        self.count += 1
        if math.isfinite(loss) and (self.loss is None or loss < self.loss):
            self.loss, self.step, self.since = loss, step, 0
            return True
        self.since += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Return whether the training ends here: no better loss in `patience` evaluations."""
        return 0 < self.patience <= self.since

    def fields(self) -> dict[str, Any]:
        """Return what events say of the best loss; nothing before an evaluation."""
        return {"best_loss": self.loss, "best_step": self.step, "since_best": self.since} if self.count else {}

    def save(self, checkpoint: Path) -> None:
        """Write the state into a checkpoint."""
        if self.count:
            state = {"loss": self.loss, "step": self.step, "since": self.since, "count": self.count}
            (checkpoint / "training_state" / STATE).write_text(json.dumps(state))

    def load(self, checkpoint: Path) -> None:
        """Go on from the state in a checkpoint; from none where it has none."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads((checkpoint / "training_state" / STATE).read_text())
            loss, step = state["loss"], state["step"]
            numbers = (None, None) if loss is None or step is None else (float(loss), int(step))
            since, count = int(state["since"]), int(state["count"])
            (self.loss, self.step), self.since, self.count = numbers, since, count


class SaveDecision:
    """LeRobot's `is_saving_step` at a step with an evaluation; true or false once that is over."""

    def __init__(self, decide: Callable[[float | None], bool]) -> None:
        """`decide` gets the loss; None where LeRobot did not compute one."""
        self._decide = decide
        self._decided: bool | None = None

    def __bool__(self) -> bool:
        if self._decided is None:
            # LeRobot rounds the number where it prints it; its train function holds all digits.
            loss = sys._getframe(1).f_locals.get("eval_loss")
            self._decided = self._decide(float(loss) if isinstance(loss, (int, float)) else None)
        return self._decided

"""The checkpoint with the best loss on held-out episodes, as a record has it, and what is said of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from pi0q.jobs.record_codecs import Codec, json_of, mapping, whole


@dataclass(frozen=True, kw_only=True)
class Best:
    """A verified checkpoint whose loss on held-out episodes no other of the job's has reached."""

    step: int
    #: `eval_loss` there: the mean of LeRobot's loss over the held-out batches.
    loss: float
    #: Evaluations after it, none of them better.
    since: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what the record keeps."""
        return asdict(self)


def of_event(event: Mapping[str, Any]) -> Best | None:
    """Return the best evaluation that an event of the trainer tells; None where it tells none."""
    step, loss, since = event.get("best_step"), event.get("best_loss"), event.get("since_best")
    if type(step) is not int or type(since) is not int or not isinstance(loss, (int, float)) or isinstance(loss, bool):
        return None
    return Best(step=step, loss=float(loss), since=since) if min(step, since) >= 0 and isfinite(loss) else None


def fault(train: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with `checkpoints.best` and `patience` of a job file, by key.

    `train`: its flags of lerobot-train; `values`: all its values by key.
    """
    if not values.get("checkpoints.best"):
        unused = "has no effect without checkpoints.best: eval_loss"
        return {"checkpoints.patience": unused} if values.get("checkpoints.patience") else {}
    lacks = [name for name in ("dataset.eval_split", "eval_steps") if not train.get(name)]
    if not lacks:
        return {}
    flags = " and ".join(f"train.{name}" for name in lacks)
    told = f"needs {flags}: LeRobot then looks at held-out episodes every eval_steps steps"
    return {"checkpoints.best": f"{told}. Write dataset: {{eval_split: 0.1}} and eval_steps: 1000 under `train`"}


def words(best: Best | None, eval_loss: float | None, patience: int | None) -> str:
    """Return `0.3123, best 0.2990 at step 2000, 2 evaluations ago; ends after 5`; "" without an evaluation."""
    if best is None:
        return "" if eval_loss is None else f"{eval_loss:.4f}"
    now = "" if eval_loss is None else f"{eval_loss:.4f}, "
    ago = f", {best.since} evaluation{'s' * (best.since != 1)} ago" if best.since else ""
    return f"{now}best {best.loss:.4f} at step {best.step}{ago}" + (f"; ends after {patience}" if patience else "")


def early_stop(best: Best | None, step: object) -> str:
    """Return the sentence of a training that ended because its held-out loss became no better."""
    if best is None:
        return f"early stop at step {step}: no finite loss on held-out episodes"
    count = f"{best.since} evaluation{'s' * (best.since != 1)}"
    return f"early stop at step {step}: best eval_loss {best.loss:.4f} at step {best.step}, none better in {count}"


def _read(text: str) -> Best:
    found = mapping(json_of(text))
    loss = found["loss"]
    if set(found) != {"step", "loss", "since"} or type(loss) not in (int, float):
        raise ValueError
    return Best(step=whole(found["step"]), loss=float(loss), since=whole(found["since"]))


_show: Callable[[Best | None], Any] = lambda best: best and best.to_json()  # noqa: E731
BEST = Codec(_read, "a step, a loss and a number of evaluations as JSON", _show)

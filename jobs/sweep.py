"""A sweep: one job file with several values for some keys, and which combination is which trial. Pure.

sweep: {train.seed: [1, 2, 3], train.batch_size: [8, 16]}             every combination: 6 trials
sweep: {kind: list, train.seed: [1, 2], train.batch_size: [8, 16]}    the first values, then the second ones: 2
sweep: {kind: random, trials: 20, seed: 1, train.policy.optimizer_lr: {from: 1e-5, to: 1e-3, log: true}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pi0q.jobs.record_codecs import Codec, json_of, mapping

if TYPE_CHECKING:
    from random import Random

    from pi0q.jobs.schema.value_types import Value

#: `tpe`: Optuna's Tree-structured Parzen Estimator proposes each trial by how the ones before it ended.
GRID, LIST, RANDOM, TPE = "grid", "list", "random", "tpe"
KINDS = (GRID, LIST, RANDOM, TPE)
#: Trials of a search at a time where its file says nothing: of more than a few, the last ones are proposed blindly.
SEARCHED_AT_ONCE = 4
#: Fields of a record by which trials can be compared; less is better.
METRICS = ("loss", "eval_loss")
#: Trials of one sweep, at the most.
MOST = 1000


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    #: Drawn so that each factor is as likely as any other: 1e-5 to 1e-4 as often as 1e-4 to 1e-3.
    log: bool = False
    whole: bool = False

    def draw(self, dice: Random) -> float:
        """Return a number of the range."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        number = dice.uniform(low, high)
        number = min(self.high, max(self.low, math.exp(number) if self.log else number))
        # Four digits say enough, and a person can read them.
        return (
            round(number) if self.whole else float(f"{number:.4g}") if self._holds(float(f"{number:.4g}")) else number
        )

    def _holds(self, number: float) -> bool:
        return self.low <= number <= self.high

    def holds(self, value: object) -> bool:
        """Return whether a value lies in the range."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self._holds(value) and (not self.whole or isinstance(value, int))  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Return the range as the job file has it."""
        return {"from": self.low, "to": self.high, **({"log": True} if self.log else {})}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Which keys of a job file vary, and how."""

    #: Values by dotted key, `train.seed`.
    space: Mapping[str, tuple[Value, ...] | Range]
    kind: str = GRID
    #: How many trials a random sweep or a search has; of the other kinds the space says that.
    trials: int | None = None
    #: Of the random numbers: the same seed gives the same trials.
    seed: int = 0
    #: Trials that are queued or run at a time; None: all.
    max_parallel: int | None = None
    #: Field of the record that says which trial is best.
    metric: str = METRICS[0]

    @property
    def total(self) -> int:
        """Return the number of trials."""
        if self.kind == TPE:
            return self.trials or 0
        if self.kind == RANDOM:
            return min(self.trials or 0, self._combinations or MOST + 1)
        sizes = [len(values) for values in self.space.values() if isinstance(values, tuple)]
        return min(sizes, default=0) if self.kind == LIST else math.prod(sizes)

    @property
    def parallel(self) -> int | None:
        """Return how many trials are queued or run at a time; None for all."""
        return self.max_parallel or (SEARCHED_AT_ONCE if self.kind == TPE else None)

    @property
    def _combinations(self) -> int:
        """Return how many different combinations there are; 0 where a range has any number of them."""
        listed = all(isinstance(values, tuple) for values in self.space.values())
        return math.prod(len(values) for values in self.space.values() if isinstance(values, tuple)) if listed else 0

    def values(self, number: int) -> dict[str, Value]:
        """Return the values of a trial, by dotted key, from number 1 on; of a search those of an example."""
        index = number - 1
        if self.kind == TPE:
            return self._drawn(number)
        if self.kind == RANDOM:
            if not self._combinations:
                return self._drawn(number)
            index = _dice(self.seed).sample(range(self._combinations), self.total)[index]
        found: dict[str, Value] = {}
        # The last key varies fastest, as the innermost of nested loops.
        for key, values in reversed(list(self.space.items())):
            assert isinstance(values, tuple)
            index, place = (index, index) if self.kind == LIST else divmod(index, len(values))
            found[key] = values[place]
        return {key: found[key] for key in self.space}

    def written(self, number: int) -> dict[str, Value]:
        """Return the values of a trial as a job file has them: sizes and durations with their unit."""
        return {key: written(key, value) for key, value in self.values(number).items()}

    def _drawn(self, number: int) -> dict[str, Value]:
        dice = _dice(f"{self.seed}:{number}")
        return {
            key: values.draw(dice) if isinstance(values, Range) else values[dice.randrange(len(values))]
            for key, values in self.space.items()
        }

    def outside(self, values: Mapping[str, object]) -> str:
        """Return the first key whose value, as a job file has it, lies outside the space; "" where none does."""
        for key, space in self.space.items():
            value = values.get(key)
            inside = (
                space.holds(value)
                if isinstance(space, Range)
                else any(_same(value, written(key, one)) for one in space)
            )
            if not inside:
                return key
        return ""

    def to_json(self) -> dict[str, Any]:
        """Return the sweep as the job file has it; `of` reads it back."""
        told: dict[str, Any] = {"kind": self.kind}
        if self.kind in (RANDOM, TPE):
            told |= {"trials": self.trials, "seed": self.seed}
        if self.max_parallel is not None:
            told["max_parallel"] = self.max_parallel
        if self.metric != METRICS[0]:
            told["metric"] = self.metric
        space = {
            key: one.to_json() if isinstance(one, Range) else [written(key, value) for value in one]
            for key, one in self.space.items()
        }
        return {**told, "space": space}

    @classmethod
    def of(cls, found: object) -> Sweep | None:
        """Return the sweep in a value of schema/sweep_space.py; None where there is none."""
        if not isinstance(found, Mapping) or not found.get("space"):
            return None
        space = {
            key: Range(low=one["from"], high=one["to"], log=bool(one.get("log")), whole=isinstance(one["from"], int))
            if isinstance(one, Mapping)
            else tuple(one)
            for key, one in found["space"].items()
        }
        options = {key: found[key] for key in ("kind", "trials", "seed", "max_parallel", "metric") if found.get(key)}
        return cls(space=space, **options)


def _dice(seed: int | str) -> Random:
    from random import Random  # it loads hashlib, and most commands read no sweep

    return Random(seed)


def written(key: str, value: Value) -> Value:
    """Return the value of a key as a job file has it: numbers of MiB and of seconds with their unit."""
    if key in ("resources.vram", "resources.disk") and value is not None:
        return f"{value}MiB"
    return f"{value!r}s" if key in ("time_limit", "checkpoints.every") and value is not None else value


def _same(one: object, other: object) -> bool:
    """Return whether two values are the same, also by type: 1 is not true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def words(values: Mapping[str, Any]) -> str:
    """Return values of a trial in a few words: `seed 7, optimizer_lr 3e-05`."""
    return ", ".join(f"{key.rpartition('.')[2]} {_word(value)}" for key, value in values.items())


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def trial_name(sweep: str, number: int) -> str:
    """Return the name of a trial: `lr_sweep/0007`."""
    return f"{sweep}/{number:04d}"


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How the trials of a sweep stand, as its record keeps it."""

    total: int
    #: Trials that were queued so far; fewer than `total` where a submit was cut off.
    made: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    metric: str = METRICS[0]
    kind: str = GRID
    #: Of the trial with the least metric among those that succeeded: its id, number, metric and values.
    best_id: str = ""
    best_number: int = 0
    best: float | None = None
    best_values: Mapping[str, Any] | None = None

    @property
    def done(self) -> int:
        """Return how many have ended, however."""
        return self.succeeded + self.failed + self.cancelled

    def sentence(self, running: int = 0) -> str:
        """Return `12 of 40 done, 3 run, 1 failed, best loss 0.31 = seed 7`; `running`: trials that run now."""
        return ", ".join([f"{self.done} of {self.total} done", *self._counted(running), *self._best()])

    def note(self, running: int = 0) -> str:
        """Return what a list says beside how many are done: `best loss 0.31 = seed 7, 3 run, 1 failed`."""
        return ", ".join([*self._best(), *self._counted(running)])

    def _best(self) -> list[str]:
        return [] if self.best is None else [f"best {self.metric} {self.best:.4g} = {words(self.best_values or {})}"]

    def _counted(self, running: int) -> list[str]:
        told = [f"{running} run{'s' * (running == 1)}"] if running else []
        told += [f"{count} {word}" for word, count in (("failed", self.failed), ("cancelled", self.cancelled)) if count]
        if self.kind == TPE:
            return told if self.made else [*told, "`pi0q search` proposes its trials"]
        return [*told, *([f"only {self.made} were queued"] if self.made < self.total else [])]

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` shows of it."""
        return {**vars(self), "done": self.done}


_COUNTS = ("total", "made", "succeeded", "failed", "cancelled", "best_number")


def _tally(text: str) -> Tally:
    found = mapping(json_of(text))
    counts = {name: found.get(name, 0) for name in _COUNTS}
    if not all(type(count) is int and 0 <= count <= 10 * MOST for count in counts.values()):
        raise ValueError
    best, values = found.get("best"), found.get("best_values")
    if best is not None and type(best) not in (int, float):
        raise ValueError
    metric, best_id = found.get("metric", METRICS[0]), found.get("best_id", "")
    kind = found.get("kind", GRID)
    if metric not in METRICS or kind not in KINDS or not isinstance(best_id, str):
        raise ValueError
    # Lua writes an empty object as a list.
    told = mapping(values) if values else {}
    return Tally(**counts, metric=metric, kind=kind, best_id=best_id, best=best, best_values=told)


def _values(text: str) -> dict[str, Any]:
    return mapping(json_of(text))


TALLY = Codec(_tally, "counts of a sweep's trials as JSON", lambda tally: tally and tally.to_json())
VALUES = Codec(_values, "values by key as JSON")

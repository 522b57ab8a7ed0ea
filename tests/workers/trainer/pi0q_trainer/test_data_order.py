"""Which batches a resumed training gets, on a model of what LeRobot, accelerate and torch do with the random state.

The real ones are in test_resume_real.py, for a few places to stop; here for all of them, in milliseconds.
"""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pi0q.workers.trainer.pi0q_trainer import data_order
from pi0q.workers.trainer.pi0q_trainer.data_order import DataOrder
from pi0q.workers.trainer.pi0q_trainer.ranks import Ranks

FRAMES = 23


class Process:
    """One life of a trainer: its random state, and the functions of LeRobot that read and write it."""

    def __init__(self) -> None:
        self.rng = random.Random()

    def serialize_rng_state(self) -> dict[str, Any]:
        return {"py": self.rng.getstate()}

    def deserialize_rng_state(self, state: dict[str, Any]) -> None:
        self.rng.setstate(state["py"])

    def load_rng_state(self, folder: Path) -> None:
        self.rng.setstate(self.load_file(folder / "rng"))

    def save_file(self, content: Any, file: Path) -> None:
        file.write_bytes(pickle.dumps(content))

    def load_file(self, file: Path) -> Any:
        return pickle.loads(file.read_bytes())


class Sampler:
    """Batches of frames: 0.4 draws their order from the random state, 0.6 from its epoch and goes on at `start`."""

    def __init__(self, process: Process, batch_size: int, *, new: bool) -> None:
        self.process, self.batch_size, self.new, self.epoch, self.start = process, batch_size, new, 0, 0

    def __iter__(self) -> Iterator[list[int]]:
        dice = random.Random(self.epoch) if self.new else self.process.rng
        frames, self.start = dice.sample(range(FRAMES), FRAMES)[self.start :], 0
        while frames:
            batch, frames = frames[: self.batch_size], frames[self.batch_size :]
            yield batch

    def __len__(self) -> int:
        return -(-FRAMES // self.batch_size)


class Loader:
    """Torch's and accelerate's: draws a seed for its workers, sets the sampler's epoch, is one batch ahead."""

    def __init__(self, process: Process, sampler: Sampler, *, persistent_workers: bool) -> None:
        self.process, self.batch_sampler, self.persistent_workers = process, sampler, persistent_workers
        self.iteration, self.working = 0, False

    def __iter__(self) -> Iterator[list[int]]:
        self.batch_sampler.epoch = self.iteration
        getattr(self.batch_sampler, "sampler", self.batch_sampler).epoch = self.iteration
        if not self.working:
            self.process.rng.random()
            self.working = self.persistent_workers
        batches = iter(self.batch_sampler)
        current = next(batches)
        for coming in batches:
            yield current
            current = coming
        yield current
        self.iteration += 1

    def __len__(self) -> int:
        return len(self.batch_sampler)


def cycle(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from iter(loader)


def save(checkpoint: Path, step: int, process: Process) -> None:
    state = checkpoint / "training_state"
    state.mkdir(parents=True)
    process.save_file(process.rng.getstate(), state / "rng")


class Training:
    """A life from `start` on: what each step saw, and what it drew."""

    def __init__(self, place: Path, *, new: bool, persistent: bool = False) -> None:
        self.place, self.new, self.persistent = place, new, persistent

    def live(self, patch: pytest.MonkeyPatch, *, start: int, steps: int, batch: int) -> dict[int, tuple[Any, float]]:
        process = Process()
        patch.setattr(data_order, "random_utils", lambda: process)
        patch.setattr(data_order, "tensors", lambda: process)
        process.rng.seed(1000)
        taken = DataOrder(Ranks({}))
        taken.original = {"cycle": cycle, "save_checkpoint": save}
        taken.resumes_sampler = self.new
        sampler = Sampler(process, batch, new=self.new)
        loader = Loader(process, sampler, persistent_workers=self.persistent)
        if start:
            taken.step, taken.state, taken.resumed = start, self.place / str(start) / "training_state", True
            process.load_rng_state(taken.state)
            if self.new:
                epoch, done = divmod(start, len(sampler))
                taken.sampler_state = {"epoch": epoch, "start_index": done * batch}
                sampler.start = done * batch
            process.rng.random()  # what is drawn until the loop begins
        seen, batches = {}, taken.batches(loader)
        for step in range(start + 1, steps + 1):
            seen[step] = (next(batches), process.rng.random())
            if not (self.place / str(step)).exists():
                taken.save_checkpoint(self.place / str(step), step, process)
        return seen


@pytest.fixture(autouse=True)
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(tensor=int))


@pytest.mark.parametrize("batch", [1, 4, 23, 40])
@pytest.mark.parametrize(
    ("new", "persistent"), [(True, True), (True, False), (False, False)], ids=["0.6", "0.6, no lasting workers", "0.4"]
)
def test_from_every_checkpoint_on_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, new: bool, persistent: bool
) -> None:
    training = Training(tmp_path, new=new, persistent=persistent)
    steps = 3 * -(-FRAMES // batch) + 2
    whole = training.live(monkeypatch, start=0, steps=steps, batch=batch)
    for start in range(1, steps):
        rest = training.live(monkeypatch, start=start, steps=steps, batch=batch)
        assert rest == {step: seen for step, seen in whole.items() if step > start}, f"resumed at {start}"


@pytest.mark.parametrize("new", [True, False], ids=["0.6", "0.4"])
def test_resumed_again_and_again_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: bool) -> None:
    whole = Training(tmp_path / "whole", new=new).live(monkeypatch, start=0, steps=14, batch=4)
    pieces, seen = Training(tmp_path / "pieces", new=new), dict[int, Any]()
    for start, stop in ((0, 2), (2, 3), (3, 5), (5, 9), (9, 11), (11, 14)):
        seen |= pieces.live(monkeypatch, start=start, steps=stop, batch=4)
    assert seen == whole


def test_a_smaller_batch_after_a_resume_repeats_nothing_of_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path, new=False)
    first = training.live(monkeypatch, start=0, steps=3, batch=4)
    rest = training.live(monkeypatch, start=3, steps=9, batch=2)
    frames = [frame for batch, _ in [*first.values(), *rest.values()] for frame in batch]
    assert sorted(frames) == list(range(FRAMES))


def test_a_checkpoint_of_before_says_that_its_order_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training = Training(tmp_path, new=False)
    training.live(monkeypatch, start=0, steps=5, batch=4)
    (tmp_path / "5/training_state" / data_order.EPOCH_RNG).unlink()
    seen = training.live(monkeypatch, start=5, steps=6, batch=4)
    assert len(seen[6][0]) == 4
    assert "the epoch starts again" in capsys.readouterr().out


def test_batches_tell_their_step_to_who_draws_by_it() -> None:
    numbered = data_order.Numbered([[5, 6], [7, 8], [9]], step=40, skip=1, tell=True)
    assert list(numbered) == [[40, 7, 8], [41, 9]]
    assert list(numbered) == [[42, 5, 6], [43, 7, 8], [44, 9]]
    assert len(numbered) == 3


class Scaler:
    """What torch's GradScaler tells and takes."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


def test_gradients_are_scaled_as_before(tmp_path: Path) -> None:
    first, again = DataOrder(Ranks({})), DataOrder(Ranks({}))
    first.original = {"save_checkpoint": save}
    first.restore_state(SimpleNamespace(resume=False), Scaler(2.0**-13))
    first.save_checkpoint(tmp_path / "5", 5, Process())
    found, again.restored = Scaler(2.0**16), True
    again.restore_state(SimpleNamespace(resume=True, checkpoint_path=tmp_path / "5"), found)
    assert found.scale == 2.0**-13

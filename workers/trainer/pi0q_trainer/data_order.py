"""Order of the data: a resumed training gets the batches that it would have got without the stop.

LeRobot saves the random state and restores it too early: what it builds afterwards draws from it. Besides,
    0.6.1  tells its sampler where to go on, but accelerate then sets the sampler's epoch back to 0: from the second
           epoch on, a resume would repeat samples of the first;
    0.4.4  does not restore the order of the data, which it draws from the random state as an epoch begins;
    both   draw image transforms in processes whose random state is nowhere saved (see loader/pi0q_augment_rng.py).
Until it is interrupted a training draws what it would draw without pi0q, except for image transforms.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .ranks import Ranks

#: In training_state/, where LeRobot draws the order of the data from it: the random state as the epoch began.
EPOCH_RNG = "pi0q_epoch_rng.safetensors"
#: In that file: how many samples of the epoch were trained on.
SAMPLES = "pi0q_samples"
#: As LeRobot names the file with a random state.
RNG_STATE = "rng_state.safetensors"
#: In training_state/: by how much gradients are scaled. LeRobot forgets it, and would skip steps to find it again.
SCALER = "pi0q_scaler.json"
#: In training_state/, of several ranks: a directory with the random state of each but the first, as LeRobot writes it.
RANK_STATE = "pi0q_rank{rank}"


class Numbered:
    """A batch sampler whose batches begin with their step; skips what was trained on of its first epoch."""

    def __init__(self, sampler: Any, *, step: int, skip: int, tell: bool) -> None:
        self.sampler, self.step, self.skip, self.tell = sampler, step, skip, tell

    def __iter__(self) -> Iterator[list[int]]:
        skip, self.skip = self.skip, 0
        for indices in itertools.islice(iter(self.sampler), skip, None):
            yield [self.step, *indices] if self.tell else indices
            self.step += 1

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["sampler"], name)


class Epochs:
    """A data loader that calls `begins` when it begins an epoch."""

    def __init__(self, loader: Any, begins: Callable[[], None]) -> None:
        self.loader, self.begins = loader, begins

    def __iter__(self) -> Iterator[Any]:
        self.begins()
        return iter(self.loader)


class DataOrder:
    """Stands in for functions of LeRobot's train script, as `Hook` does."""

    NEEDED = ("cycle", "load_training_state")
    WELCOME = (
        "compute_sampler_state",
        "make_dataset",
        "make_train_eval_datasets",
        "_dataloader_worker_kwargs",
        "save_checkpoint",
    )

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.original: dict[str, Any] = {}
        #: Step and training_state/ of the checkpoint that this training goes on from.
        self.step, self.state = 0, Path()
        self.resumed = self.restored = False
        self.numbers_batches = False
        #: Where LeRobot found that the data go on; empty where it does not look.
        self.sampler_state: dict[str, int] = {}
        self.resumes_sampler = False
        #: The random state as the present epoch began, the step of its first batch, and the samples of a batch.
        self.epoch_rng: dict[str, Any] = {}
        self.epoch_step = self.batch_size = 0
        #: Of accelerate, where gradients of half precision are scaled.
        self.scaler: Any = None

    def install(self, train: Any) -> None:
        if all(hasattr(train, name) for name in self.NEEDED):
            self.resumes_sampler = hasattr(train, "compute_sampler_state")
            for name in (*self.NEEDED, *self.WELCOME):
                if hasattr(train, name):
                    self.original[name] = getattr(train, name)
                    setattr(train, name, getattr(self, name))

    def restore_state(self, cfg: Any, scaler: Any) -> None:
        """Restore the random state before the first step if nothing else did, and the scaler."""
        self.scaler = scaler
        if not cfg.resume:
            return
        state = Path(cfg.checkpoint_path) / "training_state"
        if not self.restored:
            self.state = state
            self.restore()
        if scaler is not None and (file := state / SCALER).exists():
            scaler.load_state_dict(json.loads(file.read_text()))

    # What LeRobot calls, in this order.

    def make_dataset(self, cfg: Any) -> Any:
        dataset = self.original["make_dataset"](cfg)
        self.number_batches(cfg, dataset)
        return dataset

    def make_train_eval_datasets(self, cfg: Any) -> Any:
        train, held_out = self.original["make_train_eval_datasets"](cfg)
        self.number_batches(cfg, train)
        return train, held_out

    def number_batches(self, cfg: Any, dataset: Any) -> None:
        if not cfg.dataset.image_transforms.enable or cfg.dataset.streaming or hasattr(dataset, "__getitems__"):
            return
        # At the end, and for good: workers that are started afresh find it where their parent did.
        sys.path.append(str(Path(__file__).with_name("loader")))
        augment_rng = importlib.import_module("pi0q_augment_rng")
        dataset.__getitems__ = functools.partial(augment_rng.fetch, dataset, cfg.seed or 0, rank=self.ranks.rank)
        self.numbers_batches = True

    def load_training_state(self, checkpoint: Path, *args: Any, **kwargs: Any) -> Any:
        found = self.original["load_training_state"](checkpoint, *args, **kwargs)
        self.step, self.state, self.resumed = found[0], Path(checkpoint) / "training_state", True
        return found

    def _dataloader_worker_kwargs(self, cfg: Any) -> Any:
        made = self.original["_dataloader_worker_kwargs"](cfg)
        if cfg.eval_steps and made.get("persistent_workers"):
            # Lasting workers cost a draw when they start: at the first evaluation, or once more after a resume.
            return {**made, "generator": sys.modules["torch"].Generator().manual_seed(cfg.seed or 0)}
        return made

    def cycle(self, loader: Any) -> Any:
        torch = sys.modules["torch"]
        if isinstance(loader.dataset, torch.utils.data.IterableDataset):
            if self.resumed:
                print(
                    "pi0q: a streamed dataset starts from its beginning: LeRobot does not save its position", flush=True
                )
            return self.original["cycle"](loader)
        return self.batches(loader)

    def compute_sampler_state(self, *args: Any, **kwargs: Any) -> Any:
        self.sampler_state = self.original["compute_sampler_state"](*args, **kwargs)
        return self.sampler_state

    def batches(self, loader: Any) -> Iterator[Any]:
        """Yield each batch from the checkpoint's step on; around the first one the random state becomes what it was."""
        base = getattr(loader, "base_dataloader", loader)
        self.batch_size = base.batch_sampler.batch_size
        done = self.skip_to_checkpoint(loader) if self.resumed else 0
        skip = 0 if self.resumes_sampler and self.ranks.count == 1 else done
        numbered = Numbered(base.batch_sampler, step=self.step, skip=skip, tell=self.numbers_batches)
        # A DataLoader lets nobody set this: it is itself what tells its workers what to load.
        object.__setattr__(base, "batch_sampler", numbered)
        batches = self.original["cycle"](Epochs(loader, lambda: self.on_epoch(numbered)))
        if self.resumed:
            # What beginning an epoch draws came after this checkpoint, or before it; lasting workers draw nothing.
            after = done == 0 and not loader.persistent_workers
            if after:
                self.restore()
            first = next(batches)
            if not after:
                self.restore()
            yield first
        yield from batches

    def skip_to_checkpoint(self, loader: Any) -> int:
        """Set the loader to the checkpoint's epoch; return how many batches of it were trained on."""
        if self.sampler_state:
            loader.iteration = self.sampler_state["epoch"]
            if self.ranks.count > 1:
                # accelerate fills an epoch's last batches up with its first ones: these are to be those of the epoch,
                # not those after the checkpoint.
                from_the_start(loader)
            return int(self.sampler_state["start_index"]) // (self.batch_size * self.ranks.count)
        file = self.state / EPOCH_RNG
        if not file.exists():
            if self.step % len(loader):
                print("pi0q: this checkpoint does not hold the order of its data: the epoch starts again", flush=True)
            return 0
        kept = tensors().load_file(file)
        # Another batch size than before: no sample twice, as far as whole batches go.
        done = int(kept.pop(SAMPLES)) // self.batch_size
        if done >= len(loader):
            return 0
        random_utils().deserialize_rng_state(kept)
        return done

    def on_epoch(self, numbered: Numbered) -> None:
        self.epoch_step = numbered.step - numbered.skip
        if not self.resumes_sampler:
            self.epoch_rng = random_utils().serialize_rng_state()

    def save_checkpoint(self, checkpoint_dir: Path, step: int, *args: Any, **kwargs: Any) -> Any:
        result = self.original["save_checkpoint"](checkpoint_dir, step, *args, **kwargs)
        if self.scaler is not None:
            (checkpoint_dir / "training_state" / SCALER).write_text(json.dumps(self.scaler.state_dict()))
        if self.epoch_rng:
            samples = sys.modules["torch"].tensor((step - self.epoch_step) * self.batch_size)
            kept = {**self.epoch_rng, SAMPLES: samples}
            tensors().save_file(kept, checkpoint_dir / "training_state" / EPOCH_RNG)
        return result

    def keep_states_of_ranks(self, checkpoint_dir: Path) -> None:
        """Write the random states of the other ranks into the checkpoint that LeRobot has just written."""
        for rank, state in self.ranks.states().items():
            place = checkpoint_dir / "training_state" / RANK_STATE.format(rank=rank)
            place.mkdir(exist_ok=True)
            (place / RNG_STATE).write_bytes(state)

    def restore(self) -> None:
        self.restored, own = True, self.state / RANK_STATE.format(rank=self.ranks.rank)
        if self.ranks.rank and not own.is_dir():
            print(
                f"pi0q: this checkpoint has no random state of rank {self.ranks.rank}: that of rank 0 is taken",
                flush=True,
            )
        random_utils().load_rng_state(own if own.is_dir() else self.state)


def own_state() -> bytes:
    """Return the random state of this process as LeRobot writes it."""
    with tempfile.TemporaryDirectory() as place:
        random_utils().save_rng_state(Path(place))
        return (Path(place) / RNG_STATE).read_bytes()


def from_the_start(loader: Any) -> None:
    """Let LeRobot's sampler begin its epoch at the first sample; it lies below accelerate's and torch's."""
    inner = getattr(loader, "base_dataloader", loader).batch_sampler
    while not hasattr(inner, "load_state_dict"):
        inner = inner.batch_sampler if hasattr(inner, "batch_sampler") else inner.sampler
    inner.load_state_dict({**inner.state_dict(), "start_index": 0})


def random_utils() -> Any:
    return importlib.import_module("lerobot.utils.random_utils")


def tensors() -> Any:
    return importlib.import_module("safetensors.torch")

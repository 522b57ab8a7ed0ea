"""What `pi0q up --demo` adds: a dataset of noise and a stand-in tokenizer, so that the quickstart job runs as it is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from pi0q.jobs.errors import Pi0qError
from pi0q.ops.local import standins_main
from pi0q.queue.settings import Settings
from pi0q.workers.trainer import interpreter
from pi0q.workers.trainer.interpreter import NoTrainer

#: The dataset that jobs/examples/quickstart.yaml and act.yaml name, below PI0Q_HOME.
DATASET = Path("datasets") / "grab_box"
#: The Hugging Face cache of the demo's worker, below PI0Q_HOME: a stand-in never lies in a real cache.
HUB_CACHE = Path("demo") / "huggingface"
#: Seconds that LeRobot may take to import and write the dataset on a slow disk.
MAKE_SECONDS = 600.0


def prepare(settings: Settings, say: Callable[[str], None]) -> dict[str, str]:
    """Make what is not there yet; return the worker's environment variables of the demo.

    Raises Pi0qError where no Python with LeRobot is found or LeRobot cannot write the dataset.
    """
    trainer = interpreter.find(settings)
    if isinstance(trainer, NoTrainer):
        raise Pi0qError(f"The demo needs LeRobot: {trainer.why}. Nothing was started.")
    dataset, cache = settings.home / DATASET, settings.home / HUB_CACHE
    if not dataset.exists():
        say(f"Making a dataset of noise in {dataset} …")
        _make(trainer.python, "dataset", dataset)
    if not trainer.lerobot.startswith("0.4."):
        _make(trainer.python, "tokenizer", cache)
    example = "act.yaml" if trainer.lerobot.startswith("0.4.") else "quickstart.yaml"
    say(f"Demo data are ready for LeRobot {trainer.lerobot}. Try: pi0q submit jobs/examples/{example}")
    return {"PI0Q_HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}


def _make(python: str, kind: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    command = [python, standins_main.__file__, kind, str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAKE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Pi0qError(f"{python} could not make the demo's {kind}: {error}. Nothing was started.") from None
    if done.returncode:
        last = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-5:])
        raise Pi0qError(
            f"{python} could not make the demo's {kind}; its last lines:\n{last}\nNothing was started. Fix: pi0q doctor"
        )

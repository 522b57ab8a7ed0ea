"""Trainers on the real LeRobot that cost no imports: one process imports it (15 to 30 s), and each trainer is its fork.

The hook, LeRobot's train script and all it draws from are what `python pi0q_trainer` would have; only the interpreter's
start is left out, which test_trainer_real.py has. Its end is told in steps: `SIGKILL@9` dies as step 9 ends,
`SIGKILL@9+0.07` that many seconds later, wherever it is then; `SIGKILL@9#1` is rank 1 of several.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

#: ACT as small as it gets; its backbone begins without downloaded weights.
ACT = (
    "--policy.type=act",
    "--policy.dim_model=64",
    "--policy.n_heads=2",
    "--policy.dim_feedforward=128",
    "--policy.n_encoder_layers=1",
    "--policy.n_vae_encoder_layers=1",
    "--policy.chunk_size=8",
    "--policy.n_action_steps=8",
    "--policy.pretrained_backbone_weights=null",
)
PI0 = ("--policy.type=pi0", "--policy.dtype=bfloat16", "--policy.pretrained_path=lerobot/pi0_base")


class Life:
    """One trainer, from its start to its end."""

    def __init__(self, events: Path, code: int, log: Path) -> None:
        #: Its exit code, negative for a signal.
        self.code = code
        self.log = log
        self.events = [json.loads(line) for line in events.read_text().splitlines()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def losses(self) -> dict[int, float]:
        return {event["step"]: event["loss"] for event in self.of("step")}

    def saved(self) -> list[int]:
        return [event["step"] for event in self.of("saved")]


class ForkServer:
    """Holds the process that has imported LeRobot."""

    def __init__(self, place: Path) -> None:
        self.place = place
        quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **quiet, "HF_HOME": str(place / "hf"), "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def live(self, name: str, flags: list[str], *, end: str = "", **env: str) -> Life:
        """A trainer with these flags; `end` as SIGNAL@STEP, or it goes on to its last step. RANKS: how many (1)."""
        self.start(name, flags, end=end, **env)
        return Life(self.events(name), self.wait(), self.place / f"{name}.log")

    def start(self, name: str, flags: list[str], *, end: str = "", **env: str) -> int:
        """Starts a trainer, one at a time; returns its pid. `wait` gives its exit code."""
        events, log = self.events(name), self.place / f"{name}.log"
        events.unlink(missing_ok=True)
        events.touch()
        ranks = int(env.pop("RANKS", "1"))
        own = {**env, "PI0Q_EVENTS": str(events)}
        order = {"flags": flags, "env": own, "log": str(log), "end": end, "ranks": ranks}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.wait()

    def events(self, name: str) -> Path:
        return self.place / f"{name}.events"

    def wait(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def common(place: Path, *, steps: int, **more: object) -> list[str]:
    """Flags of a run on the first 50 frames: seven batches an epoch."""
    # Not at the top: this file is also a script, which finds no `tests`.
    from tests import real_lerobot

    flags = {
        "dataset.repo_id": "local/grab_box",
        "dataset.root": place / "dataset",
        "dataset.episodes": "[0]",
        "policy.device": "cpu",
        "policy.push_to_hub": "false",
        "batch_size": 8,
        real_lerobot.NO_EVALUATION: 0,
        "steps": steps,
        **more,
    }
    return [f"--{name}={value}" for name, value in flags.items()]


def resume(output: Path, step: int) -> list[str]:
    config = output / "checkpoints" / f"{step:06d}" / "pretrained_model/train_config.json"
    return [f"--config_path={config}", "--resume=true", f"--output_dir={output}"]


def digests(output: Path, step: int) -> dict[str, str]:
    """SHA-256 of what a checkpoint holds, all but the configuration, which names its own directory."""
    checkpoint = output / "checkpoints" / f"{step:06d}"
    state = [file for file in (checkpoint / "training_state").rglob("*") if file.is_file()]
    files = [checkpoint / "pretrained_model/model.safetensors", *state]
    return {str(file.relative_to(checkpoint)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# Within the process that has imported LeRobot.


def end_at(train: Any, name: str, at: int, later: float) -> None:
    """As the step ends and before the hook hears of it; a signal that is not deadly is heard by the hook."""
    update = train.update_policy

    def update_policy(tracker: Any, *args: Any, **kwargs: Any) -> Any:
        result = update(tracker, *args, **kwargs)
        if tracker.steps + 1 == at:
            end = threading.Timer(later, os.kill, [os.getpid(), signal.Signals[name]])
            end.run() if later == 0 else end.start()
        return result

    train.update_policy = update_policy


def be_a_trainer(order: dict[str, Any], train: Any, start: Any) -> None:
    os.environ.update(order["env"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["lerobot-train", *order["flags"]]
    end, _, of_rank = order["end"].partition("#")
    if end and int(of_rank or 0) == int(os.environ.get("RANK", "0")):
        name, _, when = end.partition("@")
        step, _, later = when.partition("+")
        end_at(train, name, int(step), float(later or 0))
    code = 1
    try:
        start.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def main() -> None:
    train = importlib.import_module("lerobot.scripts.lerobot_train")
    start = importlib.import_module("pi0q.workers.trainer.pi0q_trainer.main")
    ranks = importlib.import_module("pi0q.workers.trainer.ranks")
    for line in sys.stdin:
        order = json.loads(line)
        with ranks.Meeting(order["ranks"]) if order["ranks"] > 1 else contextlib.nullcontext() as meeting:
            children = [fork(order, train, start, meeting, rank) for rank in range(order["ranks"])]
        print(children[0], flush=True)
        print(see_through(children, ranks), flush=True)


def fork(order: dict[str, Any], train: Any, start: Any, meeting: Any, rank: int) -> int:
    child = os.fork()
    if not child:
        if meeting:
            order["env"] = meeting.env(order["env"], rank)
            # An exec would have closed those of the others.
            kept = meeting.handles(rank)
            for other in {handle for each in range(meeting.count) for handle in meeting.handles(each)} - {*kept}:
                os.close(other)
            order["log"] += f".rank{rank}" if rank else ""
        be_a_trainer(order, train, start)
    return child


def see_through(children: list[int], ranks: Any) -> int:
    """Return the exit code that tells why they ended, as the runner does."""
    ends: list[Any] = []
    for number in range(len(children)):
        pid, status = os.wait()
        ends.append(ranks.RankEnd(rank=children.index(pid), code=os.waitstatus_to_exitcode(status), at=number))
        if ends[-1].ends_all:
            for child in set(children) - {children[end.rank] for end in ends}:
                os.kill(child, signal.SIGKILL)
    return int(ranks.decisive(ends).code)


if __name__ == "__main__":
    main()

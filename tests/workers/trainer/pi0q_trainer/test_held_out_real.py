"""Held-out loss on this interpreter's LeRobot: its own evaluation, saves at the best, an early stop, a kill between."""

from __future__ import annotations

import re

import pytest

from tests import real_lerobot
from tests.workers.trainer import fork_server
from tests.workers.trainer.fork_server import ForkServer, digests, resume

pytestmark = [pytest.mark.real, real_lerobot.NEEDED]


def test_killed_and_resumed_equals_never_killed(home: ForkServer) -> None:
    """A training whose learning rate is far too high: its held-out loss soon becomes no better."""
    if not real_lerobot.takes("eval_steps"):
        pytest.skip("this LeRobot evaluates on no held-out episodes")
    more = {"dataset.episodes": "[0,1]", "dataset.eval_split": 0.5, "eval_steps": 2, "max_eval_samples": 16}
    flags = [
        *fork_server.common(home.place, steps=40, num_workers=0, save_freq=1000, log_freq=1000, **more),
        *fork_server.ACT,
        "--policy.optimizer_lr=0.03",
    ]
    env = {"PI0Q_BEST": "eval_loss", "PI0Q_PATIENCE": "3"}
    whole = home.live("held-whole", [*flags, f"--output_dir={home.place / 'held-whole'}"], **env)
    assert whole.code == 78, whole.log.read_text()[-3000:]
    told = whole.of("evaluated")
    # LeRobot prints the same, rounded.
    printed = re.findall(r"step (\d+): eval_loss=(\S+)", whole.log.read_text())
    assert printed == [(str(event["step"]), f"{event['eval_loss']:.4f}") for event in told]
    best = min(told, key=lambda event: event["eval_loss"])
    (end,) = whole.of("early_stop")
    assert (end["best_step"], end["best_loss"]) == (best["step"], best["eval_loss"])
    assert end["since_best"] == 3 and end["step"] == best["step"] + 6
    assert whole.saved() == [event["step"] for event in told if event["best"]] + [end["step"]]

    killed = home.live(
        "held-killed", [*flags, f"--output_dir={home.place / 'held-killed'}"], end=f"SIGKILL@{best['step'] + 3}", **env
    )
    assert killed.code == -9 and killed.saved()[-1] == best["step"]
    resumed = home.live("held-resumed", resume(home.place / "held-killed", best["step"]), **env)
    assert resumed.code == 78
    again = [(event["step"], event["eval_loss"]) for event in resumed.of("evaluated")]
    assert again == [(event["step"], event["eval_loss"]) for event in told if event["step"] > best["step"]]
    assert (
        resumed.of("early_stop")[0].items() >= {name: end[name] for name in ("step", "best_step", "since_best")}.items()
    )
    assert digests(home.place / "held-killed", end["step"]) == digests(home.place / "held-whole", end["step"])

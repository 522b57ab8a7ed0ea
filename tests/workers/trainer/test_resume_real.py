"""A training that was killed, stopped and resumed equals the one that never was, on this interpreter's LeRobot.

Bit for bit on the CPU: each loss, and at the end the weights, the optimizer and the random state. The runs are longer
than an epoch: what LeRobot itself gets right, it gets right in the first one only.
"""

from __future__ import annotations

import pytest

from pi0q.ops.local import standins_main
from tests import real_lerobot
from tests.workers.trainer import fork_server
from tests.workers.trainer.fork_server import ForkServer, Life, digests

pytestmark = [
    pytest.mark.real,
    real_lerobot.NEEDED,
]


def whole_and_pieces(home: ForkServer, name: str, flags: list[str], *, ends: list[tuple[str, int]], **env: str) -> None:
    """Once unkilled, and once ended as `ends` say (SIGNAL@STEP, and the checkpoint that the next life goes on from)."""
    one, other = home.place / f"{name}-whole", home.place / f"{name}-pieces"
    whole = home.live(f"{name}-whole", [*flags, f"--output_dir={one}"], **env)
    assert whole.code == 0, whole.log.read_text()[-3000:]
    told, start = dict[int, float](), [*flags, f"--output_dir={other}"]
    lives = list[Life]()
    for end, checkpoint in ends:
        lives.append(home.live(f"{name}-{len(lives)}", start, end=end, **env))
        told |= lives[-1].losses()
        start = fork_server.resume(other, checkpoint)
    last = home.live(f"{name}-last", start, **env)
    assert [life.code for life in lives] == [75 if "TERM" in end else -9 for end, _ in ends]
    assert last.code == 0, last.log.read_text()[-3000:]
    assert min(last.losses()) == ends[-1][1] + 1
    assert told | last.losses() == whole.losses()
    steps = max(whole.losses())
    assert digests(other, steps) == digests(one, steps)


def test_act_killed_and_stopped_equals_the_run_that_never_was(home: ForkServer) -> None:
    """The shortest of its kind, for the quick tier."""
    flags = fork_server.common(home.place, steps=5, save_freq=2, num_workers=0)
    whole_and_pieces(home, "act-short", [*flags, *fork_server.ACT], ends=[("SIGKILL@3", 2), ("SIGTERM@4", 4)])


def test_act_with_workers_and_image_transforms(home: ForkServer) -> None:
    context = "dataloader_multiprocessing_context"
    more = {context: "fork"} if real_lerobot.takes(context) else {}
    flags = fork_server.common(
        home.place, steps=17, save_freq=5, num_workers=2, **more,
        **{"dataset.image_transforms.enable": "true"},
    )  # fmt: skip
    # Killed between checkpoints in the second epoch; stopped where the third begins, which no save_freq asked for.
    whole_and_pieces(home, "act", [*flags, *fork_server.ACT], ends=[("SIGKILL@9", 5), ("SIGTERM@14", 14)])


@real_lerobot.PI0_NEEDED
def test_shrunk_pi0(home: ForkServer) -> None:
    standins_main.make_tokenizer(home.place / "hf")
    flags = fork_server.common(home.place, steps=10, save_freq=100, num_workers=0)
    ends = [("SIGTERM@3", 3), ("SIGTERM@8", 8)]
    whole_and_pieces(home, "pi0", [*flags, *fork_server.PI0], ends=ends, PI0Q_REHEARSAL="1")

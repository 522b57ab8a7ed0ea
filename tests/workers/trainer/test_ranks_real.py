"""Several ranks, killed, stopped and resumed, equal those that never were: bit for bit, on the real LeRobot."""

from __future__ import annotations

import pytest

from pi0q.ops.local import standins_main
from tests import real_lerobot
from tests.workers.trainer import fork_server
from tests.workers.trainer.fork_server import ForkServer, Life, digests

pytestmark = [
    pytest.mark.real,
    real_lerobot.NEEDED,
    pytest.mark.skipif(real_lerobot.VERSION.startswith("0.4."), reason="LeRobot 0.4 keeps no order of data for ranks"),
]


def whole_and_pieces(
    home: ForkServer, name: str, flags: list[str], ranks: int, ends: list[tuple[str, int]], **env: str
) -> None:
    """Once unkilled, and once ended as `ends` say (SIGNAL@STEP#RANK, and the checkpoint that is gone on from)."""
    one, other = home.place / f"{name}-whole", home.place / f"{name}-pieces"
    whole = home.live(f"{name}-whole", [*flags, f"--output_dir={one}"], RANKS=str(ranks), **env)
    assert whole.code == 0, whole.log.read_text()[-3000:]
    told, start, lives = dict[int, float](), [*flags, f"--output_dir={other}"], list[Life]()
    for end, checkpoint in ends:
        lives.append(home.live(f"{name}-{len(lives)}", start, end=end, RANKS=str(ranks), **env))
        told |= lives[-1].losses()
        start = fork_server.resume(other, checkpoint)
    last = home.live(f"{name}-last", start, RANKS=str(ranks), **env)
    assert [life.code for life in lives] == [75 if "TERM" in end else -9 for end, _ in ends]
    assert last.code == 0, last.log.read_text()[-3000:]
    assert min(last.losses()) == ends[-1][1] + 1
    assert told | last.losses() == whole.losses()
    steps = max(whole.losses())
    assert digests(other, steps) == digests(one, steps)
    assert f"training_state/pi0q_rank{ranks - 1}/rng_state.safetensors" in digests(one, steps)


def test_two_ranks_of_act_resume_within_an_epoch_that_ends_uneven(home: ForkServer) -> None:
    """Seven batches an epoch are four steps of two ranks: the last one repeats the epoch's first batch."""
    flags = [*fork_server.common(home.place, steps=9, save_freq=2, num_workers=0), *fork_server.ACT]
    whole_and_pieces(home, "act2", flags, 2, [("SIGKILL@3#1", 2), ("SIGTERM@5", 5), ("SIGKILL@9", 8)])


@real_lerobot.PI0_NEEDED
def test_three_ranks_of_shrunk_pi0_with_a_stop_that_one_of_them_heard(home: ForkServer) -> None:
    standins_main.make_tokenizer(home.place / "hf")
    # Rank 2 tells rank 0 before its next step, at whose end all save and stop.
    flags = fork_server.common(home.place, steps=7, save_freq=100, num_workers=0)
    ends = [("SIGTERM@2#2", 3), ("SIGTERM@5", 5)]
    whole_and_pieces(home, "pi03", [*flags, *fork_server.PI0], 3, ends, PI0Q_REHEARSAL="1")

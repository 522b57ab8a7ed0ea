"""One life of a trainer of several ranks: the real hooks on the fake LeRobot, seen through to their end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from pi0q.workers.checkpoints import local_store
from pi0q.workers.host import process_tree
from pi0q.workers.runs.stop import StopCause
from tests.workers.runner.test_supervisor import Life, life

__all__ = ["life"]

SLOW = "0.02"


def losses(life: Life) -> dict[int, float]:
    told = [json.loads(line) for line in life.directory.events.read_text().splitlines()]
    return {event["step"]: event["loss"] for event in told if event["event"] == "step"}


def pids(life: Life) -> list[int]:
    return [pid for pid in process_tree.marked(life.job, 1) if b"RANK=" in Path(f"/proc/{pid}/environ").read_bytes()]


def pid_of(life: Life, rank: int) -> int:
    wanted = f"\0RANK={rank}\0".encode()
    return next(pid for pid in pids(life) if wanted in Path(f"/proc/{pid}/environ").read_bytes())


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_train_to_the_end_and_each_has_its_state_and_log(life: Life, ranks: int) -> None:
    end = life.start("--steps=6", "--save_freq=3", ranks=ranks).run()
    assert (end.code, end.rank) == (0, 0)
    assert life.events().count("step") == 6 and life.events().count("saved") == 2
    (saved,) = [life.progress.fields["checkpoint"]]
    assert saved.step == 6 and local_store.newest(life.directory.checkpoints) == saved
    for rank in range(1, ranks):
        assert (Path(saved.path) / f"training_state/pi0q_rank{rank}/rng_state.safetensors").stat().st_size > 0
        assert life.log.ranks.logs[rank].recent()[0] == f"FAKE rank {rank} of {ranks}"
        assert f"FAKE rank {rank}" not in life.directory.log.read_text()
    assert f"pi0q_rank{ranks}" not in str([*Path(saved.path).rglob("*")])


def test_a_stop_saves_first_whatever_rank_hears_of_it(life: Life) -> None:
    training = life.start("--steps=10000", "--save_freq=10000", ranks=3, FAKE_STEP_SECONDS=SLOW)
    life.at_step(3, lambda: os.kill(pid_of(life, 2), signal.SIGTERM))
    assert training.run().code == 75
    (kept,) = life.steps_kept()
    assert life.progress.fields["checkpoint"].step == int(kept) == life.progress.fields["step"]


def test_told_to_stop_by_the_runner_it_saves_first(life: Life) -> None:
    training = life.start("--steps=10000", "--save_freq=10000", ranks=2, FAKE_STEP_SECONDS=SLOW)
    life.at_step(3, lambda: training.stop(StopCause.FENCED))
    assert (training.run().code, len(life.steps_kept())) == (75, 1)


def test_a_save_on_demand_is_that_of_all_ranks_and_the_training_goes_on(life: Life) -> None:
    training = life.start("--steps=40", "--save_freq=1000", ranks=2, FAKE_STEP_SECONDS=SLOW)
    life.at_step(3, lambda: training.process.send(signal.SIGUSR1))
    assert training.run().code == 0
    asked, last = life.steps_kept()
    assert int(asked) < 40 == int(last)
    assert life.events().count("step") == 40


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_is_killed_ends_all_with_its_cause(life: Life, rank: int) -> None:
    training = life.start("--steps=100000", ranks=3, FAKE_STEP_SECONDS=SLOW)
    life.at_step(3, lambda: os.kill(pid_of(life, rank), signal.SIGKILL))
    end = training.run()
    assert (end.code, end.rank) == (-signal.SIGKILL, rank)
    assert process_tree.marked(life.job, 1) == []
    assert life.progress.raised_by(rank) == (None, ()), "what its end did to the others is no cause"


def test_a_rank_that_raises_ends_all_with_its_exception_and_log(life: Life) -> None:
    end = life.start("--steps=6", ranks=2, FAKE_FAULT="oom@3#1").run()
    error, _ = life.progress.raised_by(end.rank)
    assert (end.code, end.rank) == (1, 1) and error and error.kind == "OutOfMemoryError"
    assert life.progress.error is None
    assert any("CUDA out of memory" in line for line in life.log.ranks.logs[1].recent())


def test_a_loss_that_is_not_finite_on_one_rank_ends_all_before_a_save(life: Life) -> None:
    end = life.start("--steps=6", "--save_freq=3", ranks=2, FAKE_FAULT="nan@3#1").run()
    error, _ = life.progress.raised_by(end.rank)
    assert (end.code, end.rank) == (76, 1) and error and error.kind == "NonFiniteLoss"
    assert local_store.newest(life.directory.checkpoints) is None


def test_a_rank_killed_within_a_save_ends_all_and_leaves_the_checkpoint_before(life: Life) -> None:
    training = life.start("--steps=9", "--save_freq=3", ranks=2, FAKE_FAULT="killsave@5")
    assert training.run().code == -signal.SIGKILL
    newest = local_store.newest(life.directory.checkpoints)
    assert newest and newest.step == 3


def test_the_lease_of_each_rank_ends_it(life: Life) -> None:
    training = life.start("--steps=100000", ranks=2, PI0Q_LEASE=str(life.directory.lease), FAKE_STEP_SECONDS=SLOW)
    life.at_step(3, lambda: life.directory.lease.write_bytes(bytes(16)))
    assert training.run().code in (75, 77)
    assert process_tree.marked(life.job, 1) == []


def test_killed_and_resumed_equals_never_killed(life: Life, tmp_path: Path) -> None:
    assert life.start("--steps=9", "--save_freq=3", ranks=3).run().code == 0
    whole, state = losses(life), "training_state/pi0q_rank2/rng_state.safetensors"
    states = (life.directory.checkpoints / "000009" / state).read_bytes()
    other = Life(tmp_path / "other")
    assert other.start("--steps=9", "--save_freq=3", ranks=3, FAKE_FAULT="kill@5#2").run().code == -9
    config = other.directory.checkpoints / "000003/pretrained_model/train_config.json"
    assert other.start(f"--config_path={config}", "--resume=true", ranks=3).run().code == 0
    assert losses(other) == whole
    assert (other.directory.checkpoints / "000009" / state).read_bytes() == states
    other.close()


def test_wandb_that_fails_makes_rank_0_begin_anew_before_the_ranks_meet(life: Life) -> None:
    flags = ("--steps=4", "--wandb.enable=true", "--wandb.run_id=a1")
    end = life.start(*flags, ranks=2, FAKE_WANDB="refused").run()
    assert end.code == 0 and "pi0q: WandB failed" in life.directory.log.read_text()
    (told,) = [json.loads(line) for line in life.directory.events.read_text().splitlines() if '"wandb"' in line]
    assert told["offline"] is True


def test_a_rank_that_comes_late_finds_the_output_directory_that_wandb_made_and_trains(life: Life) -> None:
    flags = ("--steps=4", "--wandb.enable=true", "--wandb.run_id=a1")
    end = life.start(*flags, ranks=2, FAKE_LATE_RANK="1").run()
    assert end.code == 0, life.directory.log.read_text()


def test_a_rank_that_hangs_is_ended_with_the_others_and_its_stack_is_in_its_log(life: Life, tmp_path: Path) -> None:
    life.hang_seconds, hangs = 0.5, tmp_path / "hangs"
    training = life.start("--steps=1000", ranks=2, FAKE_FAULT="hang@4#1", FAKE_FAULT_ONCE=str(hangs))
    life.when(hangs.exists, lambda: training.stop(StopCause.HUNG))
    assert training.run().code != 0
    assert process_tree.marked(life.job, 1) == []
    assert any("before_step" in line for line in life.log.ranks.logs[1].recent())


def test_a_cancel_ends_all_ranks_without_a_save(life: Life) -> None:
    training = life.start("--steps=10000", "--save_freq=10000", ranks=3, FAKE_STEP_SECONDS=SLOW)
    life.at_step(3, lambda: training.stop(StopCause.CANCEL))
    assert training.run().code != 0
    assert life.steps_kept() == [] and process_tree.marked(life.job, 1) == []


def test_a_disk_that_is_full_at_a_save_is_the_cause_and_the_checkpoint_before_it_stays(life: Life) -> None:
    end = life.start("--steps=9", "--save_freq=3", ranks=2, FAKE_FAULT="enospc@5").run()
    assert (end.code, end.rank) == (1, 0) and life.progress.error and life.progress.error.kind == "OSError"
    newest = local_store.newest(life.directory.checkpoints)
    assert newest and newest.step == 3

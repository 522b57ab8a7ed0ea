"""Names that the trainer's payload and the worker must agree on."""

from __future__ import annotations

import pytest

from pi0q.workers.runs import wandb_runs
from pi0q.workers.trainer.pi0q_trainer import exits, wandb_init


def test_payload_and_worker_share_the_wandb_marks() -> None:
    assert wandb_runs.LEFT == exits.LEFT
    assert wandb_runs.DELETED == wandb_init.DELETED


@pytest.mark.parametrize("run_id", ["pi0q-a1", "pi0q-a1.2", "pi0q-a1.9", "odd.name", "x.10"])
def test_payload_and_worker_name_the_following_run_alike(run_id: str) -> None:
    assert wandb_runs.following(run_id) == wandb_init.following(run_id)

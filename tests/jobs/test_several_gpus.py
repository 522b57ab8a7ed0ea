"""What a job on several GPUs is told."""

from __future__ import annotations

import pytest

from pi0q.jobs import several_gpus
from pi0q.jobs.spec import Resources, Spec


def spec(gpus: int | None) -> Spec:
    return Spec(name="n", train={"batch_size": 8}, resources=Resources(gpus=gpus))


@pytest.mark.parametrize(("gpus", "ranks"), [(None, 1), (0, 1), (1, 1), (3, 3)])
def test_ranks_is_one_trainer_a_gpu_and_one_on_the_cpu(gpus: int | None, ranks: int) -> None:
    assert several_gpus.ranks(spec(gpus)) == ranks


def test_batch_note_tells_what_a_step_sees() -> None:
    assert several_gpus.batch_note(spec(1)) == ""
    assert several_gpus.batch_note(spec(3)) == ("batch 8 on each of 3 GPUs: 24 a step; the learning rate is not scaled")


@pytest.mark.parametrize(
    ("gpus", "lerobot", "refused"), [(2, "0.4.4", True), (1, "0.4.4", False), (2, "0.5.1", False), (2, "0.6.1", False)]
)
def test_version_fault_refuses_several_gpus_where_no_order_of_data_is_kept(
    gpus: int, lerobot: str, refused: bool
) -> None:
    fault = several_gpus.version_fault(spec(gpus), lerobot)
    assert bool(fault) is refused and ("Fix: " in fault) is refused

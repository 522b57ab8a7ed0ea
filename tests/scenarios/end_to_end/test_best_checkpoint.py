"""A job that keeps its best checkpoint on held-out episodes and stops early, across an interruption."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.best_checkpoint import Best
from pi0q.jobs.spec import parse
from pi0q.jobs.start_point import reference_of
from pi0q.jobs.state import State
from pi0q.queue.start_points import choose
from pi0q.workers.checkpoints import local_store

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster

LOSSES = {10: 0.9, 20: 0.4, 30: 0.7, 40: 0.6, 50: 0.5, 60: 0.45}


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster) -> Box:
    return shared_cluster.box(FAKE_EVAL_LOSSES=json.dumps({str(step): loss for step, loss in LOSSES.items()}))


def test_the_best_one_is_kept_shown_and_started_from_and_patience_ends_the_job(
    shared_cluster: Cluster, box: Box
) -> None:
    cluster = shared_cluster
    job = cluster.submit(
        steps=100_000, save_freq=15, checkpoints={"every": None, "keep": 1, "best": "eval_loss", "patience": 4},
        flags={"eval_steps": 10, "dataset.eval_split": 0.2},
    )  # fmt: skip
    cluster.slow_down(31)
    cluster.until(job, lambda record: record.best is not None and record.best.since >= 1)
    cluster.store.hold(job, text="by ada")
    cluster.until(job, lambda record: record.state is State.WAITING)
    cluster.speed_up()
    cluster.store.release(job)
    record = cluster.ends(job)
    assert (record.state, str(record.reason)) == (State.SUCCEEDED, "early_stop")
    assert record.best == Best(step=20, loss=0.4, since=4) and record.eval_loss == 0.45
    assert record.detail == "early stop at step 60: best eval_loss 0.4000 at step 20, none better in 4 evaluations"
    assert record.run_dir and record.checkpoint and record.checkpoint.step == 60
    kept = local_store.sealed_checkpoints(box.home / "runs" / job / "output/checkpoints")
    assert list(kept) == [20, 60], "one is kept as the newest, and the best one besides"
    assert record.known_checkpoints.keys() >= {20, 60}
    file = f"train: {{dataset: {{repo_id: a/b}}, policy: {{type: act, pretrained_path: 'job:{job}@best'}}}}"
    spec = parse(file, filename="next.yaml")
    assert (reference := reference_of(spec.train)) and choose(record, reference, spec).step == 20

"""TensorBoard files of a job whose trainer is killed: one directory, one curve."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.rig.cluster import send, wait
from tests.scenarios.faults.scenarios import begun, went_on

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Cluster


def test_a_killed_and_resumed_job_is_one_curve_in_tensorboard(cluster: Cluster) -> None:
    pytest.importorskip("tensorboardX")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    place = cluster.place / "tf-logs"
    box = cluster.box(PI0Q_TENSORBOARD_DIR=str(place))
    job = begun(cluster, box)
    send(signal.SIGKILL, box.trainer(job))
    done = went_on(cluster, box, job)
    assert done.attempt == 2 and done.name
    folder = place / f"{done.name}-{job}"

    def steps() -> list[int]:
        if not folder.exists():
            return []
        seen = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        return [one.step for one in seen.Scalars("train/loss")] if "train/loss" in seen.Tags()["scalars"] else []

    # The writer has some time after its trainer's end.
    wait(lambda: steps()[-1:] == [done.steps], "the last step in TensorBoard")
    found = steps()
    assert found == sorted(set(found)) and len(found) > (done.steps or 0) / 2
    assert len(list(folder.iterdir())) == 2, "a file for each life"

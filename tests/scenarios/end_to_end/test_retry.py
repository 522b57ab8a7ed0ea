"""A job that was cancelled by mistake goes on from what it had saved."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.rig.cluster import Cluster


def test_it_goes_on_from_its_checkpoint_under_a_new_id(cluster: Cluster) -> None:
    box = cluster.box()
    cluster.slow_down(11)
    job = cluster.submit(steps=150, save_freq=10)
    box.sealed(job, 10)
    cluster.pi0q("cancel", job)
    saved = cluster.ends(job).checkpoint
    assert saved is not None
    cluster.speed_up()
    new = json.loads(cluster.pi0q("retry", job, "--json").stdout)["id"]
    done = cluster.ends(new)
    assert (str(done.state), done.step, done.continues) == ("succeeded", 150, job)
    assert [event["step"] for event in box.events(new, "ready")] == [saved.step]
    assert (
        not (box.run_dir(job) / "output" / "checkpoints").exists()
        and done.checkpoint
        and done.checkpoint.path.count(new)
    )
    assert str(cluster.store.get(job).state) == "cancelled"

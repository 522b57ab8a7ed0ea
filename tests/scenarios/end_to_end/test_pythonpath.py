"""A worker whose shell has PYTHONPATH with an older lerobot: it takes no job, and says why and what to do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pi0q.jobs.state import State

if TYPE_CHECKING:
    from tests.rig.cluster import Cluster


def test_a_box_with_another_lerobot_on_its_pythonpath_takes_no_job(cluster: Cluster) -> None:
    old = cluster.place / "old-lerobot"
    (old / "lerobot").mkdir(parents=True)
    (old / "lerobot" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    usual = cluster.env(cluster.place)["PYTHONPATH"]
    box = cluster.box(PYTHONPATH=os.pathsep.join([str(old), usual]))
    job = cluster.submit(steps=2)
    said = cluster.refused(job, box.name)
    assert "PYTHONPATH" in said and str(old / "lerobot") in said and "unset PYTHONPATH" in said
    assert "PYTHONPATH" in cluster.pi0q("why", job).stdout
    assert cluster.store.get(job).state is State.QUEUED

"""A box that switches itself off, and a job that comes just then; a script that writes a line stands in for the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi0q.jobs.state import State
from pi0q.queue import box_status
from tests.rig.cluster import wait

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Cluster


def said(cluster: Cluster) -> str:
    known = next((one for one in cluster.store.boxes() if one["name"] == "box-a"), None)
    return known.get("idle", "") if known else ""


def says(cluster: Cluster, words: str) -> None:
    """Wait until the box says these words of its own end."""
    wait(lambda: words in said(cluster), words, lambda: f"{said(cluster)}\n{cluster.boxes[0].log}")


def test_a_job_in_the_grace_runs_and_only_then_and_once_the_box_goes_off(cluster: Cluster, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    code = f"open({str(calls)!r}, 'a').write('called\\n')"
    idle: dict[str, Any] = {
        "PI0Q_LEASE_SECONDS": "6",
        "PI0Q_IDLE_AFTER": "1s",
        "PI0Q_IDLE_GRACE": "2h",
        "PI0Q_IDLE_DO": json.dumps([sys.executable, "-c", code]),
        "PI0Q_IDLE_ALLOW": "logins",
    }
    box = cluster.box(**idle)
    says(cluster, '"leaving"')
    cluster.slow_down(5)
    job = cluster.submit(steps=20, save_freq=10)
    cluster.comes_to(job, State.RUNNING)
    says(cluster, "grab_box runs here")
    cluster.speed_up()
    assert cluster.ends(job).state is State.SUCCEEDED
    # No copy_to: its last checkpoint is here and nowhere else.
    says(cluster, "it has the only copy of checkpoints of grab_box")
    assert not calls.exists()

    assert box.stop() == 0
    box.env |= {"PI0Q_IDLE_GRACE": "1s", "PI0Q_IDLE_ALLOW": "logins,only-copies,unsynced-runs"}
    box.start()
    wait(calls.exists, "the command", lambda: f"{said(cluster)}\n{box.log}")
    assert box.stop() == 0
    assert calls.read_text() == "called\n"
    (known,) = cluster.store.boxes()
    assert box_status.idle_text(known, 1e9).startswith("off by itself since")

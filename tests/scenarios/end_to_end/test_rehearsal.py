"""The rehearsal before a long run: with the fake trainer, through a real worker."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pi0q.jobs.state import State

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Cluster

ALWAYS: dict[str, Any] = {"preflight": {"rehearse": "always"}}


def test_a_rehearsal_comes_first_and_is_gone_afterwards(cluster: Cluster) -> None:
    """A save and a resume in a directory of its own; the run itself knows nothing of it."""
    box = cluster.box()
    done = cluster.ends(cluster.submit(steps=40, save_freq=10, **ALWAYS))
    assert (done.state, done.step, done.attempt) == (State.SUCCEEDED, 40, 1), done.detail
    assert done.rehearsal["ok"] and done.rehearsal["box"] == "box-a" and done.rehearsal["seconds"] > 0
    assert re.fullmatch(r"saved at step 1\d, resumed, and went on to the end", done.rehearsal["detail"])
    first, second, run = box.lives(done.id)
    small = f"--output_dir={box.run_dir(done.id)}/rehearsal/output"
    assert small in first["argv"] and small in second["argv"] and "--resume=true" in second["argv"]
    assert f"--output_dir={box.run_dir(done.id)}/output" in run["argv"] and "--resume=true" not in run["argv"]
    assert not (box.run_dir(done.id) / "rehearsal").exists()
    assert [event["step"] for event in box.events(done.id, "step")] == list(range(1, 41))
    assert done.wandb_run_id == f"pi0q-{done.id}" and done.wandb_dir and "/rehearsal/" not in done.wandb_dir
    assert "rehearsal" in cluster.pi0q("show", done.id).stdout
    assert json.loads(cluster.pi0q("show", done.id, "--json").stdout)["rehearsal"] == done.rehearsal


def test_a_rehearsal_that_fails_ends_the_job_with_its_log(cluster: Cluster) -> None:
    box = cluster.box(FAKE_FAULT="error@19")
    cluster.slow_down(11)
    failed = cluster.ends(cluster.submit(steps=40, save_freq=10, **ALWAYS))
    assert (failed.state, str(failed.reason), failed.attempt) == (State.FAILED, "rehearsal_failed", 1)
    assert failed.detail.startswith("in its rehearsal: after a resume from its save: RuntimeError: a fault on demand")
    assert "`preflight: {rehearse: never}`" in failed.fix
    assert "a fault on demand" in box.trainer_log(failed.id)
    assert not failed.rehearsal["ok"]
    assert len(box.lives(failed.id)) == 2 and not (box.run_dir(failed.id) / "rehearsal").exists()
    assert box.processes(failed.id) == []


def test_it_is_not_repeated_after_it_passed(cluster: Cluster) -> None:
    """The run is killed before its first save: it begins anew, and its rehearsal does not."""
    box = cluster.box(FAKE_FAULT="kill@25", FAKE_FAULT_ONCE=str(cluster.place / "once"))
    done = cluster.ends(cluster.submit(steps=40, save_freq=30, **ALWAYS))
    assert (done.state, done.attempt) == (State.SUCCEEDED, 2), done.detail
    assert len(box.lives(done.id)) == 4


def test_it_is_cancelled_as_the_run_is(cluster: Cluster) -> None:
    box = cluster.box(FAKE_STEP_SECONDS="0.5")
    job = cluster.submit(steps=40, save_freq=10, **ALWAYS)
    cluster.until(job, lambda record: record.phase.startswith("rehearsing, step"))
    cluster.pi0q("cancel", job)
    record = cluster.ends(job)
    assert (str(record.state), record.rehearsal) == ("cancelled", {})
    assert box.processes(job) == [] and not (box.run_dir(job) / "rehearsal").exists()

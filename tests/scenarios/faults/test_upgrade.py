"""Row 47: the worker is stopped and a newer one started while a run goes on."""

from __future__ import annotations

import importlib.metadata
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.cluster import PATIENCE, paused, send, wait
from tests.rig.packages import install, python_path
from tests.scenarios.faults.scenarios import FREQ, ONE_LIFE, begun, states, went_on

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster


def note_of(cluster: Cluster) -> str:
    return "".join(known["note"] for known in cluster.store.boxes())


def version_of(cluster: Cluster, box: Box) -> str:
    return next(known["version"] for known in cluster.store.boxes() if known["name"] == box.name)


def test_row_47_a_new_version_finds_the_run_of_the_old_one(cluster: Cluster) -> None:
    site = cluster.place / "site"
    install(site, "1.0.0")
    box = cluster.box(PYTHONPATH=python_path(site))
    job = begun(cluster, box)
    assert version_of(cluster, box) == "1.0.0" != importlib.metadata.version("pi0q")
    runner, trainer = box.runner(job), box.trainer(job)
    assert str(site) in Path(f"/proc/{runner}/environ").read_text()
    with paused(trainer):
        assert box.stop() == 0
        assert trainer in [process.pid for process in box.processes(job)]
        assert cluster.store.boxes()[0]["status"] == "stopped"
        install(site, "2.0.0")
        box.start().says(f"re-attached to the live runner {runner} of {job}")
        assert version_of(cluster, box) == "2.0.0"
    # The old runner goes on, to the end, on what it has in its memory.
    done = went_on(cluster, box, job, lives=1, resumed_at=0)
    assert (done.attempt, done.epoch) == (1, 1)
    assert states(done) == f"queued {ONE_LIFE} succeeded"
    assert cluster.ends(cluster.submit(steps=2)).reason == done.reason


def test_row_47_a_half_installed_version_fails_no_job(cluster: Cluster) -> None:
    site = cluster.place / "site"
    install(site, "1.0.0")
    (site / "pi0q" / "workers" / "runner" / "supervisor.py").write_text("raise ImportError('half of it')\n")
    box = cluster.box(PYTHONPATH=python_path(site))
    jobs = [cluster.submit(steps=2) for _ in range(2)]
    wait(lambda: "runner" in note_of(cluster), "a box that says what it lacks", lambda: box.log)
    assert {str(cluster.store.get(job).state) for job in jobs} <= {"queued", "claimed"}
    box.stop()
    install(site, "1.0.1")
    box.start()
    for job in jobs:
        done = cluster.ends(job)
        assert (str(done.state), done.attempt) == ("succeeded", 1)


def test_row_47_a_second_sigterm_hurts_no_run_either(cluster: Cluster) -> None:
    box = cluster.box()
    job = begun(cluster, box)
    trainer = box.trainer(job)
    with paused(trainer):
        for _ in range(3):
            send(signal.SIGTERM, box.worker_pid)
        box.worker.wait(PATIENCE)
        assert trainer in [process.pid for process in box.processes(job)]
        box.start().says(f"re-attached to the live runner {box.runner(job)} of {job}")
    done = went_on(cluster, box, job, lives=1, resumed_at=0)
    assert (done.attempt, done.epoch) == (1, 1)


def test_row_47_drained_at_once_the_run_is_saved_and_handed_back(cluster: Cluster) -> None:
    box = cluster.box("box-a", PI0Q_LEASE_SECONDS="24", PI0Q_WAIT_FOR_BOX="0")
    job = begun(cluster, box)
    drained = cluster.pi0q("drain", "box-a", "--now", "--wait")
    assert drained.returncode == 0, drained.stderr
    saved = box.events(job, "saved")[-1]["step"]
    waits = cluster.store.get(job)
    assert (str(waits.state), str(waits.reason), waits.attempt) == ("queued", "stopped_by_box", 0)
    assert waits.checkpoint and waits.checkpoint.step == saved > FREQ
    assert box.stop() == 0
    box.start()
    assert "drained" in cluster.refused(job)
    assert cluster.pi0q("drain", "box-a", "--undo").returncode == 0
    done = went_on(cluster, box, job, resumed_at=saved)
    assert (done.attempt, done.epoch) == (1, 2)


def test_row_47_a_platform_that_ends_a_container_politely_gets_a_saved_run(cluster: Cluster) -> None:
    """SIGTERM to every process, as at the end of a container: each run saves, and hands back."""
    box = cluster.box()
    job = begun(cluster, box)
    send(signal.SIGTERM, box.runner(job), box.worker_pid)
    waits = cluster.until(job, lambda record: record.reason)
    assert (str(waits.state), str(waits.reason)) == ("queued", "stopped_by_box")
    box.worker.wait(PATIENCE)
    saved = box.events(job, "saved")[-1]["step"]
    box.start()
    done = went_on(cluster, box, job, resumed_at=saved)
    assert (done.attempt, done.epoch) == (1, 2)

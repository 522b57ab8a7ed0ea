"""Row 47: the worker is stopped and a newer one started while a run goes on."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from pi0q.queue import app
from tests.faults.tale import FREQ, ONE_LIFE, begun, states, went_on
from tests.rig.house import PATIENCE, TESTS, paused, send, wait

if TYPE_CHECKING:
    from tests.rig.house import Box, House

#: The package as it is imported here, wherever that is.
PLACE = Path(app.__file__).parents[1]
PACKAGE = ("jobs", "queue", "workers", "ops")


def install(site: Path, version: str) -> None:
    """What `pip install --upgrade` leaves: the package in the same place, under its new version."""
    shutil.rmtree(site, ignore_errors=True)
    for folder in PACKAGE:
        shutil.copytree(PLACE / folder, site / "pi0q" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = site / f"pi0q-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: pi0q\nVersion: {version}\n")


STAND_INS = (str(TESTS / "end_to_end" / "witness"), str(TESTS / "fake_lerobot"))


def note_of(house: House) -> str:
    return "".join(known["note"] for known in house.store.boxes())


def version_of(house: House, box: Box) -> str:
    return next(known["version"] for known in house.store.boxes() if known["name"] == box.name)


def test_row_47_a_new_version_finds_the_run_of_the_old_one(house: House) -> None:
    site = house.place / "site"
    install(site, "1.0.0")
    box = house.box(PYTHONPATH=os.pathsep.join([*STAND_INS, str(site)]))
    job = begun(house, box)
    assert version_of(house, box) == "1.0.0" != importlib.metadata.version("pi0q")
    runner, trainer = box.runner(job), box.trainer(job)
    assert str(site) in Path(f"/proc/{runner}/environ").read_text()
    with paused(trainer):
        assert box.stop() == 0
        assert trainer in [process.pid for process in box.processes(job)]
        assert house.store.boxes()[0]["status"] == "stopped"
        install(site, "2.0.0")
        box.start().says(f"found the live runner {runner} of {job}")
        assert version_of(house, box) == "2.0.0"
    # The old runner goes on, to the end, on what it has in its memory.
    done = went_on(house, box, job, lives=1, resumed_at=0)
    assert (done.attempt, done.epoch) == (1, 1)
    assert states(done) == f"queued {ONE_LIFE} succeeded"
    assert house.ends(house.submit(steps=2)).reason == done.reason


def test_row_47_a_half_installed_version_fails_no_job(house: House) -> None:
    site = house.place / "site"
    install(site, "1.0.0")
    (site / "pi0q" / "workers" / "run" / "training.py").write_text("raise ImportError('half of it')\n")
    box = house.box(PYTHONPATH=os.pathsep.join([*STAND_INS, str(site)]))
    jobs = [house.submit(steps=2) for _ in range(2)]
    wait(lambda: "runner" in note_of(house), "a box that says what it lacks", lambda: box.log)
    assert {str(house.store.get(job).state) for job in jobs} <= {"queued", "claimed"}
    box.stop()
    install(site, "1.0.1")
    box.start()
    for job in jobs:
        done = house.ends(job)
        assert (str(done.state), done.attempt) == ("succeeded", 1)


def test_row_47_a_second_sigterm_hurts_no_run_either(house: House) -> None:
    box = house.box()
    job = begun(house, box)
    trainer = box.trainer(job)
    with paused(trainer):
        for _ in range(3):
            send(signal.SIGTERM, box.worker_pid)
        box.worker.wait(PATIENCE)
        assert trainer in [process.pid for process in box.processes(job)]
        box.start().says(f"found the live runner {box.runner(job)} of {job}")
    done = went_on(house, box, job, lives=1, resumed_at=0)
    assert (done.attempt, done.epoch) == (1, 1)


def test_row_47_drained_at_once_the_run_is_saved_and_handed_back(house: House) -> None:
    box = house.box("box-a", PI0Q_LEASE_SECONDS="24", PI0Q_WAIT_FOR_BOX="0")
    job = begun(house, box)
    drained = house.pi0q("drain", "box-a", "--now", "--wait")
    assert drained.returncode == 0, drained.stderr
    saved = box.events(job, "saved")[-1]["step"]
    waits = house.store.get(job)
    assert (str(waits.state), str(waits.reason), waits.attempt) == ("queued", "stopped_by_box", 0)
    assert waits.checkpoint and waits.checkpoint.step == saved > FREQ
    assert box.stop() == 0
    box.start()
    assert "drained" in house.refused(job)
    assert house.pi0q("drain", "box-a", "--undo").returncode == 0
    done = went_on(house, box, job, resumed_at=saved)
    assert (done.attempt, done.epoch) == (1, 2)


def test_row_47_a_platform_that_ends_a_container_politely_gets_a_saved_run(house: House) -> None:
    """SIGTERM to every process, as at the end of a container: each run saves, and hands back."""
    box = house.box()
    job = begun(house, box)
    send(signal.SIGTERM, box.runner(job), box.worker_pid)
    waits = house.until(job, lambda record: record.reason)
    assert (str(waits.state), str(waits.reason)) == ("queued", "stopped_by_box")
    box.worker.wait(PATIENCE)
    saved = box.events(job, "saved")[-1]["step"]
    box.start()
    done = went_on(house, box, job, resumed_at=saved)
    assert (done.attempt, done.epoch) == (1, 2)

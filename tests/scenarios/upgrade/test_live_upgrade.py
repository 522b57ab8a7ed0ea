"""A package of commit d9c1fa2 is replaced in place by this one while its processes live.

What they hold in memory starts helpers and trainers by the addresses of that commit, which this package keeps for one
release: OLD_ADDRESSES of tests/test_layout.py.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pi0q.jobs.record import Record
from tests.rig.cluster import PATIENCE, Box, Cluster, gone, paused, send, wait
from tests.rig.packages import install, install_old, python_path
from tests.scenarios.faults.scenarios import FREQ, ONE_LIFE, STEPS, begun, nothing_left, states, went_on
from tests.standin_hub import TOKEN, Fault, StandInHub

OLD, NEW = "1.0.0", "2.0.0"
#: Steps of a run that is in its middle for as long as commands and copies take.
LONG = 200
OLD_RUNNER = "pi0q.workers.run.runner"
#: The large file of the base model, as safetensors has it.
WEIGHTS = bytes(range(256)) * 80_000
HEADER = json.dumps({"model.weight": {"dtype": "U8", "shape": [len(WEIGHTS)], "data_offsets": [0, len(WEIGHTS)]}})
BIG = len(HEADER).to_bytes(8, "little") + HEADER.encode() + WEIGHTS
DATASET = {"meta/info.json": b'{"codebase_version": "v3.0"}', "data/chunk-000/file-000.parquet": b"p" * 9000}
FROM_HUB = {"policy": {"type": "act", "device": "cpu", "push_to_hub": False, "pretrained_path": "you/base"}}
PUSHED = {"policy": {"type": "act", "device": "cpu", "push_to_hub": True, "repo_id": "you/it"}}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub(hosts=("127.0.0.3", "127.0.0.6")) as hub:
        hub.commit("dataset", "local/grab_box", DATASET, refs=("main", "v3.0"))
        hub.commit("model", "you/base", {"config.json": b"{}", "model.safetensors": BIG})
        yield hub


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Where the old package lies until it is upgraded."""
    install_old(tmp_path / "site", OLD)
    return tmp_path / "site"


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / "share").mkdir()
    return tmp_path / "share"


def old_box(cluster: Cluster, site: Path, hub: StandInHub | None = None, **env: Any) -> Box:
    if hub:
        env |= {"PI0Q_HF_ENDPOINT": hub.url, "PI0Q_HF_MIRROR": "off", "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": ""}
        env |= {"HF_HUB_DISABLE_XET": "1", "PI0Q_NETWORK_TURBO": str(cluster.place / "none")}
    return cluster.box(PYTHONPATH=python_path(site), **env)


def upgrade(box: Box, site: Path, job: str) -> None:
    """Stops the old worker, upgrades the package, and starts the new worker, which finds the run of the job."""
    runner = box.runner(job)
    assert OLD_RUNNER in psutil.Process(runner).cmdline()
    assert box.stop() == 0
    install(site, NEW)
    box.start().says(f"re-attached to the live runner {runner} of {job}")


def hooks(box: Box, job: str) -> list[str]:
    """By which path each trainer of the job was started."""
    return [next(part for part in life["argv"] if part.endswith("pi0q_trainer")) for life in box.lives(job)]


def old_hook(site: Path) -> str:
    return f"{site}/pi0q/workers/run/pi0q_trainer"


def new_hook(site: Path) -> str:
    return f"{site}/pi0q/workers/trainer/pi0q_trainer"


def helper(runner: int, module: str) -> int:
    """The pid of the process of this module that the runner has started."""
    found: list[int] = []

    def there() -> bool:
        found[:] = [child.pid for child in psutil.Process(runner).children() if module in child.cmdline()]
        return bool(found)

    wait(there, f"a process of {module}")
    return found[0]


def spare_is_ready(box: Box, job: str) -> None:
    """Waits until the runner that waits for the next job has imported all it needs: it connects then."""
    runner = box.runner(job)

    def ready() -> bool:
        spares = [child for child in psutil.Process(box.worker_pid).children() if OLD_RUNNER in child.cmdline()]
        return any(spare.net_connections() for spare in spares if spare.pid != runner)

    wait(ready, "a waiting runner", lambda: box.log)


def in_one_run(record: Record, steps: int = STEPS) -> None:
    assert (str(record.state), record.attempt, record.epoch, record.step) == ("succeeded", 1, 1, steps), record.detail
    assert states(record) == f"queued {ONE_LIFE} succeeded"


# -- the old runner goes on under the new worker ----------------------------------------------------


def test_a_run_is_found_and_goes_on_and_its_next_checkpoints_are_copied(
    cluster: Cluster, site: Path, share: Path
) -> None:
    box = old_box(cluster, site)
    job = begun(cluster, box, steps=LONG, checkpoints={"every": None, "copy_to": str(share)})
    runner, trainer = box.runner(job), box.trainer(job)
    with paused(trainer):
        upgrade(box, site, job)
        # It lists its orphans in the same round in which it finds its runs.
        assert (box.runner(job), box.trainer(job)) == (runner, trainer)
        assert not gone(runner) and not gone(trainer)
    # By its runner, beside the training: a copy that is missing at the end is the worker's to make.
    goes_on = cluster.until(job, lambda record: record.copied and record.copied.step > FREQ)
    assert str(goes_on.state) == "running" and goes_on.copy_detail == ""
    in_one_run(went_on(cluster, box, job, lives=1, steps=LONG, resumed_at=0), LONG)
    copied = cluster.until(job, lambda record: record.copied and record.copied.step == LONG).copied
    assert copied and (Path(copied.path) / "pi0q.manifest.json").is_file()
    assert hooks(box, job) == [old_hook(site)]
    # And the new package runs the next job by itself.
    after = cluster.ends(cluster.submit(steps=2))
    assert str(after.state) == "succeeded"
    assert hooks(box, after.id) == [new_hook(site)]


def test_a_run_that_fetches_from_the_hub_fetches_the_rest_and_trains(
    cluster: Cluster, site: Path, hub: StandInHub
) -> None:
    fault = Fault(path=f"/cdn/{hub.digest(BIG)}", times=1, halfway=threading.Event())
    hub.faults.append(fault)
    box = old_box(cluster, site, hub)
    job = cluster.submit(steps=STEPS, save_freq=FREQ, from_hub=True, flags=FROM_HUB)
    cluster.until(job, lambda record: record.phase.startswith("downloading"))
    assert fault.halfway and fault.halfway.wait(PATIENCE)
    runner = box.runner(job)
    cut_off = helper(runner, "pi0q.workers.run.download")
    upgrade(box, site, job)
    hub.forget()
    send(signal.SIGKILL, cut_off)
    fault.resume.set()
    in_one_run(cluster.ends(job))
    assert [one.path for one in hub.downloads() if one.path.startswith("/cdn/")] == [f"/cdn/{hub.digest(BIG)}"]
    assert hooks(box, job) == [old_hook(site)]
    nothing_left(cluster, job)


def test_a_run_goes_from_its_rehearsal_to_the_training(cluster: Cluster, site: Path) -> None:
    box = old_box(cluster, site)
    cluster.slow_down(2)
    job = cluster.submit(steps=STEPS, save_freq=FREQ, preflight={"rehearse": "always"})
    cluster.until(job, lambda record: record.phase.startswith("rehearsing, step"))
    runner, trainer = box.runner(job), box.trainer(job)
    with paused(trainer):
        upgrade(box, site, job)
        assert not gone(runner) and not gone(trainer)
    cluster.speed_up()
    done = cluster.ends(job)
    in_one_run(done)
    assert done.rehearsal["ok"], done.rehearsal
    # The rehearsal's save, its resume, and the run: the last two were started after the upgrade.
    assert hooks(box, job) == [old_hook(site)] * 3
    assert [life["alone"] for life in box.lives(job)] == [True] * 3
    nothing_left(cluster, job)


# -- the old worker lives on beside the new package --------------------------------------------------


def test_new_commands_read_what_an_old_worker_writes(cluster: Cluster, site: Path) -> None:
    box = old_box(cluster, site, slots=2)
    job = begun(cluster, box)
    with paused(box.trainer(job)):
        waits = cluster.submit("too_big", gib=40)
        refusal = cluster.refused(waits)
        listed = json.loads(cluster.pi0q("ls", "--json").stdout)
        assert {row["id"]: row["state"] for row in listed} == {job: "running", waits: "queued"}
        assert box.name in cluster.pi0q("show", job).stdout
        shown = json.loads(cluster.pi0q("show", job, "--json").stdout)
        assert (shown["state"], shown["box"], shown["checkpoint"]["step"]) == ("running", box.name, FREQ)
        why = cluster.pi0q("why", waits)
        assert why.returncode == 0 and box.name in why.stdout, why.stdout + why.stderr
        assert refusal in " ".join(why.stdout.split())
        (known,) = json.loads(cluster.pi0q("boxes", "--json").stdout)
        assert (known["name"], known["version"]) == (box.name, OLD)
        assert box.name in cluster.pi0q("boxes").stdout
    in_one_run(went_on(cluster, box, job, lives=1, resumed_at=0))


def test_an_old_worker_takes_jobs_and_pushes_after_the_upgrade(cluster: Cluster, site: Path, hub: StandInHub) -> None:
    box = old_box(cluster, site, hub)
    job = begun(cluster, box, flags=PUSHED)
    spare_is_ready(box, job)
    install(site, NEW)
    cluster.speed_up()
    # One is run by the runner that waited in memory, the other by one that is started now.
    jobs = [job, *(cluster.submit(steps=4, save_freq=2, from_hub=True, flags=FROM_HUB) for _ in range(2))]
    assert [(str(cluster.ends(each).state), cluster.store.get(each).attempt) for each in jobs] == [("succeeded", 1)] * 3
    pushed = cluster.until(job, lambda record: record.push.get("state") != "pending").push
    assert (pushed["state"], pushed["repo"]) == ("done", "you/it"), pushed
    assert "model.safetensors" in hub.files("model", "you/it")
    assert hooks(box, job) == [old_hook(site)]
    assert {hook for each in jobs[1:] for hook in hooks(box, each)} == {old_hook(site), new_hook(site)}
    assert box.worker.poll() is None and cluster.store.boxes()[0]["status"] == "ready"
    assert "Traceback" not in box.log, box.log


def test_an_old_worker_is_drained_after_the_upgrade(cluster: Cluster, site: Path) -> None:
    box = old_box(cluster, site, PI0Q_LEASE_SECONDS="24", PI0Q_WAIT_FOR_BOX="0")
    job = begun(cluster, box, steps=LONG)
    install(site, NEW)
    drained = cluster.pi0q("drain", box.name, "--now", "--wait")
    assert drained.returncode == 0, drained.stderr
    waits = cluster.store.get(job)
    assert (str(waits.state), str(waits.reason), waits.attempt) == ("queued", "stopped_by_box", 0)
    assert "Traceback" not in box.log, box.log
    assert box.stop() == 0
    box.start()
    assert cluster.pi0q("drain", box.name, "--undo").returncode == 0
    saved = box.events(job, "saved")[-1]["step"]
    done = went_on(cluster, box, job, steps=LONG, resumed_at=saved)
    assert (done.attempt, done.epoch) == (1, 2)
    assert hooks(box, job) == [old_hook(site), new_hook(site)]


def test_an_old_supervisor_starts_the_new_worker(cluster: Cluster, site: Path) -> None:
    home = cluster.place / "box-a"
    (home / "datasets" / "grab_box" / "meta").mkdir(parents=True)
    (home / "datasets" / "grab_box" / "meta" / "info.json").write_text("{}")
    box = Box("box-a", home, cluster.env(home, PYTHONPATH=python_path(site), PI0Q_BOX="box-a"), argv=[])
    cluster.boxes.append(box)
    with (home / "worker.out").open("ab") as out:
        command = [sys.executable, "-m", "pi0q.ops.keeper"]
        supervisor = subprocess.Popen(command, env=box.env, cwd=home, stdout=out, stderr=out, start_new_session=True)
    box.started.append(supervisor)
    job = begun(cluster, box)
    log = home / "logs" / "worker.log"
    with paused(box.trainer(job)):
        install(site, NEW)
        # As `pi0q box start` does.
        send(signal.SIGHUP, supervisor.pid)
        found = f"re-attached to the live runner {box.runner(job)} of {job}"
        wait(lambda: found in log.read_text(), found, lambda: log.read_text() + box.log)
    in_one_run(went_on(cluster, box, job, lives=1, resumed_at=0))
    assert supervisor.poll() is None
    assert json.loads((home / "keeper.json").read_text())["keeper"]["pid"] == supervisor.pid


# -- what the old version reads late ------------------------------------------------------------------


def test_an_old_worker_can_look_at_the_trainer_after_the_upgrade(site: Path) -> None:
    """It reads the script's text, and looks anew since something was installed beside its trainer's Python."""
    install(site, NEW)
    text = (site / "pi0q" / "workers" / "look_at_trainer.py").read_text()
    said = subprocess.run(
        [sys.executable, "-c", text],
        env={"PYTHONPATH": python_path(site), "HF_HUB_OFFLINE": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout
    seen = json.loads(said.splitlines()[-1])
    assert seen["lerobot"] == "0.6.1" and not seen["train_error"]


@pytest.mark.parametrize(("old", "new"), [("after", "postrun"), ("keep", "pin"), ("wish", "request_stop")])
def test_scripts_of_the_server_that_are_read_late_are_there(site: Path, old: str, new: str) -> None:
    install(site, NEW)
    lua = site / "pi0q" / "queue" / "lua"
    assert (lua / f"{old}.lua").read_text() == (lua / f"{new}.lua").read_text()

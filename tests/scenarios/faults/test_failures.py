"""Rows 29, 30, 32, 33: trainers that end for a cause that has a name, a cure and a policy of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.record import Record
from pi0q.jobs.spec import parse
from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimant, Claimed, Reservation
from pi0q.queue.submission import new_fields, put
from pi0q.workers.host import cgroup_memory, nvml
from pi0q.workers.runner import runner
from pi0q.workers.runner.reporter import Reporter
from pi0q.workers.runner.stop_requests import StopRequests
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.run_request import RunRequest
from tests.rig.cluster import wait
from tests.scenarios.faults.scenarios import begun, nothing_left

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster

FAKE = Path(__file__).parents[2] / "fake_lerobot"


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster) -> Box:
    return shared_cluster.box(FAKE_STEP_SECONDS="0.01")


def failed(cluster: Cluster, job: str) -> Record:
    cluster.speed_up()
    record = cluster.ends(job)
    nothing_left(cluster, job)
    assert str(record.state) == "failed"
    return record


# -- 29 -----------------------------------------------------------------------------------------------


def test_row_29_an_out_of_memory_at_the_first_step_is_told_with_what_to_change_and_not_tried_again(
    shared_cluster: Cluster, box: Box
) -> None:
    record = failed(shared_cluster, shared_cluster.submit("oom@1"))
    assert (str(record.reason), record.attempt, record.epoch) == ("cuda_out_of_memory", 1, 1)
    assert record.detail == (
        "CUDA out of memory before its first step with batch_size 2: it wanted 2.00 GiB more, "
        "1.12 GiB of 79.11 GiB were free"
    )
    shown = shared_cluster.pi0q("show", record.id).stdout
    assert "batch_size: 1 (is 2)" in shown and "exit code 1" in shown and "OutOfMemoryError" in shown


def test_row_29_an_out_of_memory_after_thousands_of_steps_keeps_its_checkpoint(
    shared_cluster: Cluster, box: Box
) -> None:
    record = failed(shared_cluster, begun(shared_cluster, box, "oom@30"))
    assert (str(record.reason), record.attempt) == ("cuda_out_of_memory", 1)
    assert record.checkpoint and record.checkpoint.step == 20 and Path(record.checkpoint.path).is_dir()
    assert "after step 29" in record.detail and "It went well for 29 steps" in record.fix


# -- 30 -----------------------------------------------------------------------------------------------


@pytest.fixture
def group() -> Iterator[Callable[[int], None]]:
    """A memory group of 400 MiB: puts a process into it, and what that starts is in it as well."""
    v2 = (cgroup_memory.CGROUPS / "cgroup.controllers").exists()
    place = (cgroup_memory.CGROUPS if v2 else cgroup_memory.CGROUPS / "memory") / f"pi0q-faults-{os.getpid()}"
    try:
        place.mkdir()
        (place / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(400 << 20))
    except OSError as error:
        pytest.skip(f"no memory groups can be made here: {error}")

    def join(pid: int) -> None:
        (place / "cgroup.procs").write_text(str(pid))

    def gone() -> bool:
        """Its processes live on elsewhere; some end meanwhile, and some begin."""
        for pid in (place / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (place.parent / "cgroup.procs").write_text(pid)
        with contextlib.suppress(OSError):
            place.rmdir()
        return not place.exists()

    yield join
    wait(gone, "the end of the memory group")


def test_row_30_a_kill_by_the_containers_memory_limit_is_told_from_a_persons(
    cluster: Cluster, group: Callable[[int], None]
) -> None:
    box = cluster.box(FAKE_STEP_SECONDS="0.01")
    group(box.worker.pid)
    record = failed(cluster, cluster.submit("hog@3"))
    assert (str(record.reason), record.attempt) == ("memory_limit", 2), "tried once more, and then told"
    assert record.detail.startswith(
        "the kernel killed the trainer for the container's memory limit of 0.4 GiB after step 2"
    )
    assert "num_workers: 2 (is 4" in record.fix
    person = failed(cluster, cluster.submit("kill@3"))
    assert str(person.reason) == "trainer_killed", person.detail
    assert "memory was not the cause" in person.detail


# -- 32 -----------------------------------------------------------------------------------------------

JOB = """
resources: {gpus: 0, disk: 1MiB}
train:
  dataset: {repo_id: local/d, root: datasets/d}
  policy: {type: act, device: cpu, push_to_hub: false}
  steps: 6
  save_freq: 6
"""


class Nvml(SimpleNamespace):
    """A driver whose card falls off the bus when it is asked the second time how it is."""

    def __init__(self, number: int) -> None:
        self.number, self.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, self.NVML_VOLATILE_ECC = number, 1, 0
        self.nvmlEventTypeXidCriticalError, self.told, self.NVMLError = 8, False, TimeoutError

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetName(self, _handle: str) -> str:
        return "NVIDIA H100"

    def nvmlDeviceGetPciInfo(self, _handle: str) -> Any:
        return SimpleNamespace(busId="00000000:01:00.0")

    def nvmlDeviceGetTotalEccErrors(self, *_: Any) -> int:
        return 0

    def nvmlDeviceGetMemoryInfo(self, _handle: str) -> None: ...

    def nvmlEventSetCreate(self) -> str:
        return "set"

    def nvmlDeviceRegisterEvents(self, *_: Any) -> None: ...

    def nvmlEventSetFree(self, _set: str) -> None: ...

    def nvmlEventSetWait_v2(self, _set: str, _ms: int) -> Any:
        if self.told:
            raise TimeoutError
        self.told = True
        return SimpleNamespace(device="GPU-a", eventData=self.number)


@pytest.fixture
def settings(chosen: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (chosen.home / "datasets/d/meta").mkdir(parents=True)
    (chosen.home / "datasets/d/meta/info.json").write_text("{}")
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    return replace(chosen, box="box-a")


def run(settings: Settings, store: Store, job: str, box: str) -> None:
    """The whole run, in this process."""
    store.announce_box(box, box, {"status": "ready"}, timing=settings.timing)
    answer = store.claim(
        job, Claimant(box=box, boot="1", lease_seconds=600), Reservation(gpus=["GPU-a"]), text="claimed"
    )
    assert isinstance(answer, Claimed)
    request = RunRequest(job_id=job, epoch=answer.epoch, python=sys.executable, lerobot="0.6.1", box=box)
    own = replace(settings, box=box, home=settings.home.parent / box)
    runner.run(RunContext.load(request, own, store), store, StopRequests())
    for thread in threading.enumerate():
        if isinstance(thread, Reporter):
            thread.join()


def test_row_32_a_gpu_that_falls_off_the_bus_drains_its_box_and_the_job_moves_on(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each box has a disk of its own; on one and the same a new runner ends the one before it, which is this process.
    for box in ("box-a", "box-b"):
        shutil.copytree(settings.home, settings.home.parent / box)
    monkeypatch.setattr(nvml, "load", lambda: Nvml(79))
    monkeypatch.setenv("FAKE_FAULT", "error@3")
    job = str(put(store, new_fields(parse(JOB, filename="job.yaml")))["id"])
    run(settings, store, job, "box-a")
    record = store.get(job)
    assert (record.state, str(record.reason), record.attempt) == (State.QUEUED, "gpu_lost", 0), "no attempt is used up"
    assert record.detail == "the GPU broke down after step 2: NVIDIA H100 GPU-a: Xid 79"
    (drained,) = [known for known in store.boxes() if known["name"] == "box-a"]
    assert drained["drain"] == "drain" and "Xid 79" in drained["drain_text"] and "restart" in drained["drain_text"]
    monkeypatch.delenv("FAKE_FAULT")
    run(settings, store, job, "box-b")
    done = store.get(job)
    assert (done.state, done.step, done.box) == (State.SUCCEEDED, 6, "box-b")
    assert "drain" not in [known.get("drain") for known in store.boxes() if known["name"] == "box-b"]


def test_row_32_an_error_of_the_program_on_a_card_that_is_well_drains_nothing(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "load", lambda: Nvml(31))
    monkeypatch.setenv("FAKE_FAULT", "error@3")
    job = str(put(store, new_fields(parse(JOB, filename="job.yaml")))["id"])
    (settings.home.parent / "box-a").symlink_to(settings.home)
    run(settings, store, job, "box-a")
    record = store.get(job)
    assert (str(record.reason), record.attempt) == ("trainer_failed", 1)
    assert [known.get("drain") or "" for known in store.boxes()] == [""]


# -- 33 -----------------------------------------------------------------------------------------------


def test_row_33_a_loss_that_is_no_number_ends_it_at_once_and_the_checkpoint_before_it_is_kept(
    shared_cluster: Cluster, box: Box
) -> None:
    record = failed(shared_cluster, begun(shared_cluster, box, "nan@40"))
    assert (str(record.reason), record.attempt, record.epoch) == ("non_finite_loss", 1, 1)
    assert record.detail == "the loss became nan at step 40"
    # It came at the very step of a save.
    assert record.checkpoint and record.checkpoint.step == 20
    assert sorted(path.name for path in box.checkpoint(record.id, 20).parent.iterdir()) == ["000020", "last"]
    assert "learning rate" in shared_cluster.pi0q("show", record.id).stdout

"""A box in a container on a line of its own, with a wrong clock: one training through crash, freeze and cut."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.rig import clock, machine
from tests.rig.cluster import gone, send, wait

if TYPE_CHECKING:
    from tests.rig.cluster import Cluster


@pytest.mark.skipif(bool(machine.refusal()), reason=f"no containers here: {machine.refusal()}")
def test_a_contained_box_crashes_starts_anew_and_goes_on(killable_cluster: Cluster) -> None:
    box = killable_cluster.box(linked=True, contained=True, clock="" if clock.missing() else "+2h")
    killable_cluster.slow_down(11)
    job = killable_cluster.submit(steps=80, save_freq=10)
    box.sealed(job, 10)
    boot = killable_cluster.store.get(job).boot
    pids = {box.worker_pid, box.runner(job), box.trainer(job)}
    assert len(pids) == 3 and not any(map(gone, pids))
    assert {process.pid for process in box.processes(job)} == {box.trainer(job)}
    assert pids <= {process.pid for process in box.processes()}
    wait(box.spare_runner, "the runner that waits")
    assert box.spare_runner() not in pids
    box.crash()
    assert all(map(gone, pids)) and box.processes() == []
    box.start()
    killable_cluster.speed_up()
    done = killable_cluster.ends(job)
    assert (str(done.state), done.step) == ("succeeded", 80)
    assert done.boot != boot
    assert [str(event.reason) for event in done.history if event.reason] == ["box_restarted", "finished"]
    assert box.stop() == 0


def test_a_frozen_box_stands_still_and_its_line_can_be_cut(killable_cluster: Cluster) -> None:
    box = killable_cluster.box(linked=True, contained=True)
    assert box.link is not None
    killable_cluster.slow_down(6)
    job = killable_cluster.submit(steps=60, save_freq=10)
    box.steps(job, 5)
    frozen = box.freeze()
    assert box.trainer(job) in frozen and box.worker_pid in frozen
    wait(lambda: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in frozen), "the standstill")
    made = box.link.made
    box.link.cut()
    box.thaw()
    killable_cluster.speed_up()
    done = killable_cluster.ends(job)
    assert (str(done.state), done.step, done.epoch) == ("succeeded", 60, 1)
    assert box.link.made > made
    send(signal.SIGSTOP, box.worker_pid)
    box.kill()
    assert box.worker_pid == 0

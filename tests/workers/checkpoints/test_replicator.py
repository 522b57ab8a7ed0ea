"""Background copies of a run: one behind at most, retried, never in the way, awaited where the job is handed back."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import helper_process, replicator
from pi0q.workers.checkpoints.hand_back import await_last_copy
from pi0q.workers.host import helper_process as host_helper
from pi0q.workers.host import process_tree
from pi0q.workers.host.backoff import Backoff
from tests.workers.checkpoints.conftest import Logged
from tests.workers.checkpoints.replication import PATIENCE, ReplicationStandIn, Run, copy, known, saved, until
from tests.workers.checkpoints.saved import checkpoint


def test_at_most_one_is_behind_and_the_newest_takes_its_place(
    run: Run, process: ReplicationStandIn, logged: Logged
) -> None:
    made = run.replicator()
    for step in (10, 20, 30):
        made.on_sealed(saved(step))
        if step == 10:
            assert process.step() == 10
            assert list(made.copying()) == [10]
    assert run.progress.fields["copy_detail"] == "step 30 waits for the copy of step 10"
    process.answers.put({"copied": "/share/a1a1a1a1a1a1/000010", "gone": []})
    assert process.step() == 30
    process.answers.put({"copied": "/share/a1a1a1a1a1a1/000030", "gone": [5]})
    until(lambda: run.progress.fields["copied"] == copy(30))
    assert run.progress.fields["copy_detail"] == "" and made.behind() is None
    made.close()
    assert re.search(
        r"copied checkpoint 30 to /share/a1a1a1a1a1a1/000030, 1 MB in \d+ s; removed its copies of \[5\]",
        logged.take()[-1],
    )


def test_on_a_low_disk_the_copy_of_one_that_is_replaced_gives_way(
    run: Run, process: ReplicationStandIn, logged: Logged
) -> None:
    made = run.replicator()
    made.on_sealed(saved(10))
    assert process.step() == 10
    made.give_way()
    assert list(made.copying()) == [10], "none is newer: it stays"
    made.on_sealed(saved(20))
    made.pins.add(10)
    made.give_way()
    assert list(made.copying()) == [10], "its user keeps it: it would make no room"
    made.pins.set(())
    made.give_way()
    assert 10 not in made.copying() and process.step() == 20
    process.answers.put({"copied": "/share/a1a1a1a1a1a1/000020", "gone": []})
    until(lambda: made.behind() is None)
    assert "cancelled the copy of checkpoint 10" in logged.take()[0]
    made.give_way()


def test_a_copy_that_failed_is_told_and_tried_again_after_a_rest(
    run: Run, process: ReplicationStandIn, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(Backoff, "delay", lambda self, failures: 0.05 if failures < 3 else 3600.0)
    made = run.replicator()
    made.on_sealed(saved(10))
    for _ in range(2):
        assert process.step() == 10
        process.answers.put({"failed": "/share is full: make room there"})
    assert process.step() == 10
    assert "step 10 is being copied" in run.progress.fields["copy_detail"]
    failure = "WARNING: checkpoint 10 is not copied: /share is full: make room there; retry in 0 min"
    assert [text.startswith(failure) for text in logged.take()] == [True, True]
    # A newer one takes its place while it rests.
    process.answers.put({"failed": "once more"})
    until(lambda: made.copying() == ())
    made.on_sealed(saved(20))
    await_last_copy(made, Reason.STOPPED_BY_BOX, run.lease, give_up=lambda: True)
    assert process.step() == 20


def test_the_rests_grow_from_a_minute_to_half_an_hour() -> None:
    assert [replicator.RETRY.delay(n) for n in (1, 2, 3, 5, 6, 40)] == [60, 120, 240, 960, 1800, 1800]


def test_a_damaged_checkpoint_is_not_tried_again_and_a_newer_one_is(run: Run, process: ReplicationStandIn) -> None:
    made = run.replicator()
    made.on_sealed(saved(10))
    assert process.step() == 10
    process.answers.put({"failed": "the checkpoint here is damaged: x", "damaged": True})
    until(lambda: "is not copied" in run.progress.fields["copy_detail"])
    assert "retry" not in run.progress.fields["copy_detail"]
    made.on_sealed(saved(20))
    assert process.step() == 20


def test_whoever_hands_its_job_back_waits_for_the_last_copy(run: Run, process: ReplicationStandIn) -> None:
    made = run.replicator()
    made.on_sealed(saved(10))
    waiting = threading.Thread(
        target=await_last_copy, args=(made, Reason.STOPPED_BY_BOX, run.lease), kwargs={"give_up": lambda: False}
    )
    waiting.start()
    assert process.step() == 10
    assert waiting.is_alive()
    process.answers.put({"copied": "/share/a1a1a1a1a1a1/000010", "gone": []})
    waiting.join(PATIENCE)
    assert not waiting.is_alive() and made.behind() is None


@pytest.mark.parametrize("what", ["time", "lease", "wish", "failure", "reason"])
def test_and_not_for_ever(run: Run, process: ReplicationStandIn, what: str) -> None:
    made = run.replicator(copy_seconds=0.2 if what == "time" else 600.0)
    made.on_sealed(saved(10))
    assert process.step() == 10
    if what == "lease":
        run.lease.revoke()
    for _ in range(2 if what == "failure" else 0):
        # Once more for one that is heard of before anyone waits: that is tried again.
        process.answers.put({"failed": "no room"})
    reason = Reason.TRAINER_FAILED if what == "reason" else Reason.STOPPED_BY_BOX
    await_last_copy(made, reason, run.lease, give_up=lambda: what == "wish")
    assert made.behind() == saved(10)
    if what != "reason":
        assert "step 10 is not copied" in run.progress.fields["copy_detail"]


def test_one_that_rests_is_tried_at_once_before_the_job_is_handed_back(run: Run, process: ReplicationStandIn) -> None:
    made = run.replicator()
    made.on_sealed(saved(10))
    assert process.step() == 10
    process.answers.put({"failed": "no room"})
    until(lambda: made.copying() == ())
    process.answers.put({"copied": "/share/a1a1a1a1a1a1/000010", "gone": []})
    await_last_copy(made, Reason.STOPPED_BY_BOX, run.lease, give_up=lambda: False)
    assert process.step() == 10 and made.behind() is None


def test_the_end_of_the_run_waits_for_no_copy(run: Run, process: ReplicationStandIn) -> None:
    made = run.replicator()
    made.on_sealed(saved(10))
    assert process.step() == 10
    made.close()
    made.on_sealed(saved(20))
    assert process.requests.empty() and made.behind() == saved(20)


def test_where_no_copies_are_wanted_nothing_happens(run: Run, process: ReplicationStandIn) -> None:
    run.spec = replace(run.spec, rehearsal=True)
    made = run.replicator(known(checkpoint=saved(10), copied=copy(10)), epoch=2)
    made.on_sealed(saved(20))
    made.resume(saved(20), None)
    assert made.behind() is None
    assert process.requests.empty() and "copied" not in run.progress.fields


# -- with the real process ------------------------------------------------------------------------------


def test_the_process_stands_back_and_is_none_of_the_trainers(shared: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kill_all` ends whatever a trainer left behind, at each of its ends; a copy goes on."""
    exclude, seen = process_tree.exclude, list[tuple[bool, bool]]()

    def excluded(pid: int) -> None:
        before = pid in process_tree.descendants(os.getpid())
        exclude(pid)
        seen.append((before, pid in process_tree.descendants(os.getpid())))

    monkeypatch.setattr(process_tree, "exclude", excluded)
    made = shared.replicator()
    made.on_sealed(checkpoint(shared.directory.checkpoints, 10))
    until(lambda: made.copied)
    assert seen == [(True, False)]
    assert process_tree._excluded == set()


def test_a_process_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_helper, "START_SECONDS", 0.2)
    settings = Settings(home=tmp_path, stall_seconds=0.2)
    monkeypatch.setattr(helper_process, "HELPER", replace(helper_process.HELPER, argv=("/bin/sleep", "60")))
    with pytest.raises(host_helper.ChildFailed, match="nothing moved for 0 s"):
        list(helper_process.send({"place": "/share"}, settings, over=threading.Event()))


def test_a_process_that_can_t_be_started_is_told_and_tried_again(
    shared: Run, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """The machine may have had no process to spare for a moment."""
    monkeypatch.setattr(Backoff, "delay", lambda self, failures: 0.01)
    monkeypatch.setattr(helper_process, "HELPER", replace(helper_process.HELPER, argv=("/none/there",)))
    made = shared.replicator()
    made.on_sealed(checkpoint(shared.directory.checkpoints, 10))
    for _ in range(2):
        until(lambda: "not copied: the process that copies could not be started" in "".join(logged.take()))

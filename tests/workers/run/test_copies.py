"""The copies of a run: one behind at most, tried again, never in the way, awaited where the job is handed back."""

from __future__ import annotations

import os
import queue
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs import copies as rules
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record, Saved, from_hash
from pi0q.jobs.spec import parse
from pi0q.queue.settings import Settings
from pi0q.workers.run import child, clerk, process, saves
from pi0q.workers.run.copies import Copies
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.lease import Lease, boottime
from pi0q.workers.run.log import Log
from pi0q.workers.run.order import Order
from pi0q.workers.run.pace import Plan
from pi0q.workers.run.pins import Pins
from pi0q.workers.run.progress import Progress
from pi0q.workers.run.stop import Stop
from tests.rig.house import wait
from tests.workers.run.saved import checkpoint, content

JOB = """
name: n
resources: {gpus: 0}
checkpoints: {keep: 2, copy_to: PLACE}
train: {dataset: {repo_id: l/d}, policy: {type: act, device: cpu}}
"""


#: The process that copies stands back behind whoever else is busy.
PATIENCE = 120.0


class Desk:
    """Answers in place of the process; each order waits for its answer."""

    def __init__(self) -> None:
        self.orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self.answers: queue.Queue[dict[str, Any]] = queue.Queue()

    def send(self, order: Mapping[str, Any], settings: Settings, *, over: threading.Event) -> Iterator[dict[str, Any]]:
        self.orders.put(dict(order))
        while not over.is_set():
            try:
                yield self.answers.get(timeout=0.01)
                return
            except queue.Empty:
                continue

    def step(self) -> int:
        """The step whose copy was asked for."""
        return int(Path(self.orders.get(timeout=PATIENCE)["checkpoint"]).name)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk()
    monkeypatch.setattr(clerk, "send", made.send)
    return made


class Run:
    """What a runner has; closed at the end of the test."""

    def __init__(self, place: Path, to: str, settings: Settings) -> None:
        self.directory = RunDirectory(place / "run")
        self.directory.make()
        self.log, self.progress = Log(self.directory.log, {}), Progress(Plan(steps=0, save_freq=10, every_seconds=None))
        self.lease = Lease(self.directory.lease, seconds=10**6, fence=10**6, since=boottime())
        self.spec, self.settings = parse(JOB.replace("PLACE", to), filename="job.yaml"), settings
        self.opened: list[Copies] = []

    def copies(self, record: Record | None = None, *, epoch: int = 1, **settings: Any) -> Copies:
        order = Order(job_id="a1", epoch=epoch, python="", lerobot="")
        made = Copies(order, record or known(), self.spec, replace(self.settings, **settings),
                      directory=self.directory, lease=self.lease, log=self.log, progress=self.progress,
                      pins=Pins(self.directory.checkpoints, (), self.log.say))  # fmt: skip
        self.opened.append(made)
        return made

    def said(self) -> str:
        return self.log.take()


def known(**fields: Any) -> Record:
    return replace(from_hash({"id": "a1", "name": "n", "state": "running", "created_ms": "5"}), **fields)


def saved(step: int) -> Saved:
    return Saved(step=step, path=f"/data/{step:06d}", manifest=f"m{step}", bytes=1_000_000)


def copy(step: int, place: str = "/share") -> Saved:
    return replace(saved(step), path=f"{place}/a1/{step:06d}")


def until(true: Any) -> None:
    wait(true, "what is waited for", seconds=PATIENCE)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path, "/share", Settings(home=tmp_path))
    yield made
    for one in made.opened:
        one.close()
    made.log.close()


def test_at_most_one_is_behind_and_the_newest_takes_its_place(run: Run, desk: Desk) -> None:
    made = run.copies()
    for step in (10, 20, 30):
        made.offer(saved(step))
        if step == 10:
            assert desk.step() == 10
            assert list(made.copying()) == [10]
    assert run.progress.fields["copy_detail"] == "step 30 waits for the copy of step 10"
    desk.answers.put({"copied": "/share/a1/000010", "gone": []})
    assert desk.step() == 30
    desk.answers.put({"copied": "/share/a1/000030", "gone": [5]})
    until(lambda: run.progress.fields["copied"] == copy(30))
    assert run.progress.fields["copy_detail"] == "" and made.behind() is None
    made.close()
    assert re.search(
        r"checkpoint 30 is copied to /share/a1/000030, 1 MB in \d+ s; removed its copies of \[5\]", run.said()
    )


def test_on_a_low_disk_the_copy_of_one_that_is_replaced_gives_way(run: Run, desk: Desk) -> None:
    made = run.copies()
    made.offer(saved(10))
    assert desk.step() == 10
    made.give_way()
    assert list(made.copying()) == [10], "none is newer: it stays"
    made.offer(saved(20))
    made.pins.add(10)
    made.give_way()
    assert list(made.copying()) == [10], "its user keeps it: it would make no room"
    made.pins.set(())
    made.give_way()
    assert 10 not in made.copying() and desk.step() == 20
    desk.answers.put({"copied": "/share/a1/000020", "gone": []})
    until(lambda: made.behind() is None)
    assert "the copy of checkpoint 10 is broken off" in run.said()
    made.give_way()


def test_a_copy_that_failed_is_told_and_tried_again_after_a_rest(
    run: Run, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "pause_seconds", lambda failures: 0.05 if failures < 3 else 3600.0)
    made = run.copies()
    made.offer(saved(10))
    for _ in range(2):
        assert desk.step() == 10
        desk.answers.put({"failed": "/share is full: make room there"})
    assert desk.step() == 10
    assert "step 10 is being copied" in run.progress.fields["copy_detail"]
    said = run.said()
    assert said.count("WARNING: checkpoint 10 is not copied: /share is full: make room there; tried again in") == 2
    # A newer one takes its place while it rests.
    desk.answers.put({"failed": "once more"})
    until(lambda: made.copying() == ())
    made.offer(saved(20))
    made.last(Reason.STOPPED_BY_BOX, until=lambda: True)
    assert desk.step() == 20


def test_the_rests_grow_from_a_minute_to_half_an_hour() -> None:
    assert [rules.pause_seconds(n) for n in (1, 2, 3, 5, 6, 40)] == [60, 120, 240, 960, 1800, 1800]


def test_a_damaged_checkpoint_is_not_tried_again_and_a_newer_one_is(run: Run, desk: Desk) -> None:
    made = run.copies()
    made.offer(saved(10))
    assert desk.step() == 10
    desk.answers.put({"failed": "the checkpoint here is damaged: x", "damaged": True})
    until(lambda: "is not copied" in run.progress.fields["copy_detail"])
    assert "tried again" not in run.progress.fields["copy_detail"]
    made.offer(saved(20))
    assert desk.step() == 20


def test_whoever_hands_its_job_back_waits_for_the_last_copy(run: Run, desk: Desk) -> None:
    made = run.copies()
    made.offer(saved(10))
    waiting = threading.Thread(target=made.last, args=(Reason.STOPPED_BY_BOX,), kwargs={"until": lambda: False})
    waiting.start()
    assert desk.step() == 10
    assert waiting.is_alive()
    desk.answers.put({"copied": "/share/a1/000010", "gone": []})
    waiting.join(PATIENCE)
    assert not waiting.is_alive() and made.behind() is None


@pytest.mark.parametrize("what", ["time", "lease", "wish", "failure", "reason"])
def test_and_not_for_ever(run: Run, desk: Desk, what: str) -> None:
    made = run.copies(copy_seconds=0.2 if what == "time" else 600.0)
    made.offer(saved(10))
    assert desk.step() == 10
    if what == "lease":
        run.lease.revoke()
    for _ in range(2 if what == "failure" else 0):
        # Once more for one that is heard of before anyone waits: that is tried again.
        desk.answers.put({"failed": "no room"})
    reason = Reason.TRAINER_FAILED if what == "reason" else Reason.STOPPED_BY_BOX
    made.last(reason, until=lambda: what == "wish")
    assert made.behind() == saved(10)
    if what != "reason":
        assert "step 10 is not copied" in run.progress.fields["copy_detail"]


def test_one_that_rests_is_tried_at_once_before_the_job_is_handed_back(run: Run, desk: Desk) -> None:
    made = run.copies()
    made.offer(saved(10))
    assert desk.step() == 10
    desk.answers.put({"failed": "no room"})
    until(lambda: made.copying() == ())
    desk.answers.put({"copied": "/share/a1/000010", "gone": []})
    made.last(Reason.STOPPED_BY_BOX, until=lambda: False)
    assert desk.step() == 10 and made.behind() is None


def test_the_end_of_the_run_waits_for_no_copy(run: Run, desk: Desk) -> None:
    made = run.copies()
    made.offer(saved(10))
    assert desk.step() == 10
    made.close()
    made.offer(saved(20))
    assert desk.orders.empty() and made.behind() == saved(20)


def test_where_no_copies_are_wanted_nothing_happens(run: Run, desk: Desk) -> None:
    run.spec = replace(run.spec, rehearsal=True)
    made = run.copies(known(checkpoint=saved(10), copied=copy(10)), epoch=2)
    made.offer(saved(20))
    assert made.newest(None) is None and made.behind() is None
    assert desk.orders.empty() and "copied" not in run.progress.fields


# -- the resume ---------------------------------------------------------------------------------------


def test_what_is_here_and_as_new_as_all_that_is_known_needs_no_copy(run: Run, desk: Desk) -> None:
    made = run.copies(known(checkpoint=saved(20), copied=copy(10)), epoch=2)
    assert made.newest(saved(20)) == saved(20)
    # And is copied itself.
    assert desk.step() == 20


def test_a_first_claim_looks_for_no_copies(run: Run, desk: Desk) -> None:
    assert run.copies(epoch=1).newest(None) is None
    assert desk.orders.empty()


def test_a_place_that_can_not_be_reached_costs_no_steps_but_time(run: Run, desk: Desk) -> None:
    made = run.copies(known(checkpoint=saved(20), copied=copy(20)), epoch=2)
    desk.answers.put({"failed": "the Hub could not be reached"})
    with pytest.raises(Stop, match=r"network: its checkpoint of step 20 is copied to /share and can't be had now"):
        made.newest(saved(10))


def test_copies_that_are_gone_are_told_and_what_is_here_is_taken(run: Run, desk: Desk) -> None:
    made = run.copies(known(checkpoint=saved(20), copied=copy(20)), epoch=2)
    desk.answers.put({"fetched": ""})
    assert made.newest(saved(10)) == saved(10)
    assert "WARNING: there is no good copy of step 20 in /share any more" in run.said()
    assert desk.orders.get()["newer_than"] == 10
    assert desk.step() == 10


def test_past_the_lease_nothing_is_brought_back(run: Run, desk: Desk) -> None:
    made = run.copies(known(copied=copy(20)), epoch=2)
    desk.answers.put({"lost": "the lease is over"})
    with pytest.raises(saves.NotOurs):
        made.newest(None)


# -- with the real process ------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Run]:
    (tmp_path / "share").mkdir()
    made = Run(tmp_path, str(tmp_path / "share"), Settings(home=tmp_path))
    yield made
    for one in made.opened:
        one.close()
    made.log.close()


def test_it_goes_there_and_comes_back_past_a_damaged_one(shared: Run, tmp_path: Path) -> None:
    made = shared.copies()
    for step in (10, 20):
        made.offer(checkpoint(shared.directory.checkpoints, step))
        until(lambda step=step: made.copied and made.copied.step == step)
    made.close()
    before = content(shared.directory.checkpoints / "000010")
    model = tmp_path / "share/a1/000020/pretrained_model/model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    other = Run(tmp_path / "other", str(tmp_path / "share"), Settings(home=tmp_path / "other"))
    record = known(checkpoint=made.copied, copied=made.copied)
    copies = other.copies(record, epoch=2)
    back = copies.newest(None)
    assert back and (back.step, back.path) == (10, str(other.directory.checkpoints / "000010"))
    assert content(other.directory.checkpoints / "000010") == before
    assert (other.directory.checkpoints / "last").readlink() == Path("000010")
    assert saves.newest(other.directory.checkpoints, print) == back
    assert copies.back == str(tmp_path / "share") and not (other.directory.path / "fetched").exists()
    assert "WARNING: the copy of checkpoint 20 is damaged (pretrained_model/model.safetensors has" in other.said()
    assert (tmp_path / "share/a1/000020.bad").is_dir()
    other.log.close()


def test_the_process_stands_back_and_is_none_of_the_trainers(shared: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kill_all` ends whatever a trainer left behind, at each of its ends; a copy goes on."""
    spare, seen = process.spare, list[tuple[bool, bool]]()

    def spared(pid: int, *, no_more: bool = False) -> None:
        before = pid in process.descendants(os.getpid())
        spare(pid, no_more=no_more)
        if not no_more:
            seen.append((before, pid in process.descendants(os.getpid())))

    monkeypatch.setattr(process, "spare", spared)
    made = shared.copies()
    made.offer(checkpoint(shared.directory.checkpoints, 10))
    until(lambda: made.copied)
    assert seen == [(True, False)]
    assert process._spared == set()


def test_a_process_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "START_SECONDS", 0.2)
    settings = Settings(home=tmp_path, stall_seconds=0.2)
    monkeypatch.setattr(clerk, "command", lambda: ["/bin/sleep", "60"])
    with pytest.raises(child.Broken, match="nothing moved for 0 s"):
        list(clerk.send({"place": "/share"}, settings, over=threading.Event()))


def test_a_process_that_can_t_be_started_is_told_and_tried_again(shared: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may have had no process to spare for a moment."""
    monkeypatch.setattr(rules, "pause_seconds", lambda failures: 0.01)
    monkeypatch.setattr(clerk, "command", lambda: ["/none/there"])
    made = shared.copies()
    made.offer(checkpoint(shared.directory.checkpoints, 10))
    for _ in range(2):
        until(lambda: "not copied: the process that copies could not be started" in shared.said())

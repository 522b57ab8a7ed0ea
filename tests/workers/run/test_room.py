"""Room on the data disk: what is done about it, in which order, and what a run that stops for it asks for then."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.diagnosis import Diagnosis
from pi0q.jobs.disk import with_margin
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.spec import parse
from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.workers import stock, uses
from pi0q.workers.probe import Disk
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.room import Act, Room, judge
from tests.workers.caches import DAY, checkpoint, fill, repo

pytest.importorskip("huggingface_hub")

MIB = 2**20
SPEC = parse(
    "name: x\ntrain: {dataset: {repo_id: you/set}, policy: {type: pi0, dtype: bfloat16, pretrained_path: you/base}}\n",
    filename="x",
)


def disk(free_mib: int, inodes: int | None = None) -> Disk:
    return Disk(path="/data", free_mib=free_mib, free_inodes=inodes, resource="disk:x")


@pytest.mark.parametrize(
    ("free", "inodes", "freed", "act"),
    [
        (1100, None, False, Act.NOTHING),
        (1099, None, False, Act.FREE),
        (1099, None, True, Act.SAVE),
        (1011, None, True, Act.SAVE),
        (1010, None, True, Act.STOP),
        (0, None, False, Act.FREE),
        (9999, 400, False, Act.NOTHING),
        (9999, 399, False, Act.FREE),
        (9999, 399, True, Act.SAVE),
        (9999, 199, True, Act.STOP),
    ],
)
def test_what_is_done_about_a_disk(free: int, inodes: int | None, freed: bool, act: Act) -> None:
    """The next save takes 1000 MiB and wants a tenth beside it."""
    assert judge(disk(free, inodes), save_mib=1000, freed=freed) is act


class Owner:
    """FAKE: what the room says to the log and the history."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.moved: list[str] = []
        self.ledger = type("L", (), {"epoch": 1, "box": "box-a"})

    def say(self, text: str) -> None:
        self.said.append(text)

    def move(self, transition: Any) -> None:
        self.moved.append(transition.text)


class Lease:
    """FAKE: ours or not."""

    def __init__(self, ours: bool = True) -> None:
        self.ours = lambda: ours


def record(**fields: Any) -> Record:
    known: dict[str, Any] = {"id": "a1", "name": "x", "state": State.RUNNING, "priority": "normal", "submitter": ""}
    return Record(**known | {"spec": {}, "needs": {}, "created_ms": 0, "updated_ms": 0} | fields)


class Case:
    """A run, its disk and its room."""

    def __init__(self, settings: Settings, **fields: Any) -> None:
        self.settings, self.directory, self.owner = settings, RunDirectory(settings.runs / "a1"), Owner()
        self.directory.make()
        self.free_mib = 10**6
        self.room = Room(
            settings, record(**fields), SPEC, self.directory, self.owner,  # type: ignore[arg-type]
            measure=lambda _: disk(self.free_mib),
        )  # fmt: skip
        self.now = 0.0

    def look(self) -> Act:
        self.now += 10
        return self.room.look(self.now)

    def trains(self, mib: int = 1000) -> None:
        self.room.resumes(saved(40, mib))
        self.room.event({"event": "ready"})

    def free(self, *pruned: int, ours: bool = True) -> None:
        self.room.free(lambda: list(pruned), Lease(ours))  # type: ignore[arg-type]


def saved(step: int, mib: int = 1000) -> Saved:
    return Saved(step=step, path="", manifest="", bytes=mib * MIB)


@pytest.fixture
def case(chosen: Settings) -> Case:
    return Case(chosen)


def test_while_there_is_room_nothing_is_done_and_low_is_met_by_freeing_first(case: Case) -> None:
    case.trains()
    assert case.look() is Act.NOTHING
    case.free_mib = 1050
    assert case.look() is Act.FREE
    assert case.look() is Act.NOTHING, "it is being freed"
    case.free()
    assert case.look() is Act.SAVE
    assert case.room.why == "1.0 GiB free on /data, the next save takes 1.0 GiB"


def test_room_that_came_back_begins_anew(case: Case) -> None:
    case.trains()
    case.free_mib = 5
    assert case.look() is Act.FREE
    case.free()
    case.free_mib = 5000
    assert case.look() is Act.NOTHING
    case.free_mib = 5
    assert case.look() is Act.FREE


def test_before_the_trainer_is_ready_and_during_a_save_nothing_is_judged(case: Case) -> None:
    case.free_mib = 0
    case.room.resumes(saved(40))
    assert case.look() is Act.NOTHING
    case.room.event({"event": "ready"})
    case.room.event({"event": "saving"})
    assert case.look() is Act.NOTHING, "the room that a save takes is not missing for the next one"
    case.room.sealed(None)
    assert case.look() is Act.FREE


def test_it_does_not_look_at_each_of_a_thousand_steps(case: Case) -> None:
    case.trains()
    case.now = 100.0
    assert case.look() is Act.NOTHING
    case.free_mib = 0
    assert case.room.look(case.now + 0.5) is Act.NOTHING
    assert case.room.look(case.now + 1.5) is Act.FREE


def test_the_first_save_is_reckoned_and_never_more_than_the_parameters_can_take(case: Case) -> None:
    assert case.room.save_mib > 20_000
    case.room.event({"event": "ready", "params": 17_000_000})
    assert case.room.save_mib == -(-17_000_000 * 8 // MIB)
    case.room.sealed(saved(10, 77))
    assert case.room.save_mib == 77


def test_what_nobody_misses_goes_first_and_no_more_than_needed(case: Case) -> None:
    """Moved aside and unfinished, then verified ones that are replaced, then caches; never the last good one."""
    case.trains()
    case.free_mib = 0
    checkpoint(case.directory, 10, verified=False, bad=True)
    checkpoint(case.directory, 20, verified=False)
    checkpoint(case.directory, 40)
    checkpoint(case.directory, 50, verified=False)  # in the making
    fill(case.directory.path / "output.old" / "wandb" / "x", 1)
    repo(case.settings.hf_home, "you/other", used=2 * DAY)
    repo(case.settings.hf_home, "you/older", used=DAY)
    repo(case.settings.hf_home, "you/base")
    repo(case.settings.hf_home, "you/set", kind="dataset")
    repo(case.settings.hf_home, "you/pinned")
    uses.pin(uses.of_hub(case.settings.hf_home), "models--you--pinned", True)
    repo(case.settings.hf_home, "you/foreign", used=None)
    case.free(30)
    (text,) = case.owner.moved
    gone = text.partition("removed ")[2]
    order = ["output.old", "000010.bad", "000020", "checkpoint 30", "you/older", "you/other"]
    assert sorted(order, key=gone.index) == order and case.owner.said == [text]
    kept = {path.name for path in case.directory.checkpoints.iterdir()}
    assert kept == {"000040", "000050"}
    left = {path.name for path in (case.settings.hf_home / "hub").iterdir() if not path.name.startswith(".")}
    assert left == {"models--you--base", "datasets--you--set", "models--you--pinned", "models--you--foreign"}


def test_it_ends_as_soon_as_there_is_room(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.trains()
    case.free_mib = 0
    checkpoint(case.directory, 10, verified=False, bad=True)
    repo(case.settings.hf_home, "you/other")
    measured = iter([5000])
    monkeypatch.setattr(case.room, "_measure", lambda _: disk(next(measured)))
    case.free(30)
    assert case.owner.moved[0].endswith("removed 000010.bad, which nothing goes on from")
    assert (case.settings.hf_home / "hub" / "models--you--other").is_dir()


def test_without_the_lease_nothing_goes(case: Case) -> None:
    case.trains()
    bad = checkpoint(case.directory, 10, verified=False, bad=True)
    repo(case.settings.hf_home, "you/other")
    case.free(ours=False)
    assert bad.is_dir() and case.owner.moved == []
    assert case.room.held(Reason.DISK_FULL, Lease(False), saved(40)) and bad.is_dir()  # type: ignore[arg-type]


def test_a_run_with_verified_checkpoints_in_what_was_set_aside_keeps_that(case: Case) -> None:
    case.trains()
    case.free_mib = 0
    old = fill(case.directory.path / "output.old" / "checkpoints" / "000030" / "pi0q.manifest.json", 1)
    case.free()
    assert old.exists()


# -- the end of a run


def held(case: Case, reason: Reason = Reason.DISK_LOW, newest: Saved | None = None) -> dict[str, Any]:
    return case.room.held(reason, Lease(), newest)  # type: ignore[arg-type]


def test_a_run_that_got_on_asks_for_the_next_save_and_its_margin(case: Case) -> None:
    case.trains()
    assert held(case, newest=saved(50)) == {
        "disk_plan": {"checkpoint_mib": 1000, "free": {"box-a": with_margin(1000)}},
    }


def test_a_run_that_got_nowhere_asks_for_twice_as_much_as_the_last_time(chosen: Settings) -> None:
    before = {"checkpoint_mib": 1000, "free": {"box-a": 5000, "box-b": 7}}
    case = Case(chosen, disk_plan=before)
    case.trains()
    assert held(case, newest=saved(40))["disk_plan"]["free"] == {"box-a": 10_000, "box-b": 7}
    assert held(case, newest=saved(50))["disk_plan"]["free"] == {"box-a": with_margin(1000), "box-b": 7}


def test_a_first_save_that_filled_the_disk_says_how_large_it_was_at_the_least(case: Case) -> None:
    case.room.event({"event": "ready", "params": MIB // 8})
    fill(case.directory.checkpoints / "000010" / "pretrained_model" / "model.safetensors", 6)
    plan = held(case, Reason.DISK_FULL)["disk_plan"]
    assert plan["checkpoint_mib"] == 12
    assert not (case.directory.checkpoints / "000010").exists()
    assert case.owner.said == ["removed the unfinished save of step 10"]


def test_any_other_end_forgets_it_once_a_newer_checkpoint_is_there(chosen: Settings) -> None:
    case = Case(chosen, disk_plan={"free": {"box-a": 5000}})
    case.trains()
    assert held(case, Reason.RUNNER_LOST, saved(40)) == {}
    assert held(case, Reason.FINISHED, saved(50)) == {"disk_plan": {}}
    assert held(Case(chosen), Reason.FINISHED, saved(50)) == {}


def test_the_end_is_told_with_numbers(case: Case) -> None:
    case.free_mib = 5
    assert case.room.told(Reason.DISK_FULL, "OSError: x") == (Reason.DISK_FULL, "OSError: x (5 MiB free on /data)")
    case.trains(50)
    assert case.look() is Act.FREE
    told = case.room.told(Reason.DISK_LOW, "the data disk ran low; saved and stopped")
    assert told[1] == "the data disk ran low: 5 MiB free on /data, the next save takes 50 MiB; saved and stopped"
    assert case.room.told(Reason.HUNG, "no step") == (Reason.HUNG, "no step")


def test_an_odd_word_for_a_full_disk_is_known_by_the_disk(case: Case) -> None:
    """torch.save says "unexpected pos 576 vs 534" there."""
    case.trains()
    case.free_mib = 0
    failed = Diagnosis(reason=Reason.TRAINER_FAILED, detail="unexpected pos 576 vs 534", cure="")
    assert case.room.blame(failed) is failed, "it was not saving"
    case.room.event({"event": "saving"})
    assert case.room.blame(failed).reason is Reason.DISK_FULL and "pi0q why" in case.room.blame(failed).cure
    hung = replace(failed, reason=Reason.HUNG)
    assert case.room.blame(hung) is hung
    case.free_mib = 5000
    assert case.room.blame(failed) is failed


def test_a_disk_that_can_t_be_asked_is_left_alone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: Path) -> Disk:
        raise OSError(errno.ESTALE, "stale handle")

    case.trains()
    monkeypatch.setattr(case.room, "_measure", gone)
    assert case.look() is Act.NOTHING
    assert case.room.told(Reason.DISK_FULL, "x") == (Reason.DISK_FULL, "x")


def test_what_was_fetched_comes_off_the_promise(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "laid", lambda *_: {})
    monkeypatch.setattr(stock, "fetched_mib", lambda *_: 700)
    before = case.room.mib_before
    case.room.before(resuming=True)
    fill(case.directory.path / "x", 3)
    assert case.room.fetched({}) == 703
    assert case.room.mib_before == before - 700

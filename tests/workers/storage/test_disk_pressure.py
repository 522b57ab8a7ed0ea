"""Disk pressure: what is done about a low disk, and in which order."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.record import Record, Saved
from pi0q.jobs.spec import parse
from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.workers.host import usage_locks
from pi0q.workers.host.probe import Disk
from pi0q.workers.runs.lease import LeaseExpired
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.run_request import RunRequest
from pi0q.workers.runs.stop import StopCause
from pi0q.workers.storage import disk_pressure as module
from pi0q.workers.storage.disk_pressure import Act, DiskPressure, RunCleaner, SaveSize, decide
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
    assert decide(disk(free, inodes), save_mib=1000, evicted=freed) is act


class Lease:
    """FAKE: valid or not."""

    def __init__(self) -> None:
        self.valid = True

    def is_valid(self) -> bool:
        return self.valid

    def require_valid(self) -> None:
        if not self.valid:
            raise LeaseExpired


def record(**fields: Any) -> Record:
    known: dict[str, Any] = {"id": "a1", "name": "x", "state": State.RUNNING, "priority": "normal", "submitter": ""}
    return Record(**known | {"spec": {}, "needs": {}, "created_ms": 0, "updated_ms": 0} | fields)


def context(settings: Settings, **fields: Any) -> RunContext:
    directory = RunDirectory(settings.runs / "a1")
    directory.make()
    request = RunRequest(job_id="a1", epoch=1, python="python", lerobot="0.6.1")
    return RunContext(
        request=request, record=record(**fields), raw={}, spec=SPEC, settings=settings, directory=directory, box="box-a"
    )


class Case:
    """A run, its disk, and the pressure on it."""

    def __init__(self, settings: Settings) -> None:
        self.context = context(settings)
        self.settings, self.directory = settings, self.context.directory
        self.free_mib, self.pruned, self.notes = 10**6, list[int](), list[str]()
        self.lease, self.size = Lease(), SaveSize(SPEC)
        cleaner = RunCleaner(self.context, self.lease, keep_newest_only=lambda: self.pruned)  # type: ignore[arg-type]
        self.pressure = DiskPressure(
            settings.home,
            self.size,
            cleaner,
            run_in_turn=lambda act: None,
            note=self.notes.append,
            measure=lambda _: disk(self.free_mib),
        )
        self.now = 0.0

    def look(self) -> Act:
        self.now += 10
        return self.pressure.look(self.now)

    def event(self, kind: str, **fields: Any) -> None:
        for listener in (self.size, self.pressure):
            listener.on_event({"event": kind, **fields})

    def trains(self, mib: int = 1000) -> None:
        self.size.measure(saved(40, mib))
        self.event("ready")

    def evict(self, *pruned: int) -> None:
        self.pruned = list(pruned)
        self.pressure.evict()


def saved(step: int, mib: int = 1000) -> Saved:
    return Saved(step=step, path="", manifest="ab" * 32, bytes=mib * MIB)


@pytest.fixture
def case(chosen: Settings) -> Case:
    return Case(chosen)


def test_while_there_is_room_nothing_is_done_and_low_is_met_by_freeing_first(case: Case) -> None:
    case.trains()
    assert case.look() is Act.NOTHING
    case.free_mib = 1050
    assert case.look() is Act.FREE
    assert case.look() is Act.NOTHING, "it is being freed"
    case.evict()
    assert case.look() is Act.SAVE
    assert case.pressure.shortage == "1.0 GiB free on /data, the next save takes 1.0 GiB"


def test_room_that_came_back_begins_anew(case: Case) -> None:
    case.trains()
    case.free_mib = 5
    assert case.look() is Act.FREE
    case.evict()
    case.free_mib = 5000
    assert case.look() is Act.NOTHING
    case.free_mib = 5
    assert case.look() is Act.FREE


def test_before_the_trainer_is_ready_and_during_a_save_nothing_is_judged(case: Case) -> None:
    case.free_mib = 0
    case.size.measure(saved(40))
    assert case.look() is Act.NOTHING
    case.event("ready")
    case.event("saving")
    assert case.look() is Act.NOTHING, "the room that a save takes is not missing for the next one"
    case.pressure.on_sealed(None)
    assert case.look() is Act.FREE


def test_it_does_not_look_at_each_of_a_thousand_steps(case: Case) -> None:
    case.trains()
    case.now = 100.0
    assert case.look() is Act.NOTHING
    case.free_mib = 0
    assert case.pressure.look(case.now + 0.5) is Act.NOTHING
    assert case.pressure.look(case.now + 1.5) is Act.FREE


def test_the_first_save_is_reckoned_and_never_more_than_the_parameters_can_take(case: Case) -> None:
    assert case.size.mib > 20_000
    case.event("ready", params=17_000_000)
    assert case.size.mib == -(-17_000_000 * 8 // MIB)
    case.size.on_sealed(None)
    case.size.on_sealed(saved(10, 77))
    assert case.size.mib == 77


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
    usage_locks.pin(usage_locks.of_hub(case.settings.hf_home), "models--you--pinned", True)
    repo(case.settings.hf_home, "you/foreign", used=None)
    case.evict(30)
    (text,) = case.notes
    gone = text.partition("removed ")[2]
    order = ["output.old", "000010.bad", "000020", "checkpoint 30", "you/older", "you/other"]
    assert sorted(order, key=gone.index) == order
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
    monkeypatch.setattr(case.pressure, "_measure", lambda _: disk(next(measured)))
    case.evict(30)
    assert case.notes[0].endswith("removed 000010.bad, which nothing goes on from")
    assert (case.settings.hf_home / "hub" / "models--you--other").is_dir()


def test_without_the_lease_nothing_goes(case: Case) -> None:
    case.trains()
    bad = checkpoint(case.directory, 10, verified=False, bad=True)
    repo(case.settings.hf_home, "you/other")
    case.lease.valid = False
    case.evict()
    assert bad.is_dir() and case.notes == []


def test_a_run_with_verified_checkpoints_in_what_was_set_aside_keeps_that(case: Case) -> None:
    case.trains()
    case.free_mib = 0
    old = fill(case.directory.path / "output.old" / "checkpoints" / "000030" / "pi0q.manifest.json", 1)
    case.evict()
    assert old.exists()


def test_a_low_disk_evicts_first_and_then_stops_the_run_for_its_cause(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = list[Any]()
    monkeypatch.setattr(case.pressure, "_run_in_turn", acts.append)
    case.trains()
    case.free_mib = 1050
    assert case.pressure.check() is None and acts == [case.pressure.evict]
    case.evict()
    assert case.pressure.check() is StopCause.DISK_LOW
    case.free_mib = 5
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    assert case.pressure.check() is StopCause.DISK_FULL


def test_a_trainer_without_a_hook_is_not_stopped_for_the_disk(case: Case) -> None:
    case.event("start", hooked=False)
    case.trains()
    case.free_mib = 5
    assert case.pressure.check() is None
    case.evict()
    assert case.pressure.check() is None


def test_a_disk_that_can_t_be_asked_is_left_alone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: Path) -> Disk:
        raise OSError(errno.ESTALE, "stale handle")

    case.trains()
    monkeypatch.setattr(case.pressure, "_measure", gone)
    assert case.look() is Act.NOTHING

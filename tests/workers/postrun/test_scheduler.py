"""Post-run tasks of runs, done apart: what is due, what rests, what is another's, and what the queue hears of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.state import OWNED
from pi0q.jobs.transition import ended
from pi0q.queue.ownership_lost import OwnershipLost, StaleServer
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.store_types import PostrunStatus
from pi0q.workers.postrun.scheduler import (
    KINDS,
    RETRY,
    GiveUp,
    PostrunScheduler,
    RetryLater,
    TaskContext,
    TaskDone,
    TaskKind,
    retry_delay,
)
from pi0q.workers.runs.postrun_tasks import DONE, FAILED, PENDING, PostrunTask, PostrunTasks
from tests.conftest import JobDriver
from tests.workers.conftest import join_tries

#: What the next try of a task comes to, and which were tried.
NEXT: list[Callable[[TaskContext], TaskDone]] = []
TRIED: list[str] = []


def work(context: TaskContext) -> TaskDone:
    TRIED.append(context.job_id)
    return NEXT.pop(0)(context) if NEXT else TaskDone(detail="done", result={"url": "u"})


def fails(error: Exception) -> Callable[[TaskContext], TaskDone]:
    def fail(context: TaskContext) -> TaskDone:
        raise error

    return fail


class Tended(PostrunScheduler):
    """One whose clock is set by hand and whose rounds are waited for."""

    now = 1000.0

    def tend(self) -> None:
        self.round()
        join_tries()


@pytest.fixture
def scheduler(chosen: Settings, store: Store) -> Iterator[Tended]:
    NEXT.clear()
    TRIED.clear()
    kinds = {
        "push": TaskKind(work=f"{__name__}:work", field="push"),
        "wandb": TaskKind(work=f"{__name__}:work", field="wandb_sync", own=True),
        "swanlab": TaskKind(work=f"{__name__}:work", field="swanlab_sync", own=True, live=True),
    }
    made = Tended(chosen, store, box="box-a", kinds=kinds, clock=lambda: made.now)
    yield made
    made.stop()


def succeeded(driver: JobDriver, job: str, box: str = "box-a") -> int:
    epoch = driver.run(job, box)
    record = driver.store.get(job)
    assert driver.store.move(job, ended(record, epoch, Reason.FINISHED, "reached step 10"), box=box)
    return epoch


def left(scheduler: PostrunScheduler, job: str, *, kind: str = "push", epoch: int = 1, **more: Any) -> PostrunTasks:
    place = scheduler.settings.runs / job
    place.mkdir(parents=True, exist_ok=True)
    tasks = PostrunTasks(place)
    tasks.add(PostrunTask(kind=kind, epoch=epoch, box="box-a", result={"repo": "you/it"}, **more))
    return tasks


def only(tasks: PostrunTasks) -> PostrunTask:
    (task,) = tasks.read()
    return task


def test_every_kind_is_there_and_has_its_field_in_the_record() -> None:
    assert all(callable(kind.load()) for kind in KINDS.values())
    assert {kind.field for kind in KINDS.values()} <= set(Record.__dataclass_fields__)


def test_a_task_of_a_run_that_ended_is_done_and_told(scheduler: Tended, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    tasks = left(scheduler, job, epoch=succeeded(driver, job))
    scheduler.tend()
    assert store.get(job).push == {"state": "done", "detail": "done", "tries": 0, "repo": "you/it", "url": "u"}
    scheduler.tend()
    assert (TRIED, only(tasks).state) == ([job], DONE)


def test_it_waits_for_the_end_to_be_told(scheduler: Tended, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    left(scheduler, job, epoch=driver.run(job))
    scheduler.tend()
    assert TRIED == [] and store.get(job).push == {}


def test_one_that_may_is_done_beside_the_training_and_told_once_it_was_tried(
    scheduler: Tended, driver: JobDriver, store: Store
) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    NEXT.append(lambda context: TaskDone(detail="sent", fields={"swanlab_url": f"https://s/{context.record.state}"}))
    left(scheduler, job, kind="swanlab", epoch=epoch, told=True)
    left(scheduler, job, kind="wandb", epoch=epoch)
    scheduler.tend()
    known = store.get(job)
    assert (known.swanlab_sync["box-a"]["state"], known.swanlab_url) == ("done", f"https://s/{known.state}")
    assert known.state in OWNED and [job] == TRIED and known.wandb_sync == {}


def test_one_of_a_run_that_another_box_ended_is_dropped(scheduler: Tended, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    driver.run(job)
    driver.let_lease_run_out(job)
    assert store.sweep() == [job]
    tasks = left(scheduler, job, epoch=1)
    assert succeeded(driver, job, "box-b") == 2
    scheduler.tend()
    assert TRIED == [] and tasks.read() == [] and store.get(job).push == {}


def test_what_failed_rests_longer_each_time_and_is_told(scheduler: Tended, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    left(scheduler, job, epoch=succeeded(driver, job))
    for tries in (1, 2, 3):
        NEXT.append(fails(RetryLater("the Hub is away")))
        scheduler.tend()
        told = store.get(job).push
        assert (told["state"], told["detail"], told["tries"]) == ("pending", "the Hub is away", tries)
        scheduler.now += retry_delay(tries) - 1
        scheduler.tend()
        assert len(TRIED) == tries, "it rests"
        scheduler.now += 2
    scheduler.tend()
    assert store.get(job).push["state"] == "done"


def test_retry_delay_doubles_and_is_never_longer_than_the_longest() -> None:
    assert [retry_delay(n) for n in (1, 2, 3)] == [RETRY.first * n for n in (1, 2, 4)]
    assert retry_delay(1, asked=300) == 300
    assert retry_delay(1, asked=9e9) == retry_delay(10**6) == retry_delay(1, slowly=True) == RETRY.longest


def test_a_clock_that_was_set_back_keeps_it_from_nothing(scheduler: Tended, driver: JobDriver) -> None:
    job = driver.submit()
    left(scheduler, job, epoch=succeeded(driver, job), next_at=scheduler.now + 10 * RETRY.longest)
    scheduler.tend()
    assert [job] == TRIED


def test_its_users_wish_tries_it_at_once_also_what_was_given_up(
    scheduler: Tended, driver: JobDriver, store: Store
) -> None:
    job = driver.submit()
    tasks = left(scheduler, job, epoch=succeeded(driver, job))
    NEXT.append(fails(GiveUp("the checkpoint is gone")))
    scheduler.tend()
    scheduler.now += 10 * RETRY.longest
    scheduler.tend()
    assert (len(TRIED), only(tasks).state, store.get(job).push["state"]) == (1, FAILED, "failed")
    store.retry_postrun(job, text="tried again")
    scheduler.tend()
    assert (len(TRIED), store.get(job).push["state"]) == (2, "done")
    assert store.get(job).history[-1].text == "tried again"
    # Heeded once.
    tasks.change(only(tasks), state=PENDING, next_at=scheduler.now + 5)
    scheduler.tend()
    assert len(TRIED) == 2


def test_a_fault_of_pi0q_ends_no_scheduler(scheduler: Tended, driver: JobDriver, store: Store) -> None:
    bad, good = driver.submit(), driver.submit()
    for job in (bad, good):
        left(scheduler, job, epoch=succeeded(driver, job))
    first = min(bad, good)
    NEXT.append(fails(ZeroDivisionError("secret")))
    scheduler.tend()
    scheduler.tend()
    assert store.get(first).push["state"] == "pending"
    assert store.get(first).push["detail"] == "failed with ZeroDivisionError (see the worker's log)"
    assert store.get(max(bad, good)).push["state"] == "done"


def test_two_of_a_kind_come_one_after_the_other(scheduler: Tended, driver: JobDriver) -> None:
    jobs = [driver.submit(), driver.submit()]
    for job in jobs:
        left(scheduler, job, epoch=succeeded(driver, job))
    inside, go = threading.Event(), threading.Event()

    def wait(context: TaskContext) -> TaskDone:
        inside.set()
        go.wait(20)
        return TaskDone(detail="done")

    NEXT.append(wait)
    scheduler.round()
    assert inside.wait(20)
    scheduler.round()
    assert len(TRIED) == 1
    go.set()
    scheduler.tend()
    scheduler.tend()
    assert sorted(TRIED) == sorted(jobs)


def test_one_that_ends_while_it_is_looked_at_is_not_begun_anew(
    scheduler: Tended, driver: JobDriver, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = driver.submit()
    left(scheduler, job, epoch=succeeded(driver, job))
    go, get = threading.Event(), store.get

    def wait(context: TaskContext) -> TaskDone:
        go.wait(20)
        return TaskDone(detail="done")

    def slow(job_id: str) -> Record:
        go.set()
        join_tries()
        return get(job_id)

    NEXT.append(wait)
    scheduler.round()
    monkeypatch.setattr(store, "get", slow)
    scheduler.tend()
    assert [job] == TRIED


def test_a_box_speaks_for_its_own_part_also_while_the_job_is_elsewhere(
    scheduler: Tended, driver: JobDriver, store: Store
) -> None:
    job = driver.submit()
    driver.run(job)
    driver.let_lease_run_out(job)
    assert store.sweep() == [job]
    driver.run(job, "box-b")
    left(scheduler, job, kind="wandb", epoch=1)
    store.report_postrun(
        job, 2, box="box-b", task=PostrunStatus(field="wandb_sync", status={"state": "pending"}, own=True)
    )
    scheduler.tend()
    told = store.get(job).wandb_sync
    assert (told["box-a"]["state"], told["box-b"]) == ("done", {"state": "pending"})


def test_only_the_box_of_its_end_writes_what_is_of_the_whole_job(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    with pytest.raises(StaleServer):
        store.report_postrun(job, epoch, box="box-a", task=PostrunStatus(field="push", status={}))
    record = store.get(job)
    assert store.move(job, ended(record, epoch, Reason.FINISHED, "done"), box="box-a")
    assert (
        store.report_postrun(
            job,
            epoch,
            box="box-a",
            task=PostrunStatus(field="push", status={"state": "done"}),
            fields={"wandb_url": "https://w/x"},
        )
        == 0
    )
    for other, box in ((epoch, "box-b"), (epoch - 1, "box-a")):
        with pytest.raises(OwnershipLost):
            store.report_postrun(job, other, box=box, task=PostrunStatus(field="push", status={"state": "failed"}))
    with pytest.raises(StaleServer):
        store.report_postrun(job, epoch + 1, box="box-a", task=PostrunStatus(field="push", status={}))
    known = store.get(job)
    assert (known.push, known.wandb_url) == ({"state": "done"}, "https://w/x")


def test_an_own_word_does_not_change_what_is_known_besides(driver: JobDriver, store: Store) -> None:
    """A link that a run has is not another's to change."""
    job = driver.submit(wandb_url="https://w/first")
    driver.run(job)
    store.report_postrun(
        job,
        1,
        box="box-b",
        task=PostrunStatus(field="wandb_sync", status={"state": "done"}, own=True),
        fields={"wandb_url": "https://w/second"},
    )
    assert store.get(job).wandb_url == "https://w/first"


def test_what_lies_on_the_disk_is_read_whatever_is_in_it(tmp_path: Path) -> None:
    tasks = PostrunTasks(tmp_path)
    assert tasks.read() == []
    for text in ("", "{", "[]", '{"chores": [1]}', '{"chores": [{"kind": "push"}]}'):
        tasks.file.write_text(text)
        assert tasks.read() == [], text
    tasks.file.write_text('{"chores": [{"kind": "push", "epoch": 1, "box": "b", "of_a_newer_pi0q": 1}]}')
    assert only(tasks).kind == "push"


def test_a_newer_task_of_its_kind_takes_its_place(tmp_path: Path) -> None:
    tasks = PostrunTasks(tmp_path)
    first, second = (PostrunTask(kind="push", epoch=epoch, box="b") for epoch in (1, 2))
    tasks.add(first)
    tasks.add(PostrunTask(kind="wandb", epoch=1, box="b"))
    tasks.add(second)
    assert tasks.change(first, state=DONE) is None
    tasks.drop(first)
    assert [(one.kind, one.epoch, one.state) for one in tasks.open()] == [("push", 2, PENDING), ("wandb", 1, PENDING)]

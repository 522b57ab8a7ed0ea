"""A record that cannot be read stops nothing: it is passed over, shown as broken, and can be removed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import pytest
import redis

from pi0q.jobs.errors import BadRecord, NotFound
from pi0q.jobs.state import State
from pi0q.queue.broken_records import BrokenRecordLog
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver
from tests.rig.damages import DAMAGES


def damage(store: Store, job: str, field: str, text: str) -> None:
    store.client.hset(store.prefix + f"job:{job}", field, text)


@pytest.mark.parametrize(("field", "text"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_record_is_passed_over_everywhere(field: str, text: str, driver: JobDriver, store: Store) -> None:
    before, job, after = driver.submit(), driver.submit(), driver.submit()
    damage(store, job, field, text)
    seen: list[BadRecord] = []
    store.on_broken = seen.append
    with pytest.raises(BadRecord, match=job):
        store.get(job)
    page = store.page()
    assert [record.id for record in page.jobs] == [before, after]
    assert [error.job_id for error in page.broken] == [job]
    assert {error.job_id for error in seen} == {job}
    json.dumps(page.broken[0].to_json(), allow_nan=False)
    in_scan = [record.id for record in store.waiting()]
    assert [one for one in in_scan if one != job] == [before, after]


def test_damaged_record_of_an_owned_job_hides_no_other_job_of_its_box(driver: JobDriver, store: Store) -> None:
    job, healthy = driver.submit(), driver.submit()
    driver.run(job), driver.run(healthy)
    damage(store, job, "gpus", "{")
    assert [record.id for record in store.owned("box-a")] == [healthy]


def test_record_that_is_no_hash_is_passed_over(driver: JobDriver, store: Store) -> None:
    job, healthy = driver.submit(), driver.submit()
    store.client.set(store.prefix + f"job:{job}", "x")
    page = store.page()
    assert ([record.id for record in page.jobs], [error.job_id for error in page.broken]) == ([healthy], [job])
    store.sweep(every_seconds=0.001)
    assert [record.id for record in store.waiting()] == [healthy]


@pytest.mark.parametrize("text", ["inf", "nan", "-5", "x", "1e400", "[1,2", '[["gpu:x"]]', '[1,{"a":2}]', '"x"'])
@pytest.mark.parametrize("field", ["epoch", "attempt", "fruitless", "promises", "queue", "kept_steps", "log_bytes"])
def test_sweep_goes_on_past_a_damaged_record(field: str, text: str, driver: JobDriver, store: Store) -> None:
    job, healthy = driver.submit(), driver.submit()
    driver.run(job), driver.run(healthy)
    damage(store, job, field, text)
    driver.let_lease_run_out(job)
    driver.let_lease_run_out(healthy)
    assert set(store.sweep(every_seconds=0.001)) == {job, healthy}
    assert store.get(healthy).state is State.QUEUED


def test_message_of_a_damaged_record_stays_out_of_foreign_keys(driver: JobDriver, store: Store) -> None:
    """The record's `queue` is the name of a list that scripts push to."""
    job, other = driver.submit(), driver.submit()
    epoch = driver.run(job)
    damage(store, job, "queue", f"job:{other}")
    assert epoch == 1
    driver.let_lease_run_out(job)
    store.sweep(every_seconds=0.001)
    assert {record.id for record in store.waiting()} == {job, other}


def test_damaged_history_entry_hides_no_other(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    for line in ("{", "[]", '{"at_ms":"x"}', '{"at_ms":1,"state":"bogus","epoch":0}', "[" * 50_000):
        store.client.rpush(store.prefix + f"history:{job}", line)
    history = store.get(job).history
    assert history[0].text == "submitted by ada@laptop"
    assert {event.text for event in history[1:]} == {"an entry that cannot be read: pi0q did not write it"}
    assert {event.at_ms for event in history} == {history[0].at_ms}


# -- removal ----------------------------------------------------------------------------------------


def test_discard_removes_every_trace_of_a_waiting_job(driver: JobDriver, store: Store) -> None:
    healthy = driver.submit()
    keys = set(store.client.scan_iter(store.prefix + "*"))
    job = driver.submit("poison")
    damage(store, job, "spec", "{")
    damage(store, job, "message", "")
    damage(store, job, "name", "another")
    assert store.discard(job, text="")
    # That an admin removed it is kept: what is gone besides was damaged.
    removed = f"{store.prefix}removed"
    assert set(store.client.scan_iter(store.prefix + "*")) == {*keys, removed}
    assert store.client.zrange(removed, 0, -1) == [job]
    assert [record.id for record in store.waiting()] == [healthy]
    for name in (job, "poison", "another"):
        with pytest.raises(NotFound):
            store.resolve(name)
    with pytest.raises(NotFound):
        store.discard(job, text="")


def test_discard_takes_back_what_was_promised(driver: JobDriver, store: Store) -> None:
    job, healthy = driver.submit(), driver.submit()
    driver.run(job, promises=[("gpu:GPU-1", 0, 100)])
    driver.run(healthy, promises=[("gpu:GPU-1", 1, 200)])
    damage(store, job, "promises", "{")
    damage(store, job, "state", "bogus")
    assert store.discard(job, text="")
    assert store.promises(["gpu:GPU-1"])["gpu:GPU-1"][1] == {healthy: 200}
    assert [record.id for record in store.owned("box-a")] == [healthy]


def test_discard_asks_the_box_of_a_running_job_first(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    damage(store, job, "spec", "{")
    assert store.discard(job, text="cancelled by ada") is False
    assert driver.report(job, epoch) == "cancel"


# -- commands ----------------------------------------------------------------------------------------


@pytest.fixture
def poison(driver: JobDriver, store: Store) -> str:
    job = driver.submit("poison")
    damage(store, job, "spec", "{")
    return job


def test_ls_shows_a_damaged_record_as_broken(poison: str, driver: JobDriver, call: Command) -> None:
    healthy = driver.submit("healthy")
    shown = call("ls")
    assert shown.returncode == 0 and shown.stderr == ""
    (line,) = [line for line in shown.stdout.splitlines() if poison in line.split()[0]]
    assert "broken" in line and "spec is not a job as JSON" in line and f"`pi0q cancel {poison}`" in line
    assert any(healthy in line for line in shown.stdout.splitlines())
    jobs = {job["id"]: job for job in json.loads(call("ls", "--json").stdout)}
    assert jobs[poison]["state"] == "broken" and jobs[poison]["field"] == "spec"
    assert jobs[healthy]["state"] == "queued"


@pytest.mark.parametrize("verb", ["show", "why", "hold", "bump"])
def test_command_on_a_damaged_record_teaches(verb: str, poison: str, call: Command) -> None:
    more = ["--priority", "high"] if verb == "bump" else []
    said = call(verb, poison, *more)
    assert said.returncode == 1 and "Traceback" not in said.stderr
    what, effect, fix = said.stderr.strip().splitlines()
    assert f"The record of job {poison} is damaged: its field" in what
    assert effect == "No box runs it, and no other job is affected."
    assert fix.startswith(f"Fix: `pi0q cancel {poison}`")


def test_why_and_show_of_another_job_are_as_before(poison: str, driver: JobDriver, call: Command) -> None:
    healthy = driver.submit("healthy", spec={"name": "healthy"})
    for verb in ("show", "why"):
        said = call(verb, healthy)
        assert said.returncode == 0 and poison not in said.stdout and said.stderr == ""


def test_cancel_removes_a_damaged_record(
    poison: str, driver: JobDriver, call: Command, store: Store, env: dict[str, str]
) -> None:
    healthy = driver.submit("healthy")
    # Of those with roles only an admin may.
    said = call("cancel", poison, PI0Q_REDIS_URL=env["PI0Q_REDIS_URL"])
    assert said.returncode == 0 and "is removed" in said.stdout
    assert store.page().broken == () and [job.id for job in store.page().jobs] == [healthy]


def test_prune_broken_removes_all_of_them_and_nothing_else(driver: JobDriver, call: Command, store: Store) -> None:
    healthy, jobs = driver.submit("healthy"), [driver.submit() for _ in range(3)]
    for job in jobs:
        damage(store, job, "state", "bogus")
    assert sorted(json.loads(call("prune", "--broken", "--json").stdout)["removed"]) == sorted(jobs)
    assert [job.id for job in store.page().jobs] == [healthy] and store.page().broken == ()


def test_job_with_an_id_that_is_none_is_shown_and_removed(call: Command, store: Store, env: dict[str, str]) -> None:
    """Its id would lead out of the directory of runs."""
    job = "../../outside/precious"
    store.client.hset(store.prefix + f"job:{job}", mapping={"id": job, "state": "queued", "name": "x"})
    store.client.zadd(store.prefix + "live", {job: 1})
    store.client.zadd(store.prefix + "lookup", {f"i:{job}": 0})
    assert job in call("ls").stdout
    assert call("cancel", job, PI0Q_REDIS_URL=env["PI0Q_REDIS_URL"]).returncode == 0
    assert store.page().broken == ()


def test_log_names_a_damage_once_and_again_when_it_changes(
    driver: JobDriver, connect: Callable[[], redis.Redis], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    job = driver.submit()
    damage(store, job, "step", "x")
    watching = Store(connect(), store.prefix, on_broken=BrokenRecordLog())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            watching.page(), watching.waiting()
        damage(store, job, "step", "5")
        damage(store, job, "state", "bogus")
        watching.page()
    assert [record.getMessage().partition("(")[2].partition(")")[0] for record in caplog.records] == [
        "step is not a whole number of 0 or more",
        "state is not one of waiting, queued, claimed, preparing, running, succeeded, failed, cancelled",
    ]

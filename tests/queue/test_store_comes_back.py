"""A server that comes back: restarted, with an older copy of its data, as another process, with another clock."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from pi0q.jobs.outcome import Reason
from pi0q.jobs.state import State
from pi0q.jobs.transition import ended
from pi0q.ops.local import server as servers
from pi0q.queue.box_status import waits
from pi0q.queue.ownership_lost import OwnershipLost, StaleServer
from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimant, Claimed, HeartbeatReply, Reservation, ServerMemory

from ..conftest import PATIENCE, JobDriver

HOUR_MS = 3_600_000


@dataclass
class Life:
    """A server that can be killed, and come back with the data of an earlier moment."""

    place: Path
    port: int
    running: servers.Server

    def kill(self) -> None:
        self.running.process.kill()
        self.running.process.wait()

    def start(self) -> None:
        self.running = servers.start(self.place / "data", port=self.port, log=self.place / "log")

    def restart(self) -> None:
        self.kill()
        self.start()

    def keep(self) -> None:
        """What a backup would have of this moment."""
        shutil.rmtree(self.place / "kept", ignore_errors=True)
        shutil.copytree(self.place / "data", self.place / "kept")

    def go_back(self) -> None:
        self.kill()
        shutil.rmtree(self.place / "data")
        shutil.copytree(self.place / "kept", self.place / "data")
        self.start()


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    place = tmp_path_factory.mktemp("server")
    port = servers.choose_port(0, default=0, option="--port")
    opened = Life(place, port, servers.start(place / "data", port=port, log=place / "log"))
    yield opened
    opened.running.stop()


@pytest.fixture
def store(life: Life) -> Iterator[Store]:
    client = redis.Redis.from_url(life.running.url, decode_responses=True, socket_timeout=PATIENCE)
    client.flushall()
    yield Store(client)
    client.close()


def beat(store: Store, box: str = "box-a", *, beats: int = 0, **fields: str) -> HeartbeatReply:
    welcome = store.announce_box(
        box, f"id of {box}", {"status": "ready", **fields}, memory=ServerMemory(heartbeats=beats)
    )
    assert welcome is not None
    return welcome


def lease_left(store: Store, job: str) -> float:
    """Seconds."""
    score = store.client.zscore(store.prefix + "leases", job)
    assert score is not None
    return (score - store.now_ms()) / 1000


def jump(store: Store, ms: int) -> None:
    """As if the server's clock had just jumped by so much: all that it wrote down is as far behind."""
    store.client.hincrby(store.prefix + "server", "at", -ms)
    leases: list[tuple[str, float]] = store.client.zrange(store.prefix + "leases", 0, -1, withscores=True)  # type: ignore[assignment]
    store.client.zadd(store.prefix + "leases", {job: score - ms for job, score in leases})


def sweep(store: Store) -> list[str]:
    store.client.delete(store.prefix + "swept")
    return store.sweep()


# -- a restart --------------------------------------------------------------------------------------


def test_after_a_restart_claims_wait_until_each_box_that_lived_has_spoken(
    life: Life, store: Store, driver: JobDriver
) -> None:
    beat(store, "box-a"), beat(store, "box-b")
    job = driver.submit()
    life.restart()
    assert driver.try_claim(job, "box-a") == "regrouping"
    assert "for boxes to report their running jobs" in waits(store, store.get(job), 60.0)[0]
    assert beat(store, "box-a").claim_holdoff_seconds > 20
    assert driver.try_claim(job, "box-a") == "regrouping"
    assert beat(store, "box-b").claim_holdoff_seconds == 0
    assert driver.try_claim(job, "box-a") == Claimed(epoch=1)


def test_the_boxes_are_woken_when_the_wait_is_over(life: Life, store: Store) -> None:
    beat(store)
    life.restart()
    with store.subscribe("wake") as woken:
        beat(store)
        assert woken.get_message(timeout=PATIENCE)


def test_nobody_waits_for_a_box_that_was_stopped_or_long_gone(life: Life, store: Store, driver: JobDriver) -> None:
    beat(store, "box-a"), beat(store, "stopped", status="stopped"), beat(store, "long gone")
    store.client.zincrby(store.prefix + "boxes", -2 * HOUR_MS, "long gone")
    job = driver.submit()
    life.restart()
    beat(store, "box-a")
    assert driver.try_claim(job) == Claimed(epoch=1)


def test_the_wait_has_an_end(life: Life, store: Store, driver: JobDriver) -> None:
    beat(store, "box-a"), beat(store, "box-b")
    job = driver.submit()
    life.restart()
    assert driver.try_claim(job) == "regrouping"
    store.client.hincrby(store.prefix + "server", "until", -60_001)
    assert driver.try_claim(job) == Claimed(epoch=1)


def test_a_first_start_and_a_restart_without_boxes_wait_for_nothing(
    life: Life, store: Store, driver: JobDriver
) -> None:
    assert driver.try_claim(driver.submit()) == Claimed(epoch=1)
    life.restart()
    assert driver.try_claim(driver.submit()) == Claimed(epoch=1)


def test_no_lease_runs_out_because_the_server_was_away(life: Life, store: Store, driver: JobDriver) -> None:
    beat(store)
    short, long = driver.submit(), driver.submit()
    driver.run(short, lease_seconds=0.001), driver.run(long, lease_seconds=500)
    life.restart()
    jump(store, HOUR_MS)
    assert sweep(store) == []
    assert 20 < lease_left(store, short) <= 61 and 400 < lease_left(store, long) <= 501


# -- the server's clock -----------------------------------------------------------------------------


@pytest.mark.parametrize("ms", [2 * HOUR_MS, -2 * HOUR_MS])
def test_a_jump_of_the_servers_clock_leaves_each_lease_what_it_had(store: Store, driver: JobDriver, ms: int) -> None:
    beat(store)
    job = driver.submit()
    epoch = driver.run(job, lease_seconds=500)
    jump(store, ms)
    assert sweep(store) == []
    assert 400 < lease_left(store, job) <= 501
    assert driver.report(job, epoch) == ""
    # Nor does anyone have to wait: it is the same server.
    assert driver.try_claim(driver.submit()) == Claimed(epoch=1)


# -- older data ---------------------------------------------------------------------------------------


def held(store: Store, job: str) -> dict[str, str]:
    """What the ledger of its box has of a job."""
    return store.raw(job)


def restore(store: Store, job: str, epoch: int, fields: dict[str, str], box: str = "box-a", runs: bool = False) -> bool:
    return store.restore(
        job,
        epoch,
        Claimant(box=box, boot="1", lease_seconds=600),
        fields=fields,
        text="box-a knew better",
        runs=runs,
    )


def test_a_box_that_saw_more_makes_all_claims_wait_the_whole_time(life: Life, store: Store, driver: JobDriver) -> None:
    beat(store)
    job = driver.submit()
    life.keep()
    seen = [beat(store).heartbeats for _ in range(3)][-1]
    life.go_back()
    welcome = beat(store, beats=seen)
    assert welcome.older and welcome.claim_holdoff_seconds > 20
    assert driver.try_claim(job) == "regrouping"
    # It says so once: afterwards it remembers what this server counts.
    again = beat(store, beats=welcome.heartbeats)
    assert not again.older and again.claim_holdoff_seconds > 20


def test_a_server_that_knows_of_no_claim_is_told_of_it(life: Life, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    life.keep()
    promises = [("GPU-1", 0, 40_000)]
    epoch = driver.run(job, promises=promises)
    driver.report(job, epoch, step=300)
    ledger = held(store, job)
    life.go_back()
    with pytest.raises(StaleServer):
        driver.report(job, epoch, step=301)
    assert restore(store, job, epoch, ledger)
    record = store.get(job)
    assert (record.state, record.epoch, record.box, record.step) == (State.RUNNING, epoch, "box-a", 300)
    assert store.waiting() == [] and [owned.id for owned in store.owned("box-a")] == [job]
    assert store.promises(["GPU-1"])["GPU-1"][1] == {job: 40_000}
    assert [event.text for event in record.history][-1] == "box-a knew better"
    assert driver.report(job, epoch, step=302) == ""
    assert restore(store, job, epoch, ledger), "said twice it does nothing"
    assert len(store.get(job).history) == len(record.history)
    assert store.move(job, ended(store.get(job), epoch, Reason.FINISHED, "")) is State.SUCCEEDED
    assert store.promises(["GPU-1"])["GPU-1"][1] == {}


def test_a_job_that_the_server_never_heard_of_is_there_again(life: Life, store: Store, driver: JobDriver) -> None:
    driver.submit("other")
    life.keep()
    job = driver.submit("抓盒子")
    epoch = driver.run(job)
    ledger = held(store, job)
    life.go_back()
    assert restore(store, job, epoch, ledger)
    assert store.resolve("抓盒子") == store.resolve(job[:6]) == job
    assert [record.name for record in store.page().jobs] == ["抓盒子", "other"]
    # And goes the way of any other: interrupted it comes back into the queue with its own message.
    store.move(job, ended(store.get(job), epoch, Reason.RUNNER_LOST, ""))
    assert job in [record.id for record in store.waiting()]
    assert driver.claim(job) == epoch + 1


def test_an_owner_of_before_gives_way_and_leaves_nothing(life: Life, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    driver.run(job, "box-old", promises=[("GPU-old", 0, 7)])
    life.keep()
    store.move(job, ended(store.get(job), 1, Reason.RUNNER_LOST, ""))
    epoch = driver.run(job, "box-a", promises=[("GPU-new", 0, 7)])
    ledger = held(store, job)
    life.go_back()
    assert restore(store, job, epoch, ledger)
    assert store.owned("box-old") == [] and len(store.owned("box-a")) == 1
    assert store.promises(["GPU-old"])["GPU-old"][1] == {}
    with pytest.raises(OwnershipLost):
        store.report(job, 1, box="box-old", lease_seconds=600, fields={})


def test_a_stop_that_was_meant_for_an_owner_of_before_is_not_heard_again(
    life: Life, store: Store, driver: JobDriver
) -> None:
    job = driver.submit()
    first = driver.run(job)
    store.request_handback(job, text="")
    life.keep()
    store.move(job, ended(store.get(job), first, Reason.STOPPED_BY_BOX, "saved"))
    epoch = driver.run(job)
    ledger = held(store, job)
    life.go_back()
    assert restore(store, job, epoch, ledger)
    assert driver.report(job, epoch) == ""


def test_the_same_epoch_of_another_box_is_not_the_owner(life: Life, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    life.keep()
    epoch = driver.run(job, "box-a")
    ledger = held(store, job)
    life.go_back()
    assert driver.run(job, "box-b") == epoch
    with pytest.raises(OwnershipLost) as refused:
        store.report(job, epoch, box="box-a", lease_seconds=600, fields={})
    assert not isinstance(refused.value, StaleServer)
    assert not restore(store, job, epoch, ledger)
    assert store.move(job, ended(store.get(job), epoch, Reason.FINISHED, ""), box="box-a") is None
    assert (store.get(job).box, store.get(job).state) == ("box-b", State.RUNNING)


def test_a_claim_is_above_the_epochs_of_the_boxs_ledger(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    claimant = Claimant(box="box-a", boot="1", lease_seconds=600)
    claimed = store.claim(job, claimant, Reservation(), text="", at_least=8)
    assert claimed == Claimed(epoch=8)


def test_what_its_user_ended_meanwhile_stays_ended(life: Life, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    life.keep()
    epoch = driver.run(job)
    ledger = held(store, job)
    life.go_back()
    store.cancel(job, text="")
    assert not restore(store, job, epoch, ledger)
    assert store.get(job).state is State.CANCELLED


def test_an_older_copy_of_another_installation_is_told_nothing(store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    ledger = held(store, job)
    store.client.flushall()
    driver.submit()
    assert not restore(store, job, epoch, ledger)
    assert store.page().counts.live == 1


def test_an_emptied_server_gets_all_back_that_boxes_know(life: Life, store: Store, driver: JobDriver) -> None:
    first, second = driver.submit("first"), driver.submit("second")
    ledgers = [(job, driver.run(job), held(store, job)) for job in (first, second)]
    store.client.flushall()
    beat(store)
    assert [restore(store, *ledger) for ledger in ledgers] == [True, True]
    # Both of one millisecond: only the lost server knew which came first.
    assert sorted(job.name for job in store.page().jobs) == ["first", "second"]


def test_a_run_that_lives_is_not_ended_because_its_server_was_emptied(store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    ledger = held(store, job)
    store.client.flushall()
    driver.submit()
    assert restore(store, job, epoch, ledger, runs=True)
    assert driver.report(job, epoch) == "" and store.page().counts.live == 2


# -- drain and stop -----------------------------------------------------------------------------------


def test_a_drained_box_claims_nothing_until_that_is_undone(store: Store, driver: JobDriver) -> None:
    beat(store)
    job = driver.submit()
    with store.subscribe("wake") as woken:
        store.drain("box-a", "drain", text="ada: the disk is to be changed")
        assert woken.get_message(timeout=PATIENCE)
    assert beat(store).drain == "drain"
    assert store.boxes()[0]["drain_text"] == "ada: the disk is to be changed"
    assert driver.try_claim(job) == "drained"
    (why,) = waits(store, store.get(job), 60.0)
    assert "the disk is to be changed" in why and "pi0q drain box-a --undo" in why
    assert driver.try_claim(job, "box-b") == Claimed(epoch=1)
    store.drain("box-a", "", text="")
    assert beat(store).drain == ""
    assert driver.try_claim(driver.submit()) == Claimed(epoch=1)


def test_a_drain_that_was_undone_does_not_come_back_with_older_data(life: Life, store: Store) -> None:
    beat(store)
    store.drain("box-a", "now", text="")
    life.keep()
    store.drain("box-a", "", text="")
    seen = beat(store)
    life.go_back()
    welcome = store.announce_box(
        "box-a", "id of box-a", {}, memory=ServerMemory(heartbeats=seen.heartbeats, drain=seen.drain)
    )
    assert welcome is not None and welcome.older and welcome.drain == ""


def test_another_machine_that_takes_over_a_name_is_not_drained(store: Store) -> None:
    beat(store, status="stopped")
    store.drain("box-a", "now", text="")
    taken = store.announce_box("box-a", "another", {})
    assert taken is not None and taken.drain == ""


def test_a_stop_is_heard_by_the_owner_and_forgotten_in_the_queue(store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    assert store.request_handback(job, text="") is State.QUEUED
    epoch = driver.run(job)
    with store.subscribe(f"wish:{job}") as heard:
        assert store.request_handback(job, text="box-a is drained by ada") is State.RUNNING
        assert (heard.get_message(timeout=PATIENCE) or {}).get("data") == "stop"
    assert driver.report(job, epoch) == "stop"
    assert store.move(job, ended(store.get(job), epoch, Reason.STOPPED_BY_BOX, "saved")) is State.QUEUED
    assert driver.report(job, driver.run(job)) == ""


def test_a_cancel_beats_a_stop(store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    store.request_handback(job, text=""), store.cancel(job, text=""), store.request_handback(job, text="")
    assert driver.report(job, epoch) == "cancel"
    assert store.move(job, ended(store.get(job), epoch, Reason.STOPPED_BY_BOX, "saved")) is State.CANCELLED


# -- what must never be ----------------------------------------------------------------------------------


def test_an_owned_job_without_a_lease_gets_one(store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    driver.run(job)
    store.client.delete(store.prefix + "leases")
    sweep(store)
    assert 0 < lease_left(store, job) <= 60


def test_an_accepted_job_is_on_the_disk(life: Life, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    assert store.durable()
    life.restart()
    assert store.get(job).state is State.QUEUED


@pytest.mark.parametrize("damage", [{"state": "bogus"}, {"state": ""}, {"epoch": "nan"}, {"box": ""}])
def test_the_owner_of_a_damaged_record_puts_it_right(store: Store, driver: JobDriver, damage: dict[str, str]) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    ledger = store.raw(job)
    for name, text in damage.items():
        store.client.hset(f"{store.prefix}job:{job}", name, text)
    with pytest.raises(StaleServer):
        store.report(job, epoch, box="box-a", lease_seconds=600.0, fields={})
    claimant = Claimant(box="box-a", boot="1", lease_seconds=600.0)
    assert store.restore(job, epoch, claimant, fields=ledger, text="it is here", runs=True)
    assert (store.get(job).state, store.get(job).box) == (State.RUNNING, "box-a")
    with pytest.raises(OwnershipLost):
        store.report(job, epoch, box="box-b", lease_seconds=600.0, fields={})

"""Values of the fleet, made of what lies on a server."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pi0q.jobs.state import State
from pi0q.queue.reading import views
from pi0q.queue.reading.values import BoxStatus, CheckpointView, FleetView, LinkKind, plain
from pi0q.queue.store import Store
from pi0q.queue.wait_notes import WaitKind
from tests.conftest import JobDriver

SILENT = 60.0
CARDS = [
    {"uuid": "GPU-1", "name": "H100", "total_mib": 81920, "free_mib": 71680},
    {"uuid": "GPU-2", "name": "H100", "total_mib": 81920, "free_mib": 81920},
]
SAVED = {"step": 20, "path": "/data/runs/x/000020", "manifest": "a" * 64, "bytes": 1000}


def announce(store: Store, name: str = "box-a", **more: object) -> None:
    fields = {
        "status": "ready", "gpus": json.dumps(CARDS), "slots": 2, "running": 1, "disk_free_mib": 1024, "disk_mib": 4096,
        "free_mib": "[40960, 81920]",
    }  # fmt: skip
    assert store.announce_box(name, f"id-{name}", fields | more)


def look(store: Store) -> FleetView:
    return views.read(store, SILENT)


def test_fleet_has_jobs_by_what_they_do(driver: JobDriver, store: Store) -> None:
    runs, queued, held, ended = (driver.submit(name) for name in ("runs", "queued", "held", "ended"))
    driver.run(runs)
    store.hold(held, text="by ada")
    store.cancel(ended, text="cancelled")
    announce(store)
    fleet = look(store)
    found = [[job.name for job in jobs] for jobs in (fleet.running, fleet.queue, fleet.held, fleet.ended)]
    assert found == [["runs"], ["queued"], ["held"], ["ended"]]
    assert (fleet.counts.active, fleet.counts.queued, fleet.counts.held, fleet.counts.ended) == (1, 1, 1, 1)
    (job,) = fleet.queue
    assert job.id == queued and job.place == 0 and job.wait and job.wait.kind is WaitKind.TOO_BIG
    (waits,) = fleet.held
    assert waits.wait and waits.wait.kind is WaitKind.HELD and fleet.job(held) is waits


def test_label_tells_a_held_job_from_one_that_waits_in_the_queue(driver: JobDriver, store: Store) -> None:
    held, queued = driver.submit("held"), driver.submit("queued")
    store.hold(held, text="by ada")
    fleet = look(store)
    assert [job.label for job in (*fleet.held, *fleet.queue)] == ["held", "queued"]
    assert [job.id for job in fleet.queue] == [queued]


def test_running_job_tells_progress_card_and_checkpoint_with_its_age(driver: JobDriver, store: Store) -> None:
    job_id = driver.submit(steps=100)
    epoch = driver.run(job_id)
    announce(store)
    store.client.hset(f"{store.prefix}job:{job_id}", "gpus", '["GPU-2"]')
    driver.report(job_id, epoch, step=25, loss=0.5, lr=1e-4, eta_seconds=30.0, checkpoint=SAVED)
    (job,) = look(store).running
    assert (job.progress, job.step, job.steps, job.eta_seconds) == (0.25, 25, 100, 30.0)
    assert (job.loss, job.lr, job.box, job.cards) == (0.5, 1e-4, "box-a", (1,))
    first = job.checkpoint
    assert isinstance(first, CheckpointView) and first.step == 20 and first.saved_ms and not first.copied
    # The same checkpoint, reported once more from another place, is as old as it was.
    store.client.hset(f"{store.prefix}job:{job_id}", "checkpoint_ms", first.saved_ms - 5000)
    driver.report(job_id, epoch, checkpoint={**SAVED, "path": "/other/000020"})
    again = look(store).running[0].checkpoint
    assert again and again.saved_ms == first.saved_ms - 5000
    driver.report(job_id, epoch, checkpoint={**SAVED, "step": 30, "manifest": "b" * 64})
    newer = look(store).running[0].checkpoint
    assert newer and newer.saved_ms and newer.saved_ms >= first.saved_ms


def test_card_adds_up_and_names_the_jobs_on_it(driver: JobDriver, store: Store) -> None:
    job_id = driver.submit()
    holders = [{"jobs": [job_id], "shared": False}, {"jobs": [], "shared": False}]
    gauges = [{"use": 87, "celsius": 71}, {"use": None, "celsius": None}]
    announce(store, holders=json.dumps(holders), gauges=json.dumps(gauges))
    first, second = look(store).cards
    assert (first.used_mib, first.promised_mib, first.free_mib) == (10240, 30720, 40960)
    assert (first.utilisation, first.temperature, first.jobs) == (0.87, 71, (job_id,))
    assert (second.used_mib, second.utilisation, second.temperature, second.jobs) == (0, None, None, ())
    assert all(card.used_mib + card.promised_mib + card.free_mib == card.total_mib for card in (first, second))


@pytest.mark.parametrize(
    "damage",
    [
        {"gauges": "[7]"}, {"gauges": '[{"use": 101}]'}, {"gauges": '[{"use": "9"}]'}, {"gauges": "{}"},
        {"gauges": '[{"celsius": -3}]'}, {"free_mib": "[99999999, -5]"}, {"holders": "[]"}, {"gauges": ""},
        {"gauges": "[]"}, {"blocked": "[[["}, {"status": "dancing"}, {"disk_mib": "much"},
    ],
)  # fmt: skip
def test_announcement_that_no_box_can_make_is_shown_as_unknown(store: Store, damage: dict[str, str]) -> None:
    announce(store, **damage)
    (box,) = look(store).boxes
    assert [card.temperature for card in box.cards] == [None, None]
    assert all(0 <= card.free_mib <= card.total_mib for card in box.cards)
    assert box.status is (BoxStatus.UNKNOWN if "status" in damage else BoxStatus.READY)
    json.dumps(plain(box), allow_nan=False)


def test_cards_of_a_box_that_is_gone_are_not_the_fleets(store: Store) -> None:
    announce(store, "box-10")
    announce(store, "box-2", status="stopped")
    fleet = look(store)
    assert [(box.name, box.status) for box in fleet.boxes] == [
        ("box-2", BoxStatus.STOPPED), ("box-10", BoxStatus.READY)
    ]  # fmt: skip
    assert {card.box for card in fleet.cards} == {"box-10"}


def test_links_are_addresses_or_absent(driver: JobDriver, store: Store) -> None:
    good = driver.submit(
        wandb_url="https://wandb.ai/a/b/runs/c",
        swanlab_url="https://swanlab.cn/@a/b/runs/c",
        push={"url": "https://hf.co/a/b"},
    )
    bad = driver.submit(push={"url": "javascript:alert(1)"})
    jobs = look(store)
    (one, other) = (jobs.job(good), jobs.job(bad))
    assert one and [link.kind for link in one.links] == [LinkKind.WANDB, LinkKind.SWANLAB, LinkKind.HUB]
    assert other and other.links == ()


def test_a_diverged_loss_is_null_in_json(driver: JobDriver, store: Store) -> None:
    job_id = driver.submit()
    driver.report(job_id, driver.run(job_id), step=3, loss=float("nan"), eta_seconds=1.0)
    told = json.loads(json.dumps(plain(look(store)), allow_nan=False))
    assert told["running"][0]["loss"] is None and told["running"][0]["state"] == State.RUNNING.value


def test_broken_record_is_named_and_hides_no_other(driver: JobDriver, store: Store) -> None:
    good, bad = driver.submit("good"), driver.submit("bad")
    store.client.hset(f"{store.prefix}job:{bad}", "step", "many")
    fleet = look(store)
    assert [job.id for job in fleet.queue] == [good] and [one.id for one in fleet.broken] == [bad]


def test_reading_layer_imports_no_large_client() -> None:
    code = "import sys, pi0q.queue.reading.views, pi0q.queue.reading.watcher; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"redis", "celery", "kombu", "rich", "yaml", "asyncio"} & set(done.stdout.split())

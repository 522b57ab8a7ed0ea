"""May this box take this job? Every lack is named with both its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.state import State
from pi0q.workers.claims import Fit, Misfit, enough, judge, resources
from pi0q.workers.probe import Disk, Gpu, Host
from pi0q.workers.shelf import Item

GIB = 1024
SAVED = Saved(step=10, path="/x", manifest="", bytes=1)


def job(**fields: Any) -> Record:
    needs = {"gpus": 1, "vram_mib": 30 * GIB, "disk_mib": 50 * GIB} | fields.pop("needs", {})
    known: dict[str, Any] = {"id": "new", "name": "new", "state": State.QUEUED, "priority": "normal"}
    known |= {"submitter": "", "spec": {}, "needs": needs, "created_ms": 0, "updated_ms": 0}
    return Record(**known | fields)


def host(*cards: int, disk: int = 500, inodes: int | None = None, system: int = 50, fault: str = "") -> Host:
    gpus = tuple(Gpu(uuid=f"G{i}", name="card", total_mib=80 * GIB, free_mib=gib * GIB) for i, gib in enumerate(cards))
    return Host(
        gpus=gpus,
        data=Disk(path="/data", free_mib=disk * GIB, free_inodes=inodes, resource="disk:data"),
        system=Disk(path="/", free_mib=system * GIB, free_inodes=None, resource="disk:system"),
        gpu_fault=fault,
    )


def judged(
    wanted: Record, box: Host, promised: dict[str, dict[str, int]] | None = None, *owned: Record, **how: Any
) -> Fit | Misfit:
    promises = {resource: (7, (promised or {}).get(resource, {})) for resource in resources(box)}
    usual: dict[str, Any] = {
        "disk_mib": wanted.needs["disk_mib"],
        "waited_seconds": 0.0,
        "wait_for_box": 600.0,
        "system_reserve_mib": 2 * GIB,
    }
    return judge(wanted, box, promises, owned, box="box-a", **usual | how)


def words(verdict: Fit | Misfit) -> tuple[str, ...]:
    assert isinstance(verdict, Misfit)
    return verdict.shortfalls


def test_a_job_that_fits_is_promised_what_it_needs_under_the_count_that_was_seen() -> None:
    verdict = judged(job(), host(80))
    assert isinstance(verdict, Fit)
    assert verdict.promises == (("gpu:G0", 7, 30 * GIB), ("disk:data", 7, 50 * GIB))


def test_exactly_enough_is_enough_and_one_mib_less_is_not() -> None:
    assert isinstance(judged(job(), host(30)), Fit)
    assert isinstance(judged(job(needs={"vram_mib": 30 * GIB + 1}), host(30)), Misfit)


def test_it_gets_the_fullest_card_that_will_do() -> None:
    verdict = judged(job(), host(80, 31, 29, 40))
    assert isinstance(verdict, Fit) and [gpu.uuid for gpu in verdict.gpus] == ["G1"]
    two = judged(job(needs={"gpus": 2}), host(80, 31, 29, 40))
    assert isinstance(two, Fit) and [gpu.uuid for gpu in two.gpus] == ["G1", "G3"]


def test_what_is_promised_to_others_is_not_free() -> None:
    promised = {"gpu:G0": {"a": 30 * GIB, "b": 30 * GIB}}
    assert words(judged(job(), host(80), promised)) == (
        "VRAM: needs 30.0 GiB on 1 GPU, 0 have it; the best has 20.0 GiB of 80.0 GiB free "
        "(60.0 GiB more are promised to running jobs)",
    )


def test_what_a_running_job_already_holds_is_counted_once() -> None:
    """Its promise is 60 GiB and it holds 45 of them: measured free are 35, still to come are 15."""
    running = job(id="old", vram_now_mib=45 * GIB)
    promised = {"gpu:G0": {"old": 60 * GIB}}
    assert isinstance(judged(job(needs={"vram_mib": 20 * GIB}), host(35), promised, running), Fit)
    assert isinstance(judged(job(needs={"vram_mib": 20 * GIB + 1}), host(35), promised, running), Misfit)


def test_a_job_that_holds_more_than_its_promise_lends_nothing_to_others() -> None:
    running = job(id="old", vram_now_mib=70 * GIB)
    verdict = judged(job(needs={"vram_mib": 10 * GIB + 1}), host(10), {"gpu:G0": {"old": 60 * GIB}}, running)
    assert isinstance(verdict, Misfit)


def test_a_failure_that_is_the_boxes_doing_is_left_to_others_for_a_minute() -> None:
    failed = job(reason=Reason.NO_CUDA, box="box-a", needs={"vram_mib": 1})
    verdict = judged(failed, host(80), waited_seconds=20.0)
    assert isinstance(verdict, Misfit) and verdict.shortfalls == (
        "no_cuda happened here: another box may take it first, for 40 s",
    )
    assert isinstance(judged(failed, host(80), waited_seconds=60.0), Fit)
    assert isinstance(judged(replace(failed, box="box-b"), host(80), waited_seconds=0.0), Fit)
    kept = replace(failed, checkpoint=Saved(step=1, path="/x", manifest="m", bytes=1))
    assert isinstance(judged(kept, host(80), waited_seconds=0.0), Fit), "its steps are here"


def test_a_promise_of_another_box_on_the_same_card_counts_in_full() -> None:
    assert isinstance(judged(job(), host(80), {"gpu:G0": {"elsewhere": 51 * GIB}}), Misfit)


def test_only_what_is_still_to_come_must_be_free_and_is_promised() -> None:
    verdict = judged(job(), host(80, disk=20), disk_mib=20 * GIB)
    assert isinstance(verdict, Fit) and verdict.promises[-1] == ("disk:data", 7, 20 * GIB)
    assert words(judged(job(), host(80, disk=20), disk_mib=21 * GIB)) == (
        "disk: needs 21.0 GiB, 20.0 GiB free on /data",
    )


def test_a_hub_cache_on_a_disk_of_its_own_must_have_room_as_well() -> None:
    box = replace(host(80), hub=Disk(path="/fs", free_mib=10 * GIB, free_inodes=None, resource="disk:fs"))
    assert isinstance(judged(job(), box, hub_mib=10 * GIB), Fit)
    assert words(judged(job(), box, hub_mib=11 * GIB)) == ("disk: needs 11.0 GiB, 10.0 GiB free on /fs",)


def test_disk_is_promised_too() -> None:
    assert words(judged(job(), host(80, disk=60), {"disk:data": {"old": 20 * GIB}})) == (
        "disk: needs 50.0 GiB, 40.0 GiB free on /data (20.0 GiB more are promised to running jobs)",
    )


def test_every_lack_is_told_at_once() -> None:
    told = words(judged(job(), host(10, disk=10, inodes=5, system=1), problems=["trainer: none"]))
    assert [text.partition(":")[0] for text in told] == ["trainer", "VRAM", "disk", "inodes", "system disk"]


def test_a_job_without_a_gpu_needs_none() -> None:
    verdict = judged(job(needs={"gpus": 0, "vram_mib": 0}), host())
    assert isinstance(verdict, Fit) and verdict.gpus == () and len(verdict.promises) == 1


@pytest.mark.parametrize(
    ("box", "told"),
    [
        (host(), "GPUs: needs 1, the box has none"),
        (host(fault="NVML: Driver Not Loaded"), "GPUs: needs 1, the box has none (NVML: Driver Not Loaded)"),
    ],
)
def test_a_missing_gpu_is_told_with_its_cause(box: Host, told: str) -> None:
    assert words(judged(job(), box)) == (told,)


def test_too_few_gpus_are_counted() -> None:
    assert words(judged(job(needs={"gpus": 4}), host(80, 80))) == ("GPUs: needs 4, the box has 2",)


def test_a_job_with_a_checkpoint_elsewhere_is_left_to_that_box_for_a_while() -> None:
    wanted = job(box="box-b", checkpoint=SAVED)
    assert words(judged(wanted, host(80), waited_seconds=10.0)) == (
        "its checkpoint is on box-b, which may still take it for 590 s",
    )
    assert isinstance(judged(wanted, host(80), waited_seconds=600.0), Fit)
    assert isinstance(judged(job(box="box-b"), host(80)), Fit)
    assert isinstance(judged(job(box="box-a", checkpoint=SAVED), host(80)), Fit)


def test_a_network_failure_is_not_tried_again_at_once() -> None:
    failed = job(reason=Reason.NETWORK, rest_seconds=60.0)
    assert words(judged(failed, host(80), waited_seconds=20.0)) == ("network: tried again in 40 s",)
    assert isinstance(judged(failed, host(80), waited_seconds=61.0), Fit)
    assert isinstance(judged(replace(failed, reason=Reason.LEASE_EXPIRED), host(80)), Fit)
    assert isinstance(judged(job(reason=Reason.TRAINER_KILLED, attempt=1), host(80)), Fit)


def test_a_disk_that_ran_full_is_no_pause() -> None:
    """What must be free before it is taken again is in the plan: stock.py."""
    assert isinstance(judged(job(reason=Reason.DISK_FULL, box="box-a"), host(80)), Fit)


# -- caches that may go


def cached(name: str, gib: int, used: float = 0.0) -> Item:
    return Item(kind="model", name=name, path=Path("/data") / name, mib=gib * GIB, used=used)


def test_caches_go_where_the_disk_alone_is_too_small_and_the_claim_says_so() -> None:
    verdict = judged(job(needs={"disk_mib": 120 * GIB}), host(80, disk=60), spare=[cached("lerobot/x", 70)])
    assert isinstance(verdict, Fit)
    assert [item.name for item in verdict.going] == ["lerobot/x"]
    assert verdict.promises[-1] == ("disk:data", 7, 120 * GIB)
    assert verdict.lack == (
        "disk: needs 120.0 GiB, 60.0 GiB free on /data and 70.0 GiB more if the cache of lerobot/x goes"
    )


def test_nothing_goes_where_all_of_it_is_too_little_or_something_else_lacks_too() -> None:
    small = [cached("lerobot/x", 30), cached("lerobot/y", 29)]
    verdict = judged(job(needs={"disk_mib": 120 * GIB}), host(80, disk=60), spare=small)
    assert words(verdict) == (
        "disk: needs 120.0 GiB, 60.0 GiB free on /data and 59.0 GiB more if the cache of lerobot/x and "
        "the cache of lerobot/y go",
    )
    assert isinstance(verdict, Misfit) and verdict.disk_lacks_mib == 60 * GIB
    other = judged(job(needs={"disk_mib": 120 * GIB}), host(20, disk=60))
    assert isinstance(other, Misfit) and other.disk_lacks_mib == 0


def test_where_there_is_room_nothing_goes() -> None:
    verdict = judged(job(), host(80), spare=[cached("lerobot/x", 70)])
    assert isinstance(verdict, Fit) and (verdict.going, verdict.lack) == ((), "")


@pytest.mark.parametrize(
    ("sizes", "lacking", "going"),
    [
        ((10, 20, 30), 10, "a"),
        ((10, 20, 30), 11, "b"),
        # What was used longest ago would go in vain where a later one is needed anyway, and enough.
        ((1, 2, 70), 60, "c"),
        ((5, 2, 70), 74, "ac"),
        ((10, 20, 30), 60, "abc"),
        ((10, 20, 30), 61, ""),
        ((10, 20, 30), 0, ""),
        ((10, 20, 30), -5, ""),
    ],
)
def test_what_was_used_longest_ago_goes_and_nothing_in_vain(sizes: tuple[int, ...], lacking: int, going: str) -> None:
    spare = [cached(name, gib) for name, gib in zip("abc", sizes, strict=True)]
    assert "".join(item.name for item in enough(spare, lacking * GIB)) == going


def test_a_full_system_disk_comes_with_what_would_free_it() -> None:
    full = judged(job(), host(80, system=1), system_cure="`pip cache purge` frees up to 3.1 GiB")
    assert words(full) == ("system disk: 1.0 GiB free, 2.0 GiB must stay free: `pip cache purge` frees up to 3.1 GiB",)


@pytest.mark.parametrize(
    ("copied", "reason", "waits"),
    [(10, Reason.STOPPED_BY_BOX, False), (5, Reason.STOPPED_BY_BOX, True), (None, Reason.STOPPED_BY_BOX, True),
     (10, Reason.DISK_LOW, False), (5, Reason.DISK_FULL, True), (10, Reason.LEASE_EXPIRED, True)],
)  # fmt: skip
def test_nobody_waits_for_a_box_that_gave_back_or_lacks_room_for_a_job_that_is_copied_whole(
    copied: int | None, reason: Reason, waits: bool
) -> None:
    copy = replace(SAVED, step=copied) if copied else None
    verdict = judged(job(box="box-b", checkpoint=SAVED, copied=copy, reason=reason), host(80))
    assert isinstance(verdict, Misfit) == waits

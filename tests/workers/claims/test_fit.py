"""May this box take this job? Every lack is named with both its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.state import State
from pi0q.queue.refusals import Problem, Refusal, TooLittleDisk
from pi0q.workers.claims.fit import BoxState, Fit, JobView, evaluate, lacks_only_data_disk, resources
from pi0q.workers.host.probe import Disk, Gpu, Host
from pi0q.workers.storage.disk_needs import DiskNeed
from pi0q.workers.storage.eviction import choose
from pi0q.workers.storage.inventory import Item

GIB = 1024
SAVED = Saved(step=10, path="/x", manifest="ab" * 32, bytes=1)


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
) -> Fit | list[Refusal]:
    need = DiskNeed(disk_mib=how.get("disk_mib", wanted.needs["disk_mib"]), hub_mib=how.get("hub_mib", 0))
    problems = tuple(Problem(text=text) for text in how.get("problems", ()))
    view = JobView(
        record=wanted,
        disk_need=need,
        waited_seconds=how.get("waited_seconds", 0.0),
        vram_mib=wanted.needs.get("vram_mib", 0),
        problems=problems,
    )
    state = BoxState(
        name="box-a",
        host=box,
        promises={resource: (7, (promised or {}).get(resource, {})) for resource in resources(box)},
        owned={record.id: record for record in owned},
        wait_for_box=600.0,
        system_reserve_mib=2 * GIB,
        system_commands=how.get("system_commands", ()),
        sharing=how.get("sharing", frozenset()),
        slots=how.get("slots", len(box.gpus) or 1),
    )
    return evaluate(view, state, how.get("evictable", ()))


def words(verdict: Fit | list[Refusal]) -> tuple[str, ...]:
    assert isinstance(verdict, list)
    return tuple(map(str, verdict))


def test_a_job_that_fits_is_promised_what_it_needs_under_the_count_that_was_seen() -> None:
    verdict = judged(job(), host(80))
    assert isinstance(verdict, Fit)
    assert verdict.promises == (("gpu:G0", 7, 30 * GIB), ("disk:data", 7, 50 * GIB))


def test_exactly_enough_is_enough_and_one_mib_less_is_not() -> None:
    assert isinstance(judged(job(), host(30)), Fit)
    assert isinstance(judged(job(needs={"vram_mib": 30 * GIB + 1}), host(30)), list)


def cards_of(verdict: Fit | list[Refusal]) -> list[str]:
    assert isinstance(verdict, Fit), verdict
    return [gpu.uuid for gpu in verdict.gpus]


def test_it_gets_the_emptiest_of_equal_cards() -> None:
    assert cards_of(judged(job(), host(31, 80, 29, 40))) == ["G1"]
    assert cards_of(judged(job(needs={"gpus": 2}), host(31, 80, 29, 40))) == ["G1", "G3"]


def test_a_job_of_several_cards_gets_those_nearest_to_one_another() -> None:
    near = [[0 if a == b else 10 if a // 2 == b // 2 else 50 for b in range(4)] for a in range(4)]
    box = replace(host(80, 20, 70, 60), distances=tuple(map(tuple, near)))
    assert cards_of(judged(job(needs={"gpus": 2}), box)) == ["G2", "G3"]


def test_vram_is_needed_and_promised_on_each_of_several_cards() -> None:
    verdict = judged(job(needs={"gpus": 3}), host(80, 80, 20, 80))
    assert isinstance(verdict, Fit)
    assert verdict.promises[:3] == tuple((f"gpu:G{card}", 7, 30 * GIB) for card in (0, 1, 3))
    (short,) = words(judged(job(needs={"gpus": 4}), host(80, 80, 20, 80)))
    assert "3 have it" in short


def test_it_gets_the_smallest_card_that_suffices() -> None:
    box = host(96, 48, 24)
    sized = [replace(gpu, total_mib=gpu.free_mib) for gpu in box.gpus]
    assert cards_of(judged(job(), replace(box, gpus=tuple(sized)))) == ["G1"]


def test_one_training_a_card_however_much_is_free_on_it() -> None:
    promised = {"gpu:G0": {"abc": 1 * GIB}}
    assert words(judged(job(), host(80), promised)) == ("GPUs: card 0 is taken by job abc",)
    assert cards_of(judged(job(), host(80, 40), promised)) == ["G1"]
    assert words(judged(job(needs={"gpus": 2}), host(80, 40), promised)) == (
        "GPUs: 1 of the 2 cards that it needs are free; card 0 is taken by job abc",
    )


@pytest.mark.parametrize(("mine", "theirs", "fits"), [(1, 1, True), (1, 0, False), (0, 1, False), (0, 0, False)])
def test_a_card_is_shared_where_both_jobs_say_so(mine: int, theirs: int, fits: bool) -> None:
    running = job(id="old", needs={"share": theirs}, gpus=("G0",))
    verdict = judged(job(needs={"share": mine}), host(80), {"gpu:G0": {"old": 30 * GIB}}, running)
    assert isinstance(verdict, Fit) is fits


def test_a_card_holds_at_most_four_trainings_that_share_it() -> None:
    running = [job(id=f"old{number}", needs={"share": 1}, gpus=("G0",)) for number in range(4)]
    promised = {"gpu:G0": {one.id: GIB for one in running}}
    verdict = judged(job(needs={"share": 1}), host(80), promised, *running)
    assert words(verdict) == ("GPUs: card 0 is taken by job old0",)


def test_a_training_that_shares_takes_an_empty_card_first() -> None:
    running = job(id="old", needs={"share": 1}, gpus=("G0",))
    verdict = judged(job(needs={"share": 1}), host(80, 40), {"gpu:G0": {"old": GIB}}, running, slots=2)
    assert cards_of(verdict) == ["G1"]


def test_a_training_that_joins_another_on_its_card_takes_no_slot() -> None:
    running = job(id="old", needs={"share": 1}, gpus=("G0",))
    promised = {"gpu:G0": {"old": GIB}}
    assert cards_of(judged(job(needs={"share": 1}), host(80, 80), promised, running, slots=1)) == ["G0"]
    assert words(judged(job(), host(80, 80), promised, running, slots=1)) == ("1 of 1 slots are in use",)
    on_cpu = judged(job(needs={"gpus": 0}), host(80, 80), promised, running, slots=1)
    assert words(on_cpu) == ("1 of 1 slots are in use",)


def test_a_job_of_another_container_that_shares_is_joined() -> None:
    promised = {"gpu:G0": {"theirs": GIB}}
    assert cards_of(judged(job(needs={"share": 1}), host(80), promised, sharing=frozenset({"theirs"}))) == ["G0"]


def test_what_a_running_job_already_holds_is_counted_once() -> None:
    """Its promise is 60 GiB and it holds 45 of them: measured free are 35, still to come are 15."""
    running = job(id="old", vram_now_mib=45 * GIB, needs={"share": 1}, gpus=("G0",))
    promised = {"gpu:G0": {"old": 60 * GIB}}
    assert isinstance(judged(job(needs={"vram_mib": 20 * GIB, "share": 1}), host(35), promised, running), Fit)
    lack = judged(job(needs={"vram_mib": 20 * GIB + 1, "share": 1}), host(35), promised, running)
    assert words(lack)[0].startswith("VRAM: needs 20.0 GiB on 1 GPU, 0 have it; the best has 20.0 GiB of 80.0 GiB free")


def test_what_is_promised_of_a_simulated_card_is_not_free_whatever_is_used() -> None:
    running = job(id="old", vram_now_mib=45 * GIB, needs={"share": 1}, gpus=("G0",))
    box = host(80)
    box = replace(box, gpus=(replace(box.gpus[0], simulated=True),))
    for mib, fits in ((20 * GIB, True), (20 * GIB + 1, False)):
        verdict = judged(job(needs={"vram_mib": mib, "share": 1}), box, {"gpu:G0": {"old": 60 * GIB}}, running)
        assert isinstance(verdict, Fit) is fits


def test_a_job_that_holds_more_than_its_promise_lends_nothing_to_others() -> None:
    running = job(id="old", vram_now_mib=70 * GIB)
    verdict = judged(job(needs={"vram_mib": 10 * GIB + 1}), host(10), {"gpu:G0": {"old": 60 * GIB}}, running)
    assert isinstance(verdict, list)


def test_a_failure_that_is_the_boxes_doing_is_left_to_others_for_a_minute() -> None:
    failed = job(reason=Reason.NO_CUDA, box="box-a", needs={"vram_mib": 1})
    verdict = judged(failed, host(80), waited_seconds=20.0)
    assert words(verdict) == ("its last run here ended with no_cuda: left to other boxes for 40 s",)
    assert isinstance(judged(failed, host(80), waited_seconds=60.0), Fit)
    assert isinstance(judged(replace(failed, box="box-b"), host(80), waited_seconds=0.0), Fit)
    kept = replace(failed, checkpoint=Saved(step=1, path="/x", manifest="ab" * 32, bytes=1))
    assert isinstance(judged(kept, host(80), waited_seconds=0.0), Fit), "its steps are here"


def test_a_promise_of_another_box_on_the_same_card_counts_in_full() -> None:
    assert isinstance(judged(job(), host(80), {"gpu:G0": {"elsewhere": 51 * GIB}}), list)


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
        "waiting up to 590 s for box-b, which has its checkpoint",
    )
    assert isinstance(judged(wanted, host(80), waited_seconds=600.0), Fit)
    assert isinstance(judged(job(box="box-b"), host(80)), Fit)
    assert isinstance(judged(job(box="box-a", checkpoint=SAVED), host(80)), Fit)


def test_a_network_failure_is_not_tried_again_at_once() -> None:
    failed = job(reason=Reason.NETWORK, rest_seconds=60.0)
    assert words(judged(failed, host(80), waited_seconds=20.0)) == ("its last run ended with network: retried in 40 s",)
    assert isinstance(judged(failed, host(80), waited_seconds=61.0), Fit)
    assert isinstance(judged(replace(failed, reason=Reason.LEASE_EXPIRED), host(80)), Fit)
    assert isinstance(judged(job(reason=Reason.TRAINER_KILLED, attempt=1), host(80)), Fit)


def test_a_disk_that_ran_full_is_no_pause() -> None:
    """What must be free before it is taken again is in the plan: disk_needs.py."""
    assert isinstance(judged(job(reason=Reason.DISK_FULL, box="box-a"), host(80)), Fit)


# -- caches that may go


def cached(name: str, gib: int, used: float = 0.0) -> Item:
    return Item(kind="model", name=name, path=Path("/data") / name, mib=gib * GIB, used=used)


def test_caches_go_where_the_disk_alone_is_too_small_and_the_claim_says_so() -> None:
    verdict = judged(job(needs={"disk_mib": 120 * GIB}), host(80, disk=60), evictable=[cached("lerobot/x", 70)])
    assert isinstance(verdict, Fit)
    assert [item.name for item in verdict.evict] == ["lerobot/x"]
    assert verdict.promises[-1] == ("disk:data", 7, 120 * GIB)
    assert str(verdict.lacking) == (
        "disk: needs 120.0 GiB, 60.0 GiB free on /data and 70.0 GiB more if the cache of lerobot/x goes"
    )


def test_nothing_goes_where_all_of_it_is_too_little_or_something_else_lacks_too() -> None:
    small = [cached("lerobot/x", 30), cached("lerobot/y", 29)]
    verdict = judged(job(needs={"disk_mib": 120 * GIB}), host(80, disk=60), evictable=small)
    assert words(verdict) == (
        "disk: needs 120.0 GiB, 60.0 GiB free on /data and 59.0 GiB more if the cache of lerobot/x and "
        "the cache of lerobot/y go",
    )
    assert isinstance(verdict, list) and isinstance(verdict[0], TooLittleDisk) and verdict[0].lacking_mib == 60 * GIB
    assert lacks_only_data_disk(verdict, host(80, disk=60))
    other = judged(job(needs={"disk_mib": 120 * GIB}), host(20, disk=60), evictable=[cached("lerobot/x", 70)])
    assert len(words(other)) == 1 and words(other)[0].startswith("VRAM"), "eviction makes up for the disk"
    assert not lacks_only_data_disk(judged(job(needs={"disk_mib": 120 * GIB}), host(20, disk=60)), host(20, disk=60))


def test_where_there_is_room_nothing_goes() -> None:
    verdict = judged(job(), host(80), evictable=[cached("lerobot/x", 70)])
    assert isinstance(verdict, Fit) and (verdict.evict, verdict.lacking) == ((), None)


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
    assert "".join(item.name for item in choose(spare, lacking * GIB)) == going


def test_a_full_system_disk_comes_with_what_would_free_it() -> None:
    full = judged(job(), host(80, system=1), system_commands=[("pip cache purge", 3174)])
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
    assert isinstance(verdict, list) == waits

"""A box makes room for a job it has claimed, and for no other. The disk is simulated: 100 MiB less what lies there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs.spec import parse
from pi0q.jobs.state import State
from pi0q.jobs.transition import preparing
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.submission import new_fields, put
from pi0q.workers.agent.box import Box
from pi0q.workers.host import files, usage_locks
from pi0q.workers.storage import inventory
from tests.workers.caches import DAY, a_run, checkpoint, fill, repo
from tests.workers.conftest import refused

pytest.importorskip("huggingface_hub")

DISK_MIB = 100


@pytest.fixture(autouse=True)
def nobody_asks_the_hub(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box.claims.admission, "preflight_refusal", lambda job: None)


@pytest.fixture(autouse=True)
def small_disk(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = box.context.measure

    def small() -> Any:
        host = measure()
        free = DISK_MIB - files.size_mib(box.context.settings.home)
        return replace(host, data=replace(host.data, free_mib=free, path="/data", resource="disk:small"))

    monkeypatch.setattr(box.context, "measure", small)


def submit(store: Store, mib: int, *, base: str = "you/base", compile_model: bool = False) -> str:
    text = f"""
        resources: {{gpus: 0, disk: {mib}MiB}}
        train: {{dataset: {{repo_id: you/set}}, steps: 10, policy: {{type: pi0, device: cpu, push_to_hub: false,
                 pretrained_path: {base}, compile_model: {str(compile_model).lower()}}}}}
    """
    return str(put(store, new_fields(parse(text, filename="job.yaml")))["id"])


def names(settings: Settings) -> set[str]:
    return {item.name for item in inventory.everything(settings)}


def state(store: Store, job: str) -> str:
    return str(store.get(job).state)


def test_room_is_made_after_the_claim_and_the_history_says_so(box: Box, store: Store) -> None:
    repo(box.context.settings.hf_home, "you/old", mib=30, used=DAY)
    repo(box.context.settings.hf_home, "you/new", mib=30, used=2 * DAY)
    job = submit(store, 60)
    box.claims.claim()
    record = store.get(job)
    assert record.state is State.CLAIMED
    claimed, made = record.history[-2:]
    assert claimed.text.endswith("40 MiB free on /data and 30 MiB more if the cache of you/old goes")
    assert made.text.startswith("made room: removed the cache of you/old (0.0 GiB, last used ")
    assert (str(made.state), made.epoch, made.box) == ("claimed", 1, "box-a")
    assert names(box.context.settings) == {"you/new"}
    assert store.promises(["disk:small"])["disk:small"][1] == {job: 60}


def test_nothing_goes_for_a_job_that_another_box_takes(box: Box, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    repo(box.context.settings.hf_home, "you/old", mib=60)
    job = submit(store, 60)
    monkeypatch.setattr(store, "claim_first", lambda *_, **__: "gone")
    box.claims.claim()
    assert (state(store, job), names(box.context.settings)) == ("queued", {"you/old"})


def test_nothing_goes_where_it_would_not_be_enough(box: Box, store: Store) -> None:
    repo(box.context.settings.hf_home, "you/old", mib=30)
    repo(box.context.settings.hf_home, "you/pinned", mib=30)
    usage_locks.pin(usage_locks.of_hub(box.context.settings.hf_home), "models--you--pinned", True)
    job = submit(store, 90)
    box.claims.claim()
    assert state(store, job) == "queued"
    assert refused(box, job).endswith("more if the cache of you/old goes")
    assert names(box.context.settings) == {"you/old", "you/pinned"}
    usage_locks.pin(usage_locks.of_hub(box.context.settings.hf_home), "models--you--pinned", False)
    box.claims.caches.invalidate()
    box.claims.jobs.expire()
    box.claims.claim()
    assert (state(store, job), names(box.context.settings)) == ("claimed", set())


def test_its_own_base_dataset_and_tokenizer_stay(box: Box, store: Store) -> None:
    for name, kind in (("you/base", "model"), ("google/paligemma-3b-pt-224", "model"), ("you/set", "dataset")):
        repo(box.context.settings.hf_home, name, kind=kind, mib=15)
    fill(box.context.settings.home / "cache" / "inductor" / "graph", 15)
    # Of the same name as the job's dataset, and none of its needs.
    repo(box.context.settings.hf_home, "you/set", mib=1)
    job = submit(store, 60, compile_model=True)
    box.claims.claim()
    assert state(store, job) == "queued" and "cache of you/set goes" in refused(box, job)
    assert len(names(box.context.settings)) == 4


def test_what_a_job_that_waits_for_this_box_needs_stays(box: Box, store: Store) -> None:
    repo(box.context.settings.hf_home, "you/theirs", mib=60)
    other = submit(store, 1, base="you/theirs")
    store.client.hset(f"{store.prefix}job:{other}", "box", box.name)
    wanted, waiting = store.get(submit(store, 60)), store.waiting()
    assert box.claims.caches.evictable_for(wanted, waiting, []) == ()
    store.client.hset(f"{store.prefix}job:{other}", "box", "box-b")
    box.claims.caches.invalidate()
    assert [item.name for item in box.claims.caches.evictable_for(wanted, store.waiting(), [])] == ["you/theirs"]


def test_what_is_used_no_longer_goes_at_once(box: Box, store: Store) -> None:
    """The sizes of a minute ago are good enough; who uses what is not."""
    repo(box.context.settings.hf_home, "you/old", mib=60)
    directory = a_run(box.context.settings, "a1b2c3", ended="succeeded")
    checkpoint(directory, 10)
    checkpoint(directory, 5, bad=True)
    marks, job = usage_locks.of_hub(box.context.settings.hf_home), store.get(submit(store, 60))
    usage_locks.hold(marks, "models--you--old")
    directory.write_pidfile("a1b2c3", 1)
    assert box.claims.caches.evictable_for(job, [], []) == ()
    usage_locks.release()
    directory.pidfile.unlink()
    assert [item.kind for item in box.claims.caches.evictable_for(job, [], [])] == ["leftovers", "model"]
    usage_locks.pin(marks, "models--you--old", True)
    assert [item.kind for item in box.claims.caches.evictable_for(job, [], [])] == ["leftovers"]


def test_caches_that_can_t_be_read_stop_no_claims(box: Box, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanished(_: Settings) -> None:
        raise FileNotFoundError("it went while it was looked at")

    monkeypatch.setattr(inventory, "everything", vanished)
    big, small = submit(store, DISK_MIB + 1), submit(store, 1)
    box.claims.claim()
    assert (state(store, big), state(store, small)) == ("queued", "claimed")


def test_what_other_waiting_jobs_want_goes_last(box: Box, store: Store) -> None:
    repo(box.context.settings.hf_home, "you/wanted", used=DAY)
    repo(box.context.settings.hf_home, "you/unwanted", used=2 * DAY)
    submit(store, 1, base="you/wanted")
    job = store.get(submit(store, 60))
    spare = box.claims.caches.evictable_for(job, store.waiting(), [])
    assert [item.name for item in spare] == ["you/unwanted", "you/wanted"]


def test_what_runs_left_goes_first_and_never_that_of_the_job_itself(box: Box, store: Store) -> None:
    repo(box.context.settings.hf_home, "you/old", used=DAY)
    job = store.get(submit(store, 60))
    for run in ("a1b2c3", job.id):
        directory = a_run(box.context.settings, run, ended="succeeded")
        checkpoint(directory, 10)
        checkpoint(directory, 5, bad=True)
    spare = box.claims.caches.evictable_for(job, [], [])
    assert [(item.kind, item.name) for item in spare] == [("leftovers", "a1b2c3"), ("model", "you/old")]


def test_another_goes_where_one_is_taken_into_use_meanwhile(box: Box, store: Store) -> None:
    """Between the judgement and the claim a run begins to use what was to go."""
    repo(box.context.settings.hf_home, "you/old", mib=30, used=DAY)
    repo(box.context.settings.hf_home, "you/new", mib=30, used=2 * DAY)
    job = submit(store, 60)
    claim = store.claim_first

    def slow(*args: Any, **how: Any) -> Any:
        usage_locks.hold(usage_locks.of_hub(box.context.settings.hf_home), "models--you--old")
        return claim(*args, **how)

    store.claim_first = slow  # type: ignore[method-assign]
    try:
        box.claims.claim()
    finally:
        usage_locks.release()
    assert (state(store, job), names(box.context.settings)) == ("claimed", {"you/old"})
    assert "removed the cache of you/new" in store.get(job).history[-1].text


def test_a_runner_that_was_faster_gets_the_line_in_its_history_too(box: Box, store: Store) -> None:
    job = submit(store, 1)
    box.claims.claim()
    assert store.move(job, preparing(1, attempt=1, run_dir="/data"), box=box.name)
    box.claims.caches.note(job, 1, "made room")
    assert [(str(event.state), event.text) for event in store.get(job).history][-1] == ("preparing", "made room")
    assert store.get(job).state is State.PREPARING
    box.claims.caches.note(job, 7, "not this box's any more")
    assert store.get(job).history[-1].text == "made room"


def test_a_worker_that_died_between_claim_and_removal_makes_up_for_it(
    box: Box, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo(box.context.settings.hf_home, "you/old", mib=60)
    job = submit(store, 60)
    with monkeypatch.context() as patch:
        patch.setattr(box.claims.caches, "make_room", lambda *_: None)
        box.claims.claim()
    assert (state(store, job), names(box.context.settings)) == ("claimed", {"you/old"})
    box.recover(at_start=True)
    assert names(box.context.settings) == set()
    assert "made room: removed the cache of you/old" in store.get(job).history[-1].text

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
from pi0q.queue.verbs.submit import put
from pi0q.workers import shelf, uses
from pi0q.workers.box import Box

from .caches import DAY, a_run, checkpoint, fill, repo

pytest.importorskip("huggingface_hub")

DISK_MIB = 100


@pytest.fixture(autouse=True)
def nobody_asks_the_hub(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box.gate, "held", lambda job: "")


@pytest.fixture(autouse=True)
def small_disk(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = box.measure

    def small() -> Any:
        host = measure()
        free = DISK_MIB - shelf.size_mib(box.settings.home)
        return replace(host, data=replace(host.data, free_mib=free, path="/data", resource="disk:small"))

    monkeypatch.setattr(box, "measure", small)


def submit(store: Store, mib: int, *, base: str = "you/base", compile_model: bool = False) -> str:
    text = f"""
        resources: {{gpus: 0, disk: {mib}MiB}}
        train: {{dataset: {{repo_id: you/set}}, steps: 10, policy: {{type: pi0, device: cpu, push_to_hub: false,
                 pretrained_path: {base}, compile_model: {str(compile_model).lower()}}}}}
    """
    return str(put(store, parse(text, filename="job.yaml"))["id"])


def names(settings: Settings) -> set[str]:
    return {item.name for item in shelf.everything(settings)}


def state(store: Store, job: str) -> str:
    return str(store.get(job).state)


def test_room_is_made_after_the_claim_and_the_history_says_so(box: Box, store: Store) -> None:
    repo(box.settings.hf_home, "you/old", mib=30, used=DAY)
    repo(box.settings.hf_home, "you/new", mib=30, used=2 * DAY)
    job = submit(store, 60)
    box.claim()
    record = store.get(job)
    assert record.state is State.CLAIMED
    claimed, made = record.history[-2:]
    assert claimed.text.endswith("40 MiB free on /data and 30 MiB more if the cache of you/old goes")
    assert made.text.startswith("made room: removed the cache of you/old (0.0 GiB, last used ")
    assert (str(made.state), made.epoch, made.box) == ("claimed", 1, "box-a")
    assert names(box.settings) == {"you/new"}
    assert store.promises(["disk:small"])["disk:small"][1] == {job: 60}


def test_nothing_goes_for_a_job_that_another_box_takes(box: Box, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    repo(box.settings.hf_home, "you/old", mib=60)
    job = submit(store, 60)
    monkeypatch.setattr(store, "claim", lambda *_, **__: "gone")
    box.claim()
    assert (state(store, job), names(box.settings)) == ("queued", {"you/old"})


def test_nothing_goes_where_it_would_not_be_enough(box: Box, store: Store) -> None:
    repo(box.settings.hf_home, "you/old", mib=30)
    repo(box.settings.hf_home, "you/pinned", mib=30)
    uses.pin(uses.of_hub(box.settings.hf_home), "models--you--pinned", True)
    job = submit(store, 90)
    box.claim()
    assert state(store, job) == "queued"
    assert box.refusals[job].endswith("more if the cache of you/old goes")
    assert names(box.settings) == {"you/old", "you/pinned"}
    uses.pin(uses.of_hub(box.settings.hf_home), "models--you--pinned", False)
    box.care.forget()
    box.claim()
    assert (state(store, job), names(box.settings)) == ("claimed", set())


def test_its_own_base_dataset_and_tokenizer_stay(box: Box, store: Store) -> None:
    for name, kind in (("you/base", "model"), ("google/paligemma-3b-pt-224", "model"), ("you/set", "dataset")):
        repo(box.settings.hf_home, name, kind=kind, mib=15)
    fill(box.settings.home / "cache" / "inductor" / "graph", 15)
    # Of the same name as the job's dataset, and none of its needs.
    repo(box.settings.hf_home, "you/set", mib=1)
    job = submit(store, 60, compile_model=True)
    box.claim()
    assert state(store, job) == "queued" and "cache of you/set goes" in box.refusals[job]
    assert len(names(box.settings)) == 4


def test_what_a_job_that_waits_for_this_box_needs_stays(box: Box, store: Store) -> None:
    repo(box.settings.hf_home, "you/theirs", mib=60)
    other = submit(store, 1, base="you/theirs")
    store.client.hset(f"{store.prefix}job:{other}", "box", box.name)
    wanted, waiting = store.get(submit(store, 60)), store.waiting()
    assert box.care.spare(wanted, waiting, []) == ()
    store.client.hset(f"{store.prefix}job:{other}", "box", "box-b")
    box.care.forget()
    assert [item.name for item in box.care.spare(wanted, store.waiting(), [])] == ["you/theirs"]


def test_what_is_used_no_longer_goes_at_once(box: Box, store: Store) -> None:
    """The sizes of a minute ago are good enough; who uses what is not."""
    repo(box.settings.hf_home, "you/old", mib=60)
    directory = a_run(box.settings, "a1b2c3", ended="succeeded")
    checkpoint(directory, 10)
    checkpoint(directory, 5, bad=True)
    marks, job = uses.of_hub(box.settings.hf_home), store.get(submit(store, 60))
    uses.hold(marks, "models--you--old")
    directory.sign("a1b2c3", 1)
    assert box.care.spare(job, [], []) == ()
    uses.release()
    directory.tag_file.unlink()
    assert [item.kind for item in box.care.spare(job, [], [])] == ["leftovers", "model"]
    uses.pin(marks, "models--you--old", True)
    assert [item.kind for item in box.care.spare(job, [], [])] == ["leftovers"]


def test_caches_that_can_t_be_read_stop_no_claims(box: Box, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanished(_: Settings) -> None:
        raise FileNotFoundError("it went while it was looked at")

    monkeypatch.setattr(shelf, "everything", vanished)
    big, small = submit(store, DISK_MIB + 1), submit(store, 1)
    box.claim()
    assert (state(store, big), state(store, small)) == ("queued", "claimed")


def test_what_other_waiting_jobs_want_goes_last(box: Box, store: Store) -> None:
    repo(box.settings.hf_home, "you/wanted", used=DAY)
    repo(box.settings.hf_home, "you/unwanted", used=2 * DAY)
    submit(store, 1, base="you/wanted")
    job = store.get(submit(store, 60))
    spare = box.care.spare(job, store.waiting(), [])
    assert [item.name for item in spare] == ["you/unwanted", "you/wanted"]


def test_what_runs_left_goes_first_and_never_that_of_the_job_itself(box: Box, store: Store) -> None:
    repo(box.settings.hf_home, "you/old", used=DAY)
    job = store.get(submit(store, 60))
    for run in ("a1b2c3", job.id):
        directory = a_run(box.settings, run, ended="succeeded")
        checkpoint(directory, 10)
        checkpoint(directory, 5, bad=True)
    spare = box.care.spare(job, [], [])
    assert [(item.kind, item.name) for item in spare] == [("leftovers", "a1b2c3"), ("model", "you/old")]


def test_another_goes_where_one_is_taken_into_use_meanwhile(box: Box, store: Store) -> None:
    """Between the judgement and the claim a run begins to use what was to go."""
    repo(box.settings.hf_home, "you/old", mib=30, used=DAY)
    repo(box.settings.hf_home, "you/new", mib=30, used=2 * DAY)
    job = submit(store, 60)
    claim = store.claim

    def slow(*args: Any, **how: Any) -> Any:
        uses.hold(uses.of_hub(box.settings.hf_home), "models--you--old")
        return claim(*args, **how)

    store.claim = slow  # type: ignore[method-assign]
    try:
        box.claim()
    finally:
        uses.release()
    assert (state(store, job), names(box.settings)) == ("claimed", {"you/old"})
    assert "removed the cache of you/new" in store.get(job).history[-1].text


def test_a_runner_that_was_faster_gets_the_line_in_its_history_too(box: Box, store: Store) -> None:
    job = submit(store, 1)
    box.claim()
    assert store.move(job, preparing(1, attempt=1, run_dir="/data"), box=box.name)
    box.care.note(job, 1, "made room")
    assert [(str(event.state), event.text) for event in store.get(job).history][-1] == ("preparing", "made room")
    assert store.get(job).state is State.PREPARING
    box.care.note(job, 7, "not this box's any more")
    assert store.get(job).history[-1].text == "made room"


def test_a_worker_that_died_between_claim_and_removal_makes_up_for_it(
    box: Box, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo(box.settings.hf_home, "you/old", mib=60)
    job = submit(store, 60)
    with monkeypatch.context() as patch:
        patch.setattr(box.care, "make_room", lambda *_: None)
        box.claim()
    assert (state(store, job), names(box.settings)) == ("claimed", {"you/old"})
    box.recover(at_start=True)
    assert names(box.settings) == set()
    assert "made room: removed the cache of you/old" in store.get(job).history[-1].text

"""`pi0q why`: what a user reads of a job that waits, runs or ended, and what of it is reckoned."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pi0q.jobs.estimates import disk, job_needs
from pi0q.jobs.outcome import Reason
from pi0q.jobs.spec import Spec, parse
from pi0q.jobs.transition import ended
from pi0q.queue import refusals
from pi0q.queue.refusals import Problem, TooLittleDisk, TooLittleVram
from pi0q.queue.store import Store
from pi0q.queue.submission import new_fields, put
from tests.conftest import Command, JobDriver

PI0 = parse(
    "name: grab_box\ntrain: {dataset: {repo_id: me/box}, batch_size: 32, policy: {type: pi0, device: cuda, "
    "dtype: bfloat16, pretrained_path: lerobot/pi0, push_to_hub: false}}\n",
    filename="x",
)


def box(store: Store, name: str = "autodl-1", *, total: int = 48, **told: Any) -> None:
    """A box that lives and says this."""
    cards = [{"name": "card", "total_mib": total * 1024, "free_mib": total * 1024}]
    usual = {"status": "ready", "gpus": json.dumps(cards), "disk_free_mib": 40 * 1024, "home": "/data/pi0q"}
    usual |= {"hf_home": "/data/pi0q/huggingface", "slots": 1, "running": 0}
    assert store.announce_box(name, f"id-{name}", usual | told)


def submit(store: Store, spec: Spec = PI0) -> str:
    return str(put(store, new_fields(spec))["id"])


def test_a_job_without_any_box_says_how_to_get_one(call: Command, store: Store) -> None:
    answer = call("why", submit(store))
    assert answer.returncode == 0
    assert "no box is up" in answer.stdout and "`pi0q worker` on it" in answer.stdout
    for item in disk.plan(PI0).items:
        assert item.what in answer.stdout


def test_each_box_is_told_with_what_it_lacks_has_and_where_things_would_go(call: Command, store: Store) -> None:
    job = submit(store)
    plan = disk.plan(PI0, here={"base": 20_000}).to_json()
    vram = TooLittleVram(needed_mib=92_262, gpus=1, fitting=0, free_mib=48 * 1024, total_mib=48 * 1024)
    room = TooLittleDisk(needed_mib=83_354, free_mib=40 * 1024, path="/data")
    box(store, refusals=refusals.dumps({job: [vram, room]}), plans=json.dumps({job: plan}))
    box(store, "b-busy", running=1, total=24)
    said = call("why", job).stdout
    assert "    VRAM: needs 90.1 GiB on 1 GPU, 0 have it; the best has 48.0 GiB of 48.0 GiB free\n    disk: " in said
    assert "is there already: base weights lerobot/pi0 13.0 GiB" in said
    assert (
        f"still to come: {disk.gib(plan['lacks_mib'])} of disk, to /data/pi0q/huggingface/hub, /data/pi0q/runs/{job}"
        in said
    )
    needed = disk.gib(job_needs.estimate(PI0).vram_mib)
    assert f"b-busy  busy\n    1 of 1 slots are in use\n    and it is too small: 1 GPU with {needed} are needed" in said


def test_a_box_of_the_version_before_is_told_in_its_own_words(call: Command, store: Store) -> None:
    """It announces one string a job; such boxes may take jobs for one release more."""
    job = submit(store)
    box(store, refusals=json.dumps({job: "VRAM: needs 90.1 GiB; disk: needs 81.4 GiB"}))
    assert "    VRAM: needs 90.1 GiB; disk: needs 81.4 GiB\n" in call("why", job).stdout
    assert "autodl-1: VRAM: needs 90.1 GiB; disk: needs 81.4 GiB" in " ".join(call("show", job).stdout.split())
    (shown,) = json.loads(call("boxes", "--json").stdout)
    assert shown["refusals"][job] == [
        {"kind": "problem", "text": "VRAM: needs 90.1 GiB; disk: needs 81.4 GiB"},
    ]


def test_what_would_help_is_reckoned_for_the_best_box(call: Command, store: Store) -> None:
    job = submit(store)
    box(
        store,
        refusals=refusals.dumps({job: [Problem(text="VRAM: x")]}),
        plans=json.dumps({job: disk.plan(PI0).to_json()}),
    )
    cures = json.loads(call("why", job, "--json").stdout)["cures"]
    assert any("more free on the data disk of autodl-1" in cure for cure in cures)
    assert any("`checkpoints: {keep: 1}`" in cure for cure in cures)
    assert any("`batch_size: " in cure and "then 48.0 GiB on the GPU are enough" in cure for cure in cures)


@pytest.mark.parametrize(("policy", "offered"), [("pi0", True), ("act", False)])
def test_a_format_is_offered_only_to_policies_that_have_one(
    call: Command, store: Store, policy: str, offered: bool
) -> None:
    spec = parse(f"name: x\ntrain: {{dataset: {{repo_id: a/b}}, policy: {{type: {policy}}}}}\n", filename="x")
    job = submit(store, spec)
    box(store, disk_free_mib=1, plans=json.dumps({job: disk.plan(spec).to_json()}))
    cures = " ".join(json.loads(call("why", job, "--json").stdout)["cures"])
    assert ("policy.dtype: bfloat16" in cures) is offered and "more free on the data disk" in cures


def test_changes_that_are_offered_do_suffice() -> None:
    for room in (30, 40, 60, 80):
        for change in job_needs.lighter(PI0, room * 1024):
            name, _, value = change.partition(": ")
            more = {name: json.loads(value) if value != "bfloat16" else value}
            changed = parse(json.dumps({"name": "x", "train": {**PI0.train, **more}}), filename="x")
            assert job_needs.estimate(changed).vram_mib <= room * 1024
    assert job_needs.lighter(PI0, 1024) == []
    assert "policy.gradient_checkpointing: true" in job_needs.lighter(PI0, 80 * 1024)
    assert "batch_size: 16" in job_needs.lighter(PI0, 80 * 1024)


def test_what_is_stated_is_the_first_thing_to_doubt(call: Command, store: Store) -> None:
    file = {"name": "x", "resources": {"vram": "90GiB", "disk": "900GiB"}, "train": dict(PI0.train)}
    stated = parse(json.dumps(file), filename="x")
    job = submit(store, stated)
    box(
        store,
        refusals=refusals.dumps({job: [Problem(text="VRAM: x")]}),
        plans=json.dumps({job: disk.plan(stated).to_json()}),
    )
    said = call("why", job).stdout
    assert "resources.disk in its file states 900.0 GiB: left out, it is reckoned" in said
    assert "resources.vram in its file states 90.0 GiB" in said
    assert "disk 900.0 GiB, stated in its file; reckoned it would be:" in said


def test_the_jobs_before_it_are_named(call: Command, store: Store) -> None:
    act = parse("name: b\ntrain: {dataset: {repo_id: a/b}, policy: {type: act}}\n", filename="b")
    first, other = submit(store), submit(store, act)
    assert f"before it in the queue\n  grab_box {first} (normal)" in call("why", other).stdout
    assert "before it" not in call("why", first).stdout


def test_a_job_that_waits_for_room_says_so(call: Command, store: Store, driver: JobDriver) -> None:
    job = submit(store)
    epoch = driver.run(job)
    told = "the data disk ran low: 1.2 GiB free on /data, the next save takes 22.1 GiB; saved and stopped"
    assert store.move(job, ended(store.get(job), epoch, Reason.DISK_LOW, told))
    said = call("why", job).stdout
    assert f"  {told} (disk_low)\n" in said
    line = next(line for line in call("ls").stdout.splitlines() if job in line)
    assert "the data disk ran low" in line
    assert store.get(job).attempt == 0


def test_a_running_job_says_where_and_an_ended_one_what_to_do(call: Command, store: Store, driver: JobDriver) -> None:
    job = submit(store)
    epoch = driver.run(job)
    assert "It is running on box-a (claim 1): " in call("why", job).stdout
    assert store.move(job, ended(store.get(job), epoch, Reason.CUDA_OUT_OF_MEMORY, "CUDA out of memory"))
    said = call("why", job).stdout
    assert "CUDA out of memory (cuda_out_of_memory)" in said and "what would help\n  The GPU's memory" in said


def test_a_drained_box_and_one_that_is_gone_are_said_to_be(call: Command, store: Store) -> None:
    job = submit(store)
    box(store)
    store.drain("autodl-1", "drain", text="drained by ada")
    assert "takes no new jobs (drained by ada); `pi0q drain autodl-1 --undo` ends that" in call("why", job).stdout


def test_a_record_that_nobody_can_read_is_no_traceback(call: Command, store: Store, driver: JobDriver) -> None:
    job = driver.submit(spec={"name": "x", "train": {"output_dir": "/etc"}})
    box(store, plans="[]", refusals="{}")
    answer = call("why", job)
    assert answer.returncode == 0 and "\nneeds\n  1 GPU with 90 GiB, disk 120 GiB" in answer.stdout
    assert json.loads(call("why", job, "--json").stdout)["disk"] is None


@pytest.mark.parametrize(("args", "code"), [((), 2), (("nobody",), 3)])
def test_wrong_use_is_told(call: Command, store: Store, args: tuple[str, ...], code: int) -> None:
    answer = call("why", *args)
    assert (answer.returncode, answer.stdout) == (code, "") and answer.stderr

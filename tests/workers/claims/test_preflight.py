"""What is asked of a job before a claim: pure verdicts, and a box before a stand-in Hub and a stand-in WandB."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.dataset import DatasetInfo
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec, parse
from pi0q.jobs.state import State
from pi0q.jobs.tracking import Tracking
from pi0q.queue.refusals import PreflightRuns
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.submission import new_fields, put
from pi0q.workers.agent.box import Box
from pi0q.workers.claims import preflight
from pi0q.workers.claims.preflight import Questions, conclude, questions
from pi0q.workers.hub import access
from pi0q.workers.hub.access import AccessReport
from pi0q.workers.hub.access_main import forbidden
from pi0q.workers.hub.errors import HubError, unreachable
from pi0q.workers.hub.requirements import PALIGEMMA, Fetch
from pi0q.workers.network.swanlab_key import SwanLab
from pi0q.workers.network.wandb_key import WandB
from tests.conftest import WaitFor
from tests.standin_hub import TOKEN, Fault, StandInHub
from tests.workers.conftest import a_box, refused, submit
from tests.workers.standin_wandb import StandInWandB

INFO = {"codebase_version": "v3.0", "total_episodes": 4, "features": {}}
TOKENIZER = {"config.json": b"{}", "tokenizer.json": b"{}"}
LOCAL: dict[str, Any] = {"dataset.repo_id": "local/d", "dataset.root": "datasets/d", "policy.type": "act"}
ONLINE: dict[str, Any] = {"dataset.repo_id": "you/box", "policy.type": "act"}
JOB = Record(id="a1", name="x", state=State.QUEUED, priority="normal", submitter="", spec={}, needs={},
             created_ms=1, updated_ms=1)  # fmt: skip


def never(_fetch: Fetch, _sha: str) -> bool:
    return False


# -- pure


@pytest.mark.parametrize(
    "more",
    [{}, {"policy.push_to_hub": False}, {"wandb.enable": True, "wandb.mode": "offline"}, {"wandb.enable": False}],
)
def test_a_job_that_needs_nothing_outside_is_asked_nothing(more: dict[str, Any]) -> None:
    assert not questions(JOB, Spec(name="x", train=LOCAL | more), laid=never)


def test_what_the_guides_job_is_asked() -> None:
    train = {**ONLINE, "policy.type": "pi0", "policy.pretrained_path": "lerobot/pi0", "policy.push_to_hub": True,
             "policy.repo_id": "you/pi0", "wandb.enable": True}  # fmt: skip
    asked = questions(JOB, Spec(name="x", train=train), laid=never)
    assert [one.repo_id for one in asked.fetches] == ["you/box", "lerobot/pi0", PALIGEMMA]
    assert (asked.push, asked.wandb) == ("you/pi0", True)
    rehearsed = questions(JOB, Spec(name="x", train=train, rehearsal=True), laid=never)
    assert (rehearsed.push, rehearsed.wandb) == ("", False)


def test_what_lies_here_whole_is_not_asked_for() -> None:
    spec, job = Spec(name="x", train=ONLINE), replace(JOB, pins={"datasets/you/box": "c0ffee"})
    assert questions(job, spec, laid=lambda fetch, sha: sha == "c0ffee") == Questions()
    assert questions(JOB, spec, laid=lambda fetch, sha: True).fetches, "no commit of it was ever pinned"


def verdict(*errors: HubError, info: Any = None, said: WandB | None = None, **heard: Any) -> preflight.Result:
    push = heard.pop("to", "")
    return conclude(
        AccessReport(errors=list(errors), info=info, **heard), said, Spec(name="x", train=ONLINE), push=push
    )


def test_a_mistake_weighs_more_than_the_network() -> None:
    denied = HubError(reason=Reason.NEEDS_ACCESS, why="it is gated", detail="Accept its terms.")
    found = verdict(unreachable("base x/y", "no answer"), denied)
    assert found.refused is denied


def test_the_network_is_no_verdict_and_rests_as_long_as_it_asks() -> None:
    found = verdict(HubError(reason=Reason.NETWORK, why="asked too often", detail="", asked_seconds=300.0))
    assert (found.refused, found.unavailable, found.retry_seconds) == (None, "asked too often", 300.0)
    assert verdict(unreachable("x", "y")).retry_seconds == 60.0


def test_an_old_format_is_the_users_to_mend() -> None:
    refused = verdict(info={**INFO, "codebase_version": "v2.1"}).refused
    assert refused and refused.reason is Reason.SPEC_REFUSED and "convert_dataset_v21_to_v30" in refused.detail


def test_wandb_never_ends_a_job() -> None:
    for state in ("none", "refused", "away"):
        found = verdict(info=INFO, said=WandB(state=state))
        assert found.refused is None and not found.unavailable and "offline" in found.notes[0]
    assert not verdict(info=INFO, said=WandB(state="ok", user="ada")).notes


def test_swanlab_is_asked_of_an_online_run_and_never_ends_a_job() -> None:
    spec = Spec(name="x", train=LOCAL, tracking=Tracking(to=("swanlab",)))
    assert questions(JOB, spec, laid=never).swanlab
    for other in (replace(spec, rehearsal=True), replace(spec, tracking=Tracking(to=("swanlab",), mode="offline"))):
        assert not questions(JOB, other, laid=never)
    for state in ("none", "refused", "away"):
        (note,) = preflight._swanlab_note(SwanLab(state=state))
        assert note.startswith("SwanLab: ") and "kept on the box" in note
    assert preflight._swanlab_note(SwanLab(state="ok", user="ada")) == []


def test_a_push_that_could_not_be_asked_about_is_told_and_no_more() -> None:
    found = verdict(info=INFO, to="you/pi0", push="unknown", push_why="ReadTimeout")
    assert found.refused is None and found.notes == ("could not check whether you/pi0 can be pushed to (ReadTimeout)",)


def test_what_one_box_found_of_a_dataset_the_next_one_knows() -> None:
    found = verdict(info=INFO).to_json()
    assert "notes" not in found, "an empty list would come back from a script as something else"
    job = replace(JOB, preflight={"box-a": json.loads(json.dumps(found))})
    assert preflight.facts_of(job) == DatasetInfo(format="v3.0", episodes=4, videos=False, frame_bytes=0)
    assert preflight.facts_of(replace(JOB, preflight={"box-a": {"ok": True, "dataset": {"odd": 1}}})) is None


def who(role: str = "write", **more: Any) -> dict[str, Any]:
    orgs = [{"name": "lab", "roleInOrg": "write"}, {"name": "club", "roleInOrg": "read"}]
    return {"name": "ada", "orgs": orgs, "auth": {"accessToken": {"role": role, **more}}}


FINE = {"fineGrained": {"scoped": [{"entity": {"type": "user", "name": "ada"}, "permissions": ["repo.write"]}]}}


@pytest.mark.parametrize(
    ("said", "repo", "why"),
    [
        (who(), "ada/pi0", ""),
        (who(), "lab/pi0", ""),
        (who(), "club/pi0", "ada has only the role `read` in club"),
        (who(), "eve/pi0", "this box's token belongs to ada, who is not a member of eve"),
        (who("read"), "ada/pi0", "this box's token of ada is read-only"),
        (who("fineGrained", **FINE), "ada/pi0", ""),
        (who("fineGrained", **FINE), "lab/pi0", "may not write to lab's repositories"),
        ({"name": "ada"}, "ada/pi0", ""),
    ],
)
def test_who_may_push_where(said: dict[str, Any], repo: str, why: str) -> None:
    told = forbidden(said, repo)
    assert why in told and bool(told) == bool(why)


# -- a box


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        hub.commit("dataset", "you/box", {"meta/info.json": json.dumps(INFO).encode()}, refs=("main", "v3.0"))
        hub.commit("model", PALIGEMMA, TOKENIZER, gated=True)
        yield hub


@pytest.fixture
def wandb() -> Iterator[StandInWandB]:
    with StandInWandB() as wandb:
        wandb.keys["k" * 40] = "ada"
        yield wandb


@pytest.fixture
def far(
    chosen: Settings, store: Store, hub: StandInHub, roomy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Box]:
    """A box whose Hub is the stand-in; its own datasets are there too."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "WANDB_"))}
    root = str(Path(__file__).parents[3])
    paths = os.pathsep.join(filter(None, [*(place for place in sys.path if place), root]))
    monkeypatch.setattr(os, "environ", clean | {"HOME": str(tmp_path), "HF_TOKEN": TOKEN, "PYTHONPATH": paths})
    near = replace(chosen, hf_endpoint=hub.url, hf_mirror="", network_turbo=tmp_path / "none")
    box = a_box(near, store)
    (chosen.home / "datasets/d/meta").mkdir(parents=True)
    (chosen.home / "datasets/d/meta/info.json").write_text("{}")
    yield box
    if pool := box.claims.admission.preflight._pool:
        # What it still asks, it asks of this test's Hub.
        pool.shutdown()


def ask(store: Store, *, copy_to: str | None = None, **train: Any) -> str:
    flags = {**ONLINE, "steps": 10, "policy.push_to_hub": False, **train}
    needs = {"gpus": 1, "vram": "20GiB", "disk": "1MiB"}
    text = json.dumps({"name": "far", "resources": needs, "checkpoints": {"copy_to": copy_to}, "train": flags})
    return str(put(store, new_fields(parse(text, filename="job.yaml")))["id"])


def claimed(box: Box, store: Store, job: str, wait_for: WaitFor) -> Record:
    """Claims as the agent does, whenever something changed."""

    def over() -> Record | None:
        box.claims.claim()
        record = store.get(job)
        return record if record.state is not State.QUEUED else None

    found: Record = wait_for(over)
    return found


def test_what_needs_nothing_outside_is_claimed_at_the_first_look(far: Box, store: Store, hub: StandInHub) -> None:
    job = submit(store)
    far.claims.claim()
    assert store.get(job).state is State.CLAIMED
    assert far.claims.admission.preflight._pool is None and store.get(job).preflight == {} and hub.requests == []


def test_a_good_job_is_claimed_once_the_hub_was_asked(
    far: Box, store: Store, hub: StandInHub, wait_for: WaitFor
) -> None:
    job, near = ask(store), submit(store)
    far.claims.claim()
    assert far.claims.refusals == {job: [PreflightRuns()]}
    assert store.get(near).state is State.CLAIMED, "others are not held up by it"
    record = claimed(far, store, job, wait_for)
    assert record.state is State.CLAIMED and record.preflight["box-a"]["ok"]
    asked = len(hub.requests)
    again = a_box(far.context.settings, store)
    assert again.claims.admission.preflight.refusal(record, Spec.from_json(record.spec)) is None
    assert len(hub.requests) == asked, "remembered over a restart of the worker"


@pytest.mark.parametrize(
    ("repo", "reason", "word"),
    [
        ("you/public", "spec_refused", "it is public, and copies go to private repositories only. Make it private"),
        ("eve/copies", "needs_access", "belongs to you, who is not a member of eve. Run `hf auth login` on the box"),
        ("you/private", "", ""),
        ("you/new", "", ""),
    ],
)
def test_copies_that_could_not_be_made_end_the_job_before_any_claim(
    far: Box, store: Store, hub: StandInHub, wait_for: WaitFor, repo: str, reason: str, word: str
) -> None:
    for name in ("public", "private"):
        hub.commit("model", f"you/{name}", {}, private=name == "private")
    record = claimed(far, store, ask(store, copy_to=f"hf://{repo}"), wait_for)
    assert (record.state.value, str(record.reason or "")) == ("failed" if reason else "claimed", reason)
    assert word in record.detail
    assert hub.find("model", "you/new", "main") == (None, None), "asking makes nothing"


@pytest.mark.parametrize(
    ("train", "reason", "word"),
    [
        ({"dataset.repo_id": "you/nothing"}, "not_on_hub", "the Hub knows no such repository: dataset you/nothing"),
        ({"dataset.revision": "nowhere"}, "not_on_hub", "no such revision"),
        ({"dataset.repo_id": "you/old"}, "spec_refused", "convert_dataset_v21_to_v30 --repo-id=you/old"),
        ({"dataset.episodes": [9]}, "spec_refused", "asks for episode 9"),
        ({"policy.push_to_hub": True, "policy.repo_id": "eve/pi0"}, "needs_access", "not a member of eve"),
        ({"policy.type": "pi0", "policy.pretrained_path": "you/box"}, "not_on_hub", "base you/box"),
    ],
)
def test_a_mistake_ends_the_job_with_its_cure_and_no_claim(
    far: Box, store: Store, hub: StandInHub, wait_for: WaitFor, train: dict[str, Any], reason: str, word: str
) -> None:
    old = json.dumps({**INFO, "codebase_version": "v2.1"}).encode()
    hub.commit("dataset", "you/old", {"meta/info.json": old})
    record = claimed(far, store, ask(store, **train), wait_for)
    assert (record.state, str(record.reason)) == (State.FAILED, reason)
    assert record.detail.startswith("preflight: ") and word.lower() in record.detail.lower()
    assert (record.epoch, record.attempt, record.box) == (0, 0, None)
    assert record.history[-1].text == record.detail
    assert store.waiting() == [] and far.context.store.owned("box-a") == []


def test_terms_that_were_not_accepted_name_the_page_to_open(
    far: Box, store: Store, hub: StandInHub, wait_for: WaitFor
) -> None:
    """Anyone may see a gated repository's name and list, so a file of it must be asked for."""
    hub.faults.append(Fault(path=f"{PALIGEMMA}/resolve/", status=403, code="GatedRepo"))
    record = claimed(far, store, ask(store, **{"policy.type": "pi0"}), wait_for)
    assert (str(record.reason), record.epoch) == ("needs_access", 0)
    assert f"Accept them on https://huggingface.co/{PALIGEMMA}" in record.detail
    assert TOKEN not in json.dumps(record.to_json(), default=str)


def test_a_hub_that_is_away_keeps_the_job_waiting_and_no_other(
    far: Box, store: Store, hub: StandInHub, wait_for: WaitFor
) -> None:
    hub.faults.append(Fault(path="/api/", status=503, times=1))
    job = ask(store)

    def told() -> bool:
        far.claims.claim()
        return "asked again in" in refused(far, job)

    wait_for(told)
    assert refused(far, job).startswith("preflight: the Hub could not be reached for dataset you/box (HTTP 503)")
    near = submit(store)
    # As the agent says once the server has woken the box for it.
    far.claims.called = near
    far.claims.claim()
    assert (store.get(job).state, store.get(near).state) == (State.QUEUED, State.CLAIMED)
    far.claims.admission.preflight._delays[job].until = 0.0
    record = claimed(far, store, job, wait_for)
    assert (record.state, record.epoch, record.attempt) == (State.CLAIMED, 1, 0)


def test_where_another_boxs_account_may_only_this_box_refuses(
    far: Box, store: Store, hub: StandInHub, wait_for: WaitFor
) -> None:
    job = ask(store, **{"policy.type": "pi0"})
    assert store.record_preflight(job, "box-b", {"ok": True, "seconds": 1.0})
    hub.faults.append(Fault(path=f"{PALIGEMMA}/resolve/", status=403, code="GatedRepo"))

    def told() -> bool:
        far.claims.claim()
        return "another box may" in refused(far, job)

    wait_for(told)
    assert store.get(job).state is State.QUEUED


def test_the_last_box_whose_account_may_not_ends_the_job(
    far: Box, store: Store, hub: StandInHub, wait_for: WaitFor
) -> None:
    """A box without a token must not end what another one could train."""
    far.announce()
    other = a_box(far.context.settings, store, "box-b")
    other.announce()
    job = ask(store, **{"dataset.repo_id": "you/nothing"})

    def told() -> bool:
        far.claims.claim()
        return "another box may" in refused(far, job)

    wait_for(told)
    assert store.get(job).preflight["box-a"]["ok"] is False
    record = claimed(other, store, job, wait_for)
    assert (record.state, str(record.reason)) == (State.FAILED, "not_on_hub")


def test_a_box_without_room_asks_for_what_nobody_has_asked(
    far: Box, store: Store, hub: StandInHub, wait_for: WaitFor
) -> None:
    """A mistake is told today, not when a card is free."""
    far.context.slots = 0
    known, wrong = ask(store), ask(store, **{"dataset.repo_id": "you/nothing"})
    assert store.record_preflight(known, "box-b", {"ok": True})
    record = claimed(far, store, wrong, wait_for)
    assert str(record.reason) == "not_on_hub"
    assert all("nothing" in one.path for one in hub.requests)


def test_what_wandb_says_of_the_key_is_in_the_record(
    far: Box, store: Store, wandb: StandInWandB, wait_for: WaitFor
) -> None:
    os.environ |= {"WANDB_BASE_URL": wandb.url, "WANDB_API_KEY": "wrong"}
    job = submit_with_wandb(store)
    record = claimed(far, store, job, wait_for)
    found = record.preflight["box-a"]
    assert (record.state, found["wandb"], wandb.asked) == (State.CLAIMED, "refused", 1)
    assert found["notes"] == [
        "WandB: it refuses this box's key (`wandb login` on it); the run is kept on the box (offline)"
    ]
    os.environ["WANDB_API_KEY"] = "k" * 40
    good = claimed(far, store, submit_with_wandb(store), wait_for).preflight["box-a"]
    assert good["wandb"] == "ok" and "notes" not in good


def submit_with_wandb(store: Store) -> str:
    train: dict[str, Any] = {**LOCAL, "wandb.enable": True, "wandb.project": "p"}
    return ask(store, **train)


def test_a_fault_of_ours_keeps_no_job_from_its_run(
    far: Box, store: Store, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> AccessReport:
        raise RuntimeError("a bug")

    monkeypatch.setattr(access, "ask", broken)
    assert claimed(far, store, ask(store), wait_for).state is State.CLAIMED

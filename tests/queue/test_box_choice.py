"""Jobs whose files choose boxes: which boxes are told of them, woken for them, and refuse them."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest

from pi0q.jobs import box_choice
from pi0q.jobs.box_choice import BOX_CHOICE, BoxChoice
from pi0q.jobs.errors import SpecError
from pi0q.jobs.spec import Spec, parse
from pi0q.queue import capacity
from pi0q.queue.capacity import CardNeed, CardRoom
from pi0q.queue.refusals import NotChosen, from_json
from pi0q.queue.store import Store
from pi0q.queue.submission import fields_of
from tests.conftest import Command, JobDriver
from tests.queue.test_placement import announce, box
from tests.queue.test_waiting_index import Looker, submit

JOB = "name: x\nresources: {vram: 40GiB, disk: 1GiB, %s}\ntrain: {dataset: {repo_id: a/b}, policy: {type: act}}\n"


def chosen(text: str) -> BoxChoice:
    return parse(JOB % text, filename="job.yaml").resources.where


def cards(*names: str) -> dict[str, str]:
    fields = box(*[(80, 80)] * len(names))
    gpus = [{**gpu, "name": name} for gpu, name in zip(json.loads(fields["gpus"]), names, strict=True)]
    return {**fields, "gpus": json.dumps(gpus)}


def test_one_name_is_a_list_of_one_and_all_come_back_from_the_record() -> None:
    where = chosen("box: h100-*, not_box: [h100-old], gpu: H100 | PRO 6000")
    assert where == BoxChoice(box=("h100-*",), not_box=("h100-old",), gpu=("H100", "PRO 6000"))
    spec = parse(JOB % "box: h100-*, not_box: [h100-old], gpu: H100 | PRO 6000", filename="job.yaml")
    assert Spec.from_json(spec.to_json()) == spec
    assert BOX_CHOICE.read(json.dumps(fields_of(spec, "0" * 12, submitter="a@b")["choice"])) == where
    # A box with an older pi0q takes a job without a choice.
    assert not {"box", "not_box", "gpu"} & Spec.from_json(parse(JOB % "", filename="j.yaml").to_json()).to_json().keys()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("box: 'a b'", "resources.box"),
        ("not_box: [../x]", "resources.not_box"),
        ("gpu: 'H100||A'", "resources.gpu"),
        ("gpu: A$B", "resources.gpu"),
        ("box: a, not_box: a", "resources.not_box"),
        ("gpus: 0, gpu: H100", "resources.gpu"),
        (f"box: [{', '.join(f'b{number}' for number in range(65))}]", "resources.box"),
    ],
)
def test_what_is_no_choice_is_told_with_its_key(text: str, key: str) -> None:
    with pytest.raises(SpecError) as told:
        parse(JOB % text, filename="job.yaml")
    assert key in [fault.key for fault in told.value.faults]


@pytest.mark.parametrize("text", ['{"box": ["a b"]}', '{"box": "a"}', '{"gpu": [1]}', '{"other": []}', "[]"])
def test_what_pi0q_did_not_write_is_no_choice(text: str) -> None:
    with pytest.raises(ValueError):
        BOX_CHOICE.read(text)


PATTERNS = ["*", "a*", "*a", "a?c", "a*b*c", "**", "?", "abc", "a*?", "*-*", "a.c", "a%c", "a***************b"]
NAMES = ["a", "abc", "ac", "a-b", "abxc", "axbxc", "", "a.c", "aXc", "a" * 60, "*", "a%c"]


def test_server_and_box_take_patterns_alike(store: Store) -> None:
    script = (
        open_lua() + "\nlocal found = {} for _, one in ipairs(cjson.decode(ARGV[1])) do"
        " found[#found + 1] = matches(one[1], one[2]) and 1 or 0 end return found"
    )
    pairs = [(pattern, name) for pattern in PATTERNS for name in NAMES]
    answer: Any = store.client.eval(script, 1, store.prefix, json.dumps(pairs))
    assert answer == [int(fnmatchcase(name, pattern)) for pattern, name in pairs]


def open_lua() -> str:
    from importlib.resources import files

    return (files("pi0q.queue") / "lua" / "common.lua").read_text()


def test_a_box_is_told_only_of_jobs_that_it_may_take(driver: JobDriver, store: Store) -> None:
    announce(store, "h100-1", cards("NVIDIA H100 80GB HBM3"))
    announce(store, "ada-1", cards("NVIDIA RTX 4090"))
    anyone = submit(driver)
    for number in range(50):
        submit(driver, choice=json.dumps({"box": [f"elsewhere-{number}"]}))
    by_name = submit(driver, choice=json.dumps({"box": ["h100-*"]}))
    by_card = submit(driver, choice=json.dumps({"gpu": ["h100", "PRO 6000"]}))
    not_here = submit(driver, choice=json.dumps({"not_box": ["h100-*"]}))
    h100, ada = Looker(store, "h100-1"), Looker(store, "ada-1")
    assert h100.look() == [anyone, by_name, by_card]
    assert ada.look() == [anyone, not_here]
    assert (h100.look(called=not_here), ada.look(called=by_name)) == ([], [])
    late = submit(driver, choice=json.dumps({"box": ["ada-1"]}))
    assert (h100.look(), ada.look(called=late)) == ([], [late])


def test_a_choice_leaves_the_index_with_its_last_job(driver: JobDriver, store: Store) -> None:
    jobs = [submit(driver, choice=json.dumps({"box": ["b"]})) for _ in range(2)]
    assert store.client.hlen(f"{store.prefix}choices") == 1
    assert store.waiting_by_needs() == {(1, 40960): 2}
    for job in jobs:
        store.cancel(job, text="x")
    assert store.client.hlen(f"{store.prefix}choices") == store.client.zcard(f"{store.prefix}classes") == 0


def test_only_boxes_that_may_take_the_job_are_woken(driver: JobDriver, store: Store) -> None:
    with store.subscribe("wake:h100-1", "wake:ada-1") as heard:
        for name, card in (("h100-1", "NVIDIA H100"), ("ada-1", "RTX 4090")):
            announce(store, name, cards(card))
            Looker(store, name).look()
        job = submit(driver, choice=json.dumps({"gpu": ["H100"]}))
        words = [heard.get_message(timeout=1.0) for _ in range(6)]
    assert [one["channel"].rpartition(":")[2] for one in words if one and one["data"] == job] == ["h100-1"]


def test_a_mixed_box_gives_its_chosen_cards_and_a_wrong_one_says_why() -> None:
    need = CardNeed(gpus=1, vram_mib=10, choice=BoxChoice(gpu=("H100",)))
    mixed = [CardRoom(total_mib=80, measured_mib=80, free_mib=80, name=name) for name in ("RTX 4090", "H100")]
    assert capacity.not_chosen(need, "b", mixed) is None and capacity.shortage(need, mixed) is None
    why = capacity.not_chosen(need, "b", mixed[:1])
    assert str(why) == "the file keeps it from this box: resources.gpu is H100, and this box has RTX 4090"
    assert why and from_json(why.to_json()) == why
    other = capacity.not_chosen(CardNeed(gpus=1, vram_mib=10, choice=BoxChoice(not_box=("b",))), "b", mixed)
    assert isinstance(other, NotChosen) and (other.key, other.wanted) == ("not_box", "b")
    assert box_choice.ANY.allows_box("b") and box_choice.ANY.allows_gpu("")


def test_submit_warns_where_no_box_fits_and_why_says_what_keeps_it_from_each(
    call: Command, store: Store, tmp_path: Any
) -> None:
    announce(store, "ada-1", cards("NVIDIA RTX 4090"))
    announce(store, "h100-1", cards("NVIDIA H100"))
    (tmp_path / "a.yaml").write_text(JOB % "box: b200-*")
    (tmp_path / "b.yaml").write_text(JOB % "gpu: H100")
    said = call("submit", "a.yaml").stdout
    assert "No box that is up can ever take it: its file asks for box: b200-*, and it needs 40.0 GiB on a card." in said
    assert "By their GPUs it fits on h100-1 now." in call("submit", "--name", "y", "b.yaml").stdout
    why = call("why", "x").stdout
    assert why.count("the file keeps it from this box: resources.box is b200-*") == 2
    assert "resources.gpu is H100, and this box has NVIDIA RTX 4090" in call("why", "y").stdout
    assert "runs on" in call("show", "y").stdout

"""The order of a list, what a user selects of it, and what queued jobs wait for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, State
from pi0q.queue import job_list, refusals, store_reads, wait_notes
from pi0q.queue.job_list import Counts, Page, Selection, display_order, parse_since, parse_states
from pi0q.queue.refusals import Problem
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver

JOB = Record(
    id="a1b2c3d4e5f6", name="grab_box", state=State.QUEUED, priority="normal", submitter="ada@laptop", spec={},
    needs={"gpus": 1, "vram_mib": 90 * 1024, "disk_mib": 1024}, created_ms=1000, updated_ms=1000,
)  # fmt: skip
SILENT = 60.0


def job(job_id: str, state: State, **more: object) -> Record:
    return replace(JOB, id=job_id, name=job_id, state=state, **more)  # type: ignore[arg-type]


def test_display_order_is_running_queue_held_then_newest_end() -> None:
    jobs = [
        job("old_end", State.FAILED, ended_ms=10), job("new_end", State.SUCCEEDED, ended_ms=20),
        job("held", State.WAITING),
        job("second", State.QUEUED), job("next", State.QUEUED), job("runs", State.RUNNING, created_ms=9),
        job("begins", State.CLAIMED, created_ms=8),
    ]  # fmt: skip
    order = [one.id for one in display_order(jobs, {"next": 0, "second": 1})]
    assert order == ["begins", "runs", "next", "second", "held", "new_end", "old_end"]


def test_display_order_puts_queued_jobs_without_a_place_behind_by_priority() -> None:
    jobs = [
        job("low", State.QUEUED, priority="low"),
        job("urgent", State.QUEUED, priority="urgent"),
        job("next", State.QUEUED),
    ]
    assert [one.id for one in display_order(jobs, {"next": 0})] == ["next", "urgent", "low"]


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(), True), (Selection(states=frozenset({"running"})), False), (Selection(name="grab_*"), True),
        (Selection(name="grab"), False), (Selection(box="autodl-*"), False), (Selection(user="ada"), True),
        (Selection(user="*@laptop"), True), (Selection(user="bob"), False), (Selection(since_ms=1000), True),
        (Selection(since_ms=1001), False),
    ],
)  # fmt: skip
def test_selection_matches_by_state_patterns_and_time(selection: Selection, chosen: bool) -> None:
    assert selection.matches(JOB) is chosen


def test_selection_tells_a_held_job_from_one_that_waits_for_another() -> None:
    held, waits = job("a", State.WAITING, held="by ada@laptop"), job("b", State.WAITING)
    chosen = {word: [one.id for one in (held, waits) if Selection(states=parse_states(word)).matches(one)]
              for word in ("held", "waiting", "live")}  # fmt: skip
    assert chosen == {"held": ["a"], "waiting": ["b"], "live": ["a", "b"]}


def test_parse_states_knows_labels_values_and_groups() -> None:
    assert parse_states("") == frozenset()
    assert parse_states("Running, held") == {"running", "held"}
    assert parse_states("active") == {"claimed", "preparing", "running"}
    assert parse_states("ended") == {one.value for one in ENDED}
    with pytest.raises(UsageError, match=r"Fix: use some of held, queued, .*, active, live, ended"):
        parse_states("running,ready")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30min", 1800), ("2h", 7200), ("1.5 d", 129_600), ("1w", 604_800), ("5 s", 5)]
)
def test_parse_since_counts_back_from_the_servers_clock(text: str, seconds: int) -> None:
    assert parse_since(text, 10**12) == 10**12 - seconds * 1000


@pytest.mark.parametrize("text", ["", "3", "h", "-1h", "1e9h", "2 fortnights", "٣h"])
def test_parse_since_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="Fix: write it like"):
        parse_since(text, 10**12)


def test_sort_puts_jobs_without_the_value_last() -> None:
    jobs = [job("none", State.RUNNING), job("high", State.RUNNING, loss=2.0), job("low", State.RUNNING, loss=0.5)]
    assert [one.id for one in job_list.sorted_by(jobs, "loss")] == ["low", "high", "none"]


def test_every_sort_key_orders_jobs_without_values() -> None:
    for key in job_list.SORTS:
        assert len(job_list.sorted_by([JOB, replace(JOB, id="b")], key)) == 2


# -- notes ----------------------------------------------------------------------------------------


def box(
    name: str = "box-a", *, total_gib: int = 80, free_gib: int = 80, running: int = 0, **more: str
) -> dict[str, str]:
    card = {"name": "H100", "uuid": "GPU-1", "total_mib": total_gib * 1024, "free_mib": free_gib * 1024}
    told = {"gpus": json.dumps([card]), "free_mib": json.dumps([free_gib * 1024])}
    return {"name": name, "status": "ready", "seen_seconds": "1", "slots": "1", "running": str(running), **told, **more}


def note(*boxes: dict[str, str], place: int = 0) -> str:
    page = Page(jobs=(JOB,), counts=Counts(live=1, queued=1), now_ms=0, places={JOB.id: place})
    return wait_notes.notes(page, boxes, SILENT)[JOB.id]


def test_note_says_that_no_box_is_up() -> None:
    assert note() == note(box(seen_seconds="100")) == "no box is up"
    assert note(box(drain="drain")) == "every box is drained"


def test_note_compares_a_job_that_is_too_big_with_the_largest_card() -> None:
    assert (
        note(box(), box("box-b", total_gib=24, free_gib=24))
        == "too big: needs 90.0 GiB on a card, the largest has 80.0 GiB"
    )


def test_note_tells_place_and_boxes_where_room_will_come() -> None:
    busy = box(total_gib=141, free_gib=20, running=1)
    assert note(busy, place=3) == "3 before it, waits for box-a"
    assert note(busy, box("box-b"), place=0) == "next, waits for box-a"
    assert note(busy, box("box-b", total_gib=141, free_gib=141)) == "next"


def test_note_tells_a_refusal_also_while_the_box_is_busy() -> None:
    told = refusals.dumps({JOB.id: [Problem(text="dataset: no meta/info.json")]})
    busy = box(total_gib=141, free_gib=141, running=1, refusals=told)
    assert note(busy) == "box-a: dataset: no meta/info.json"
    assert note(busy, box("box-b", total_gib=24)) == "box-a: dataset: no meta/info.json"
    assert note(busy, {**busy, "name": "box-b"}) == "box-a: dataset: no meta/info.json (and 1 more box)"


def test_note_of_a_large_fleet_is_the_place_alone() -> None:
    assert note(*(box(f"box-{number}") for number in range(wait_notes.MOST_BOXES + 1)), place=7) == "7 before it"


# -- the command ----------------------------------------------------------------------------------


def test_page_shows_what_runs_and_what_is_next_however_many_older_jobs_wait(driver: JobDriver, store: Store) -> None:
    old = [driver.submit() for _ in range(5)]
    urgent, runs = driver.submit(priority="urgent"), driver.submit()
    driver.run(runs)
    page = store.page(live=2)
    assert [one.id for one in page.jobs] == [runs, urgent, old[0]]
    assert page.counts == Counts(live=7, active=1, queued=6) and page.left_out == 4


def test_ls_selects_and_prints_ids_alone(call: Command, driver: JobDriver, store: Store) -> None:
    waiting, running, over = (driver.submit(name) for name in ("grab_1", "grab_2", "other"))
    driver.run(running)
    store.cancel(over, text="no")
    assert call("ls", "-q").stdout.split() == [running, waiting, over]
    assert call("ls", "-q", "--name", "grab_*", "-n", "1").stdout.split() == [running]
    assert call("ls", "-q", "--state", "queued,cancelled").stdout.split() == [waiting, over]
    assert call("ls", "-q", "--box", "box-a", "--since", "1h").stdout.split() == [running]
    assert call("ls", "-q", "--sort", "name").stdout.split() == [waiting, running, over]
    assert [one["id"] for one in json.loads(call("ls", "--state", "ended", "--json").stdout)] == [over]
    assert "No job matches." in call("ls", "--user", "nobody").stdout
    wrong = call("ls", "--state", "bogus")
    assert (wrong.returncode, wrong.stdout) == (2, "") and "Fix: use some of" in wrong.stderr


def test_ls_json_holds_only_what_a_list_reads_and_the_place(call: Command, driver: JobDriver, store: Store) -> None:
    first, second, over = driver.submit(), driver.submit(), driver.submit()
    store.cancel(over, text="no")
    told = {one["id"]: one for one in json.loads(call("ls", "--json").stdout)}
    assert (told[first]["place"], told[second]["place"]) == (0, 1) and "place" not in told[over]
    assert {key for one in told.values() for key in one} - {"place"} == set(store_reads.LISTED)
    whole = json.loads(call("show", over, "--json").stdout)
    assert {key: value for key, value in whole.items() if key in told[over]} == told[over]


def test_ls_says_what_a_queued_job_waits_for(call: Command, driver: JobDriver, store: Store) -> None:
    job_id = driver.submit()
    assert "no box is up" in call("ls").stdout
    told = refusals.dumps({job_id: [Problem(text="dataset: gone")]})
    store.announce_box(
        "box-a", "id-a", {"status": "ready", "gpus": "[]", "refusals": told, "slots": "1", "running": "1"}
    )
    assert "box-a: dataset: gone" in call("ls").stdout


def test_show_and_why_tell_a_refusal_also_while_the_box_is_busy(call: Command, driver: JobDriver, store: Store) -> None:
    job_id = driver.submit()
    told = refusals.dumps({job_id: [Problem(text="dataset: gone")]})
    store.announce_box("box-a", "id-a", {"status": "ready", "refusals": told, "slots": "1", "running": "1"})
    assert "box-a: busy, 1 of 1 slots in use; dataset: gone" in call("show", job_id).stdout
    why = call("why", job_id).stdout
    assert "1 of 1 slots are in use" in why and "dataset: gone" in why

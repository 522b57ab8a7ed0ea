"""When a box switches itself off: a table of what keeps it on, and the way to the end step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pi0q.queue.idle_policy import ALLOWED, LOGINS, ONLY_COPIES, UNSYNCED_RUNS, IdlePolicy, Phase
from pi0q.workers.idle.decision import TASKS, Idle, OpenTask, Seen, Verdict, judge, reasons
from pi0q.workers.postrun.scheduler import KINDS

POLICY = IdlePolicy(after=1200.0, grace=300.0)
PUSHES = tuple(OpenTask(kind="push", job=name, tried=False) for name in ("a", "b"))
FAILED_PUSH = OpenTask(kind="push", job="a", tried=True)
SYNC = OpenTask(kind="wandb", job="a", tried=True)


@pytest.mark.parametrize(
    ("seen", "allow", "text"),
    [
        (Seen(), (), None),
        (Seen(unclear="the queue does not answer"), (), "the queue does not answer"),
        (Seen(has_server=True), (ONLY_COPIES, UNSYNCED_RUNS, LOGINS), "the queue's server runs on this machine"),
        (Seen(kept_seconds=6000.0), (), "a person keeps it on for another 1 h 40 min"),
        (Seen(jobs=["grab"]), (), "grab runs here"),
        (Seen(jobs=list("abcde")), (), "a, b, c and 2 more run here"),
        (Seen(fetches=True), (ONLY_COPIES, LOGINS), "it fetches what waiting jobs read"),
        (Seen(waiting=["grab"]), (ONLY_COPIES, UNSYNCED_RUNS, LOGINS), "grab waits and fits"),
        (Seen(waiting=["a", "b"]), (), "a, b wait and fit"),
        (Seen(tasks=PUSHES), (ONLY_COPIES,), "2 pushes pending (a, b)"),
        (Seen(tasks=[FAILED_PUSH]), (), "1 push pending (a)"),
        (Seen(tasks=[FAILED_PUSH]), (ONLY_COPIES,), None),
        (Seen(tasks=[replace(FAILED_PUSH, kind="copy")]), (), "1 copy of a last checkpoint pending (a)"),
        (Seen(tasks=[SYNC]), (ONLY_COPIES,), "1 WandB sync pending (a)"),
        (Seen(tasks=[SYNC]), (UNSYNCED_RUNS,), None),
        (Seen(tasks=[replace(SYNC, tried=False)]), (UNSYNCED_RUNS,), "1 WandB sync pending (a)"),
        (Seen(tasks=[replace(SYNC, kind="swanlab")]), (ONLY_COPIES,), "1 SwanLab sync pending (a)"),
        (Seen(tasks=[replace(SYNC, kind="new")]), ALLOWED, "1 post-run task pending (a)"),
        (Seen(only_copies=["a"]), (), "it has the only copy of checkpoints of a"),
        (Seen(only_copies=["a"]), (ONLY_COPIES,), None),
        (Seen(people=["pts/0"]), (), "a person is logged in on pts/0"),
        (Seen(people=["pts/0"]), (LOGINS,), None),
        (Seen(cards=["GPU 0 (12.0 GiB)"]), (ONLY_COPIES, LOGINS), "something else uses GPU 0 (12.0 GiB)"),
    ],
)
def test_what_keeps_a_box_on(seen: Seen, allow: tuple[str, ...], text: str | None) -> None:
    assert reasons(seen, replace(POLICY, allow=allow)) == ([text] if text else [])


def test_every_reason_is_told() -> None:
    assert len(reasons(Seen(tasks=[*PUSHES, SYNC], people=["pts/0"], only_copies=["a"]), POLICY)) == 4


def test_every_kind_of_post_run_task_has_a_name() -> None:
    assert set(TASKS) == set(KINDS)


def way(*looks: tuple[float, str], policy: IdlePolicy = POLICY) -> list[Verdict]:
    """The verdicts of looks at these times, each with what keeps the box on then, or ""."""
    idle, found = Idle(), []
    for now, why in looks:
        idle, verdict = judge(idle, [why] if why else [], now, policy, gap=700.0)
        found.append(verdict)
    return found


def test_the_way_to_the_end() -> None:
    found = way((0, ""), (600, ""), (1199, ""), (1200, ""), (1499, ""), (1500, ""))
    assert [(one.phase, one.seconds) for one in found] == [
        (Phase.COUNTING, 1500.0),
        (Phase.COUNTING, 900.0),
        (Phase.COUNTING, 301.0),
        (Phase.LEAVING, 300.0),
        (Phase.LEAVING, 1.0),
        (Phase.OFF, 0.0),
    ]


@pytest.mark.parametrize("at", [600.0, 1200.0, 1499.9])
def test_any_need_sets_it_back_to_the_beginning(at: float) -> None:
    *_, needed, after, later = way((0, ""), (600, ""), (1200, ""), (at, "grab runs here"), (1501, ""), (2100, ""))
    assert (needed.phase, needed.why) == (Phase.NEEDED, ("grab runs here",))
    assert (after.phase, after.seconds, later.seconds) == (Phase.COUNTING, 1500.0, 901.0)


def test_the_grace_lasts_in_full_also_where_a_look_comes_late() -> None:
    *_, late, last = way((0, ""), (650, ""), (1300, ""), (1590, ""))
    assert (late.phase, late.seconds) == (Phase.LEAVING, 300.0)
    assert (last.phase, last.seconds) == (Phase.LEAVING, 10.0)


def test_nobody_knows_what_was_in_a_long_gap() -> None:
    """A machine that was asleep, a thread that hung on a dead disk."""
    *_, gap = way((0, ""), (600, ""), (1200, ""), (5000, ""))
    assert (gap.phase, gap.seconds) == (Phase.COUNTING, 1500.0)


def test_a_box_that_was_not_told_to_never_leaves() -> None:
    assert {one.phase for one in way((0, ""), (600, ""), (1e9, ""), policy=IdlePolicy())} == {Phase.NEEDED}

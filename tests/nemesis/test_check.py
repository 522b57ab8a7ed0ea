"""The checker finds each kind of broken promise in a history that was doctored to hold one, and none in a good one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.nemesis.check import check, joined
from tests.nemesis.history import Act, Call, Happened, History, Known, Life, Sealed, read
from tests.nemesis.plan import FENCE, LEASE, Job

ID = "aa"


def job(name: str = "grab_box", **fields: object) -> Job:
    return replace(Job(name=name, gib=8.0, priority="normal", steps=40, save_freq=10, at=0.0), **fields)  # type: ignore[arg-type]


def life(first: int, last: int, *, begin: float, box: str = "box-a", epoch: int = 1, done: bool = False) -> Life:
    """A trainer that makes ten steps a second, the first 0.1 s after it began, and saves each tenth."""
    made = Life(job=ID, box=box, epoch=epoch, pid=7, begin=begin, done=done)
    for place, step in enumerate(range(first, last + 1)):
        at = begin + 0.1 * (place + 1)
        made.acts.append(Act(kind="step", step=step, t0=at, t1=at + 0.08))
        if step % 10 == 0:
            made.acts.append(Act(kind="save", step=step, t0=at + 0.08, t1=at + 0.09))
    return made


def call(script: str, *args: object, at: float, answer: object, box: str = "box-a") -> Call:
    return Call(box=box, pid=5, script=script, args=[str(arg) for arg in args], t0=at, t1=at + 0.01, answer=answer)


def claim(at: float, *, box: str = "box-a", epoch: int = 1) -> Call:
    return call("claim", ID, box, "boot", 5000, "[]", "[]", "", 0, at=at, box=box, answer=["claimed", epoch])


def moved(to: str, at: float, *, epoch: int = 1, box: str = "box-a", reason: str = "finished") -> Call:
    return call("move", ID, to, "[]", epoch, "{}", reason, "", box, at=at, box=box, answer=[1, to])


def good() -> History:
    """A runner was killed at step 25; the second trainer went on from 20 and came to the end."""
    known = Known(
        id=ID, number=0, job=job(), accepted=0.1, state="succeeded", reason="finished", attempt=1, step=40, ended=8.0
    )
    known.history = [
        "queued:",
        "claimed:",
        "running:",
        "queued:runner_lost",
        "claimed:",
        "running:",
        "succeeded:finished",
    ]
    history = History(seed=1, begin=0.0, jobs=[known], healed=5.0, ended=8.0)
    history.lives = [life(1, 25, begin=1.0), life(21, 40, begin=4.0, epoch=2, done=True)]
    history.calls = [claim(0.5), call("report", ID, 1, 5000, "{}", "", "box-a", 0, at=2.0, answer=[1, ""])]
    history.calls += [moved("queued", 3.7, reason="runner_lost"), claim(3.8, epoch=2), moved("succeeded", 7.0, epoch=2)]
    history.sealed = [Sealed(job=ID, box="box-a", step=20, t=3.2)]
    history.faults = [Happened(kind="kill_runner", t0=3.6, t1=3.6, box="box-a", job=ID)]
    return history


def moved_to_another_box() -> History:
    """Box A was cut off for longer than the lease; B began at step 0 after that."""
    history = good()
    history.lives = [life(1, 25, begin=1.0), life(1, 40, begin=12.0, box="box-b", epoch=2, done=True)]
    history.calls = [claim(0.5), claim(11.0, box="box-b", epoch=2), moved("succeeded", 17.0, epoch=2, box="box-b")]
    history.faults = [Happened(kind="hold", t0=3.0, t1=3.0 + LEASE + 2, box="box-a")]
    return history


def rules(history: History) -> set[str]:
    return {violation.rule for violation in check(history)}


def test_good_histories_are_good() -> None:
    assert check(good()) == []
    assert check(moved_to_another_box()) == []


# -- I1 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "running", "preparing"])
def test_a_job_that_never_ends(state: str) -> None:
    history = good()
    history.jobs[0].state = state
    assert rules(history) == {"I1"}


def test_a_job_that_is_lost() -> None:
    history = good()
    history.jobs[0].there = False
    assert rules(history) == {"I1"}


def test_a_job_that_no_one_accepted_may_be_lost() -> None:
    history = good()
    history.jobs[0].there, history.jobs[0].accepted = False, None
    assert "I1" not in rules(history)


def test_a_job_that_came_after_the_copy_and_that_no_box_had_may_be_lost_and_no_other() -> None:
    history = History(seed=1, begin=0.0, jobs=good().jobs, healed=5.0, ended=8.0)
    history.jobs[0].there, history.jobs[0].accepted = False, 2.0
    history.faults = [Happened(kind="restore_server", t0=3.0, t1=3.2, since=1.0)]
    assert check(history) == []
    history.faults[0].since = 2.5
    assert rules(history) == {"I1"}
    history.faults[0].since = 1.0
    history.calls = [claim(2.5)]
    assert rules(history) == {"I1"}


def test_two_ends() -> None:
    history = good()
    history.calls.append(moved("succeeded", 7.5, epoch=2))
    assert rules(history) == {"I1"}
    history.calls[-1].answer = [0, "succeeded", "2"]
    assert check(history) == [], "the second was refused"


def test_an_end_that_is_said_again_to_an_older_server_must_be_the_same() -> None:
    history = good()
    history.faults.append(Happened(kind="restore_server", t0=7.2, t1=7.4, since=1.0))
    history.calls.append(moved("succeeded", 7.5, epoch=2))
    assert check(history) == []
    history.calls[-1].args[1], history.calls[-1].answer = "failed", [1, "failed"]
    assert rules(history) == {"I1"}


@pytest.mark.parametrize(
    ("state", "reason", "step"),
    [("cancelled", "cancelled_by_user", 40), ("failed", "crash_loop", 40), ("failed", "trainer_killed", 40),
     ("failed", "cuda_out_of_memory", 3), ("succeeded", "finished", 39)],
)  # fmt: skip
def test_an_end_that_nothing_accounts_for(state: str, reason: str, step: int) -> None:
    history = good()
    known = history.jobs[0]
    known.state, known.reason, known.step = state, reason, step
    history.calls[-1].args[1], history.calls[-1].answer = state, [1, state]
    known.history[-1] = f"{state}:{reason}"
    assert rules(history) == {"I1"}


def test_a_trainer_killed_three_times_may_fail() -> None:
    history = good()
    known = history.jobs[0]
    known.state, known.reason, known.history[-1] = "failed", "trainer_killed", "failed:trainer_killed"
    history.calls[-1].args[1], history.calls[-1].answer = "failed", [1, "failed"]
    history.lives[-1].done = False
    kills = [Happened(kind="kill_trainer", t0=at, t1=at, box="box-a", job=ID) for at in (3.6, 5.0, 6.0)]
    history.faults += kills
    assert check(history) == []
    history.faults.remove(kills[0])
    assert rules(history) == {"I1"}


def test_a_trainer_that_begins_after_the_end() -> None:
    history = good()
    history.lives.append(life(1, 0, begin=7.5, epoch=2, done=True))
    assert rules(history) == {"I1"}


# -- I2 -----------------------------------------------------------------------------------------------


def test_a_step_begun_after_another_box_began() -> None:
    history = moved_to_another_box()
    history.lives[0].acts.append(Act(kind="step", step=26, t0=12.5, t1=12.6))
    assert rules(history) == {"I2"}


def test_a_step_that_ends_late_is_begun_in_time_on_another_box_and_not_on_the_same() -> None:
    history = moved_to_another_box()
    history.lives[0].acts[-1].t1 = 12.5
    assert check(history) == [], "a machine that stood still in the middle of it"
    history = good()
    history.lives[0].acts[-1].t1 = 4.5
    assert rules(history) == {"I2"}


def test_a_checkpoint_vouched_for_by_a_former_owner() -> None:
    history = moved_to_another_box()
    history.sealed.append(Sealed(job=ID, box="box-a", step=20, t=12.5))
    assert rules(history) == {"I2"}


@pytest.mark.parametrize("script", ["report", "move"])
def test_a_write_of_a_former_owner_that_is_accepted(script: str) -> None:
    history = moved_to_another_box()
    late = call("report", ID, 1, 5000, "{}", "", "box-a", 0, at=11.5, answer=[1, ""])
    history.calls.append(late if script == "report" else moved("running", 11.5))
    assert rules(history) == {"I2"}
    history.calls[-1].answer = [0]
    assert check(history) == [], "it was refused"


def test_a_write_that_may_have_come_before_the_claim_is_none() -> None:
    history = moved_to_another_box()
    late = call("report", ID, 1, 5000, "{}", "", "box-a", 0, at=10.9, answer=[1, ""])
    late.t1 = 13.0
    history.calls.append(late)
    assert check(history) == []


def test_a_write_of_another_box_under_the_same_epoch() -> None:
    history = moved_to_another_box()
    history.calls.append(call("report", ID, 2, 5000, "{}", "", "box-a", 0, at=11.5, answer=[1, ""]))
    assert rules(history) == {"I2"}


# -- I3, I4, I6 ---------------------------------------------------------------------------------------


def test_more_lost_than_an_interval_and_a_step() -> None:
    history = good()
    history.lives[1] = life(16, 40, begin=4.0, epoch=2, done=True)
    assert check(history) == []
    history.lives[1] = life(14, 40, begin=4.0, epoch=2, done=True)
    assert rules(history) == {"I3"}


def test_what_is_left() -> None:
    history = good()
    history.left = ["10 MiB are still promised"]
    assert rules(history) == {"I4"}


def test_a_process_without_a_mark_is_excused_only_where_nobody_could_know_it() -> None:
    history = good()
    history.strays = [("box-a", "process 9")]
    assert rules(history) == {"I4"}
    history.faults.append(Happened(kind="kill_worker", t0=6.0, t1=6.5, box="box-a"))
    assert rules(history) == {"I4"}, "its runner was killed while its worker lived"
    history.faults.append(Happened(kind="kill_worker", t0=3.0, t1=3.5, box="box-a"))
    assert check(history) == []


def test_a_worker_that_died() -> None:
    history = good()
    history.died = ["the worker of box-a ended with 1"]
    assert rules(history) == {"alive"}


@pytest.mark.parametrize(("name", "reason"), [("oom@5", "cuda_out_of_memory"), ("nan@5", "non_finite_loss")])
def test_a_second_try_of_what_no_try_can_cure(name: str, reason: str) -> None:
    history = good()
    known = history.jobs[0]
    known.job, known.state, known.reason = job(name), "failed", reason
    known.history[-1] = f"failed:{reason}"
    history.calls[-1].args[1], history.calls[-1].answer = "failed", [1, "failed"]
    assert check(history) == [], "its runner died before it could say so"
    history.calls[2].args[5] = reason
    assert rules(history) == {"I6"}


# -- no healthy trainer is killed ---------------------------------------------------------------------


def test_a_trainer_that_ended_for_nothing() -> None:
    history = good()
    history.faults = []
    assert rules(history) == {"healthy"}


@pytest.mark.parametrize(
    "fault",
    [
        Happened(kind="kill_worker", t0=3.5, t1=3.9, box="box-a"),
        Happened(kind="kill_runner", t0=3.5, t1=3.5, box="box-a", job="another"),
        Happened(kind="crash", t0=3.5, t1=3.9, box="box-b"),
        Happened(kind="hold", t0=2.0, t1=2.0 + FENCE, box="box-b"),
        Happened(kind="hold", t0=2.5, t1=3.7, box="box-a"),
        Happened(kind="kill_server", t0=2.5, t1=3.7),
        Happened(kind="restore_server", t0=3.0, t1=3.3, since=1.0),
        Happened(kind="drain", t0=2.0, t1=6.0, box="box-a"),
        Happened(kind="stop_trainer", t0=3.0, t1=3.0 + LEASE, box="box-a", job=ID),
    ],
    ids=lambda fault: f"{fault.kind} {fault.box}",
)
def test_what_is_not_able_to_end_a_training_explains_nothing(fault: Happened) -> None:
    history = good()
    history.faults = [fault]
    assert rules(history) == {"healthy"}


@pytest.mark.parametrize(
    "fault",
    [
        Happened(kind="kill_trainer", t0=3.6, t1=3.6, box="box-a", job=ID),
        Happened(kind="crash", t0=3.6, t1=3.9, box="box-a"),
        Happened(kind="drain_now", t0=3.0, t1=4.0, box="box-a"),
        Happened(kind="hold", t0=0.0, t1=FENCE, box="box-a"),
        Happened(kind="stop_server", t0=0.0, t1=FENCE),
    ],
    ids=lambda fault: f"{fault.kind} {fault.box}",
)
def test_what_is_able_to_explains_it(fault: Happened) -> None:
    history = good()
    history.faults = [fault]
    assert check(history) == []


def test_outages_in_a_row_are_one_and_a_pause_of_the_machine_counts() -> None:
    assert joined([(0.0, 1.0), (2.0, 3.0), (9.0, 10.0)]) == [(0.0, 3.0), (9.0, 10.0)]
    history = good()
    history.faults = [Happened(kind="refuse", t0=at, t1=at + 1.0, box="box-a") for at in (1.0, 3.0)]
    assert check(history) == []
    history.faults, history.stalls = [], [(1.0, 1.0 + FENCE)]
    assert check(history) == []


def test_calls_that_nothing_but_the_machine_held_up_count_and_others_do_not() -> None:
    history = good()
    history.faults = []
    history.calls[1].t1 = history.calls[1].t0 + FENCE
    assert check(history) == []
    history.faults = [Happened(kind="stop_worker", t0=3.0, t1=3.5, box="box-a")]
    assert rules(history) == {"healthy"}


# -- reading ------------------------------------------------------------------------------------------


def test_records_become_lives_and_calls() -> None:
    history = History(seed=1, begin=0.0)
    common = {"pid": 7, "job": ID, "epoch": 3}
    read(
        history,
        "box-b",
        [
            {"e": "call", "t": 1.0, "pid": 5, "n": 1, "script": "claim", "args": [ID, "box-b"]},
            {"e": "answer", "t": 1.1, "pid": 5, "n": 1, "script": "claim", "answer": ["claimed", 3]},
            {"e": "call", "t": 1.2, "pid": 5, "n": 2, "script": "report", "args": [ID, "3"]},
            {"e": "begin", "t": 2.0, **common},
            {"e": "stepping", "t": 2.1, "t0": 2.1, "step": 1, **common},
            {"e": "step", "t": 2.2, "t0": 2.1, "step": 1, **common},
            {"e": "saving", "t": 2.3, "t0": 2.3, "step": 1, **common},
            {"e": "manifest", "t": 2.4, "pid": 6, "path": f"/x/runs/{ID}/output/checkpoints/000001/pi0q.manifest.json"},
            {"e": "begin", "t": 5.0, **common},
            {"e": "stepping", "t": 5.1, "t0": 5.1, "step": 2, **common},
            {"e": "done", "t": 5.2, "t0": 5.2, "step": 2, **common},
        ],
    )
    first, second = history.lives
    assert [(act.kind, act.step, act.t1) for act in first.acts] == [("step", 1, 2.2), ("save", 1, None)]
    assert (first.first, first.last, first.done) == (1, 1, False)
    assert (second.first, second.last, second.done) == (2, None, True)
    assert [(each.script, each.t1, each.job) for each in history.calls] == [("claim", 1.1, ID), ("report", None, ID)]
    assert history.sealed == [Sealed(job=ID, box="box-b", step=1, t=2.4)]

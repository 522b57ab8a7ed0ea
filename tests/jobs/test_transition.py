from __future__ import annotations

from dataclasses import replace

import pytest

from pi0q.jobs import transition
from pi0q.jobs.outcome import MAX_ATTEMPTS, MAX_RUNS_WITHOUT_CHECKPOINT, OUTCOMES, Next, Reason
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.state import OWNED, TRANSITIONS, State

JOB = Record(
    id="a1b2c3", name="grab_box", state=State.RUNNING, priority="normal", submitter="ada@laptop", spec={}, needs={},
    created_ms=1, updated_ms=1, epoch=4, attempt=1,
)  # fmt: skip


def because(next: Next) -> list[Reason]:
    return [reason for reason, outcome in OUTCOMES.items() if outcome.next is next]


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("attempt", range(MAX_ATTEMPTS + 1))
def test_whatever_ends_a_run_follows_the_table_of_states(reason: Reason, attempt: int) -> None:
    move = transition.ended(replace(JOB, attempt=attempt), 4, reason, "it ended")
    assert move.epoch == 4
    assert move.source and all(move.to in TRANSITIONS[state] for state in move.source)
    assert move.source <= OWNED


def test_a_run_that_finished_ends_its_job() -> None:
    move = transition.ended(JOB, 4, Reason.FINISHED, "reached step 50000")
    assert (move.to, move.reason, move.text) == (State.SUCCEEDED, Reason.FINISHED, "reached step 50000")


@pytest.mark.parametrize("reason", because(Next.FAIL))
def test_the_users_own_fault_ends_a_job_at_once(reason: Reason) -> None:
    assert transition.ended(JOB, 4, reason, "no").to is State.FAILED


@pytest.mark.parametrize("reason", because(Next.RETRY))
def test_what_may_pass_is_tried_again_until_the_attempts_are_used_up(reason: Reason) -> None:
    attempts = OUTCOMES[reason].attempts
    for attempt in range(1, attempts):
        move = transition.ended(replace(JOB, attempt=attempt), 4, reason, "no")
        assert (move.to, move.fields["attempt"]) == (State.QUEUED, attempt)
    last = transition.ended(replace(JOB, attempt=attempts), 4, reason, "no route to the Hub")
    assert (last.to, last.reason) == (State.FAILED, reason)
    assert last.text == f"no route to the Hub (attempt {attempts} of {attempts})"


def test_a_checkpoint_in_between_starts_the_attempts_again() -> None:
    """Two days are long: what kills a trainer now and then must not end a job that gets on."""
    saved = Saved(step=200, path="/data/runs/a1b2c3/output/checkpoints/000200", manifest="ab" * 32, bytes=1)
    got_on = replace(JOB, attempt=MAX_ATTEMPTS, checkpoint=saved, runs_without_checkpoint=0)
    move = transition.ended(got_on, 4, Reason.TRAINER_KILLED, "killed")
    assert (move.to, move.fields["attempt"], move.fields["fruitless"]) == (State.QUEUED, 1, 1)
    # The checkpoint of a run before does not count, nor is a fault of the user's made good by one.
    stuck = replace(got_on, runs_without_checkpoint=1)
    assert transition.ended(stuck, 4, Reason.TRAINER_KILLED, "killed").to is State.FAILED
    assert transition.ended(got_on, 4, Reason.CUDA_OUT_OF_MEMORY, "OOM").to is State.FAILED


def test_a_trainer_that_hung_twice_would_hang_again() -> None:
    assert OUTCOMES[Reason.HUNG].attempts == 2
    assert transition.ended(replace(JOB, attempt=1), 4, Reason.HUNG, "no step").to is State.QUEUED
    assert transition.ended(replace(JOB, attempt=2), 4, Reason.HUNG, "no step").to is State.FAILED


@pytest.mark.parametrize("reason", because(Next.REQUEUE))
def test_an_interruption_gives_the_attempt_back(reason: Reason) -> None:
    move = transition.ended(replace(JOB, attempt=MAX_ATTEMPTS), 4, reason, "the box restarted")
    assert (move.to, move.fields["attempt"]) == (State.QUEUED, MAX_ATTEMPTS - 1)


def test_a_network_that_is_away_costs_neither_attempts_nor_patience() -> None:
    job, rests = replace(JOB, attempt=MAX_ATTEMPTS, runs_without_checkpoint=MAX_RUNS_WITHOUT_CHECKPOINT - 1), []
    for _ in range(12):
        move = transition.ended(job, 4, Reason.NETWORK, "no route to the Hub")
        assert (move.to, move.reason) == (State.QUEUED, Reason.NETWORK)
        assert (move.fields["attempt"], move.fields["fruitless"]) == (MAX_ATTEMPTS - 1, MAX_RUNS_WITHOUT_CHECKPOINT - 1)
        rests.append(move.fields["rest_seconds"])
        job = replace(job, epoch=job.epoch + 1, rest_seconds=rests[-1])
    assert 60 <= rests[0] <= 75 and 120 <= rests[1] <= 190
    assert rests == sorted(rests) and rests[-1] == 1800


def test_the_hubs_word_on_how_long_to_stay_away_is_kept_to_half_an_hour() -> None:
    asked = transition.ended(JOB, 4, Reason.NETWORK, "429", asked_seconds=300).fields["rest_seconds"]
    assert 300 <= asked <= 375
    assert transition.ended(JOB, 4, Reason.NETWORK, "429", asked_seconds=86400).fields["rest_seconds"] == 1800


def test_two_jobs_do_not_come_back_at_the_same_moment() -> None:
    rests = {transition.ended(replace(JOB, id=i), 4, Reason.NETWORK, "").fields["rest_seconds"] for i in "abcdef"}
    assert len(rests) > 3


def test_another_ending_begins_the_rests_anew() -> None:
    rested = replace(JOB, rest_seconds=960)
    assert transition.ended(rested, 4, Reason.BOX_RESTARTED, "rebooted").fields["rest_seconds"] == 0


def test_an_interruption_before_a_runner_took_it_says_nothing_of_the_job() -> None:
    """A box whose runners do not start would else fail one waiting job after the other as the cause of it."""
    claimed = replace(JOB, state=State.CLAIMED, attempt=2, runs_without_checkpoint=MAX_RUNS_WITHOUT_CHECKPOINT - 1)
    move = transition.ended(claimed, 4, Reason.RUNNER_LOST, "gone")
    assert (move.to, move.fields["attempt"], move.fields["fruitless"]) == (
        State.QUEUED,
        2,
        MAX_RUNS_WITHOUT_CHECKPOINT - 1,
    )


def test_a_job_that_kills_box_after_box_is_stopped() -> None:
    """Interruptions use up no attempt, so something else must end a job that causes them."""
    nearly = replace(JOB, runs_without_checkpoint=MAX_RUNS_WITHOUT_CHECKPOINT - 2)
    assert transition.ended(nearly, 4, Reason.BOX_RESTARTED, "rebooted").to is State.QUEUED
    last = transition.ended(
        replace(JOB, runs_without_checkpoint=MAX_RUNS_WITHOUT_CHECKPOINT - 1), 4, Reason.BOX_RESTARTED, "rebooted"
    )
    assert (last.to, last.reason) == (State.FAILED, Reason.CRASH_LOOP)
    assert last.text == f"rebooted ({MAX_RUNS_WITHOUT_CHECKPOINT} times without a new checkpoint)"


def test_a_checkpoint_in_between_starts_that_count_again() -> None:
    """Its runner sets `fruitless` to 0 with each; ended() only ever adds one."""
    assert (
        transition.ended(replace(JOB, runs_without_checkpoint=0), 4, Reason.BOX_RESTARTED, "rebooted").fields[
            "fruitless"
        ]
        == 1
    )


def test_a_runner_takes_only_what_was_claimed_and_says_which_try_it_is() -> None:
    move = transition.preparing(4, attempt=2, run_dir="/data/runs/a1b2c3")
    assert (move.to, move.source, move.epoch) == (State.PREPARING, frozenset({State.CLAIMED}), 4)
    assert move.fields["attempt"] == 2 and move.fields["run_dir"] == "/data/runs/a1b2c3"


def test_the_first_start_is_kept_over_later_ones() -> None:
    assert transition.running(4, text="", started_ms=17).fields == {"started_ms": 17}
    assert transition.running(5, text="", started_ms=None).fields == {}


def test_cancelled_is_for_good_from_wherever_it_is() -> None:
    move = transition.cancelled(None, text="cancelled by ada@laptop")
    assert (move.to, move.reason) == (State.CANCELLED, Reason.CANCELLED_BY_USER)
    assert move.source == {state for state, targets in TRANSITIONS.items() if State.CANCELLED in targets}


def test_a_preflight_ends_only_a_job_that_nobody_has() -> None:
    move = transition.refused(Reason.NEEDS_ACCESS, "accept its terms")
    assert (move.to, move.source, move.epoch) == (State.FAILED, frozenset({State.QUEUED}), None)
    assert move.to in TRANSITIONS[State.QUEUED] and move.fields["detail"] == "accept its terms"


def test_the_same_failure_at_the_same_step_is_not_tried_a_third_time() -> None:
    seen = {"reason": "trainer_failed", "same": "KeyError: 'x' @ 17"}
    first = transition.ended(JOB, 4, Reason.TRAINER_FAILED, "KeyError: 'x'", evidence=seen)
    assert (first.to, first.fields["evidence"]) == (State.QUEUED, seen)
    again = transition.ended(
        replace(JOB, evidence=seen, attempt=2), 4, Reason.TRAINER_FAILED, "KeyError", evidence=seen
    )
    assert again.to is State.FAILED and "the same as the time before" in again.text
    other = {**seen, "same": "KeyError: 'x' @ 18"}
    moved = transition.ended(replace(JOB, evidence=seen, attempt=2), 4, Reason.TRAINER_FAILED, "x", evidence=other)
    assert moved.to is State.QUEUED
    nameless = {"reason": "trainer_killed", "same": ""}
    killed = replace(JOB, evidence=nameless, attempt=2)
    assert transition.ended(killed, 4, Reason.TRAINER_KILLED, "SIGKILL", evidence=nameless).to is State.QUEUED

from __future__ import annotations

import itertools

from pi0q.jobs.state import ENDED, OWNED, TRANSITIONS, State, sources


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(State)


def test_nothing_ever_leaves_an_end() -> None:
    assert {state for state, targets in TRANSITIONS.items() if not targets} == ENDED


def test_the_way_of_a_job_that_goes_well() -> None:
    way = [State.WAITING, State.QUEUED, State.CLAIMED, State.PREPARING, State.RUNNING, State.SUCCEEDED]
    assert all(then in TRANSITIONS[now] for now, then in itertools.pairwise(way))


def test_success_is_reached_from_a_living_trainer_alone() -> None:
    assert sources(State.SUCCEEDED) == {State.RUNNING}


def test_a_claim_is_made_of_a_queued_job_alone() -> None:
    assert sources(State.CLAIMED) == {State.QUEUED}


def test_whoever_owns_a_job_may_lose_it_and_give_it_up() -> None:
    assert all({State.QUEUED, State.FAILED, State.CANCELLED} <= TRANSITIONS[state] for state in OWNED)


def test_whatever_has_not_ended_can_be_cancelled() -> None:
    assert sources(State.CANCELLED) == set(State) - ENDED


def test_a_state_reads_as_its_word() -> None:
    assert f"{State.QUEUED}" == "queued"

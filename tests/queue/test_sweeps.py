"""Sweeps: forty trials submitted, followed, thinned out and summed up as one thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs import sweep_trials, transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import State
from pi0q.queue import sweeps
from pi0q.queue.retention import Retention
from pi0q.queue.store import Store
from tests.conftest import Answer, Command, JobDriver

TRAIN = {"dataset.repo_id": "local/d", "dataset.root": "d", "policy.type": "act", "policy.push_to_hub": False}
SEEDS = {"train.seed": [1, 2, 3, 4]}


def end(store: Store, job: str, epoch: int, reason: Reason = Reason.FINISHED, **fields: Any) -> None:
    store.report(job, epoch, lease_seconds=600.0, fields=fields)
    assert store.move(job, transition.ended(store.get(job), epoch, reason, "so it ended"))


def fail(store: Store, job: str, epoch: int) -> None:
    end(store, job, epoch, Reason.SPEC_REFUSED)


def queue(store: Store) -> list[str]:
    return [job.name for job in store.waiting()]


@pytest.fixture
def submit(call: Command, tmp_path: Path) -> Any:
    def submit(sweep: Any, *options: str, name: str = "seeds", **keys: Any) -> Answer:
        file = tmp_path / f"{name}.yaml"
        file.write_text(json.dumps({"name": name, "sweep": sweep, **keys, "train": TRAIN}))
        return call("submit", str(file), *options)

    return submit


def id_of(answer: Answer) -> str:
    assert answer.returncode == 0, answer.stderr
    return str(json.loads(answer.stdout)["id"])


def trial(store: Store, number: int, name: str = "seeds") -> str:
    return store.resolve(f"{name}/{number:04d}")


def test_sweep_queues_a_job_for_each_combination(store: Store, submit: Any) -> None:
    said = submit({**SEEDS, "train.batch_size": [8, 16]})
    assert "It is a sweep of 8 trials, seeds/0001 to 0008." in said.stdout, said.stderr
    assert queue(store) == [f"seeds/{number:04d}" for number in range(1, 9)]
    sweep = store.get(store.resolve("seeds"))
    assert (sweep.state, sweep.reason, sweep.label) == (State.WAITING, Reason.SWEEP, "sweep")
    assert sweep.trials and (sweep.trials.total, sweep.trials.made) == (8, 8)
    third = store.get(trial(store, 3))
    assert (third.sweep, third.sweep_number) == (sweep.id, 3)
    assert third.sweep_values == {"train.seed": 2, "train.batch_size": 8}
    parent, child = Spec.from_json(sweep.spec), Spec.from_json(third.spec)
    assert child.train["seed"] == 2 and child.sweep is None and sweep_trials.inside(parent, child)


def test_list_shows_one_line_and_children_on_demand(
    store: Store, driver: JobDriver, submit: Any, call: Command
) -> None:
    store.hold(driver.submit("other"), text="by ada")
    submit({**SEEDS, "max_parallel": 2})
    lines = call("ls").stdout.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["seeds", "other"]
    assert "0/4 trials" in lines[1]
    shown = call("ls", "-x").stdout.splitlines()
    assert [line.split()[1] for line in shown[1:]] == ["seeds", *(f"seeds/000{k}" for k in (1, 2, 3, 4)), "other"]
    assert "seed 3 · at most 2 trials of its sweep at a time" in shown[4]
    assert len(call("ls", "-q", "--name", "seeds/*").stdout.split()) == 4


def test_best_trial_and_end_are_summed_up(store: Store, driver: JobDriver, submit: Any, call: Command) -> None:
    sweep = id_of(submit(SEEDS, "--json"))
    for number, loss in ((1, 0.5), (2, 0.25), (3, float("nan"))):
        job = trial(store, number)
        end(store, job, driver.run(job), loss=loss)
    assert "best loss 0.25 = seed 2" in call("ls").stdout and "3/4 trials" in call("ls").stdout
    job = trial(store, 4)
    fail(store, job, driver.run(job))
    over = store.get(sweep)
    assert (over.state, over.detail) == (State.SUCCEEDED, "3 of 4 trials succeeded")
    shown = call("show", sweep).stdout
    assert "4 of 4 done, 1 failed, best loss 0.25 = seed 2" in shown and trial(store, 2) in shown
    told = json.loads(call("show", sweep, "--json").stdout)["trials"]
    assert (told["done"], told["best"], told["best_number"], told["best_values"]) == (4, 0.25, 2, {"train.seed": 2})
    assert store.client.zcard(store.prefix + "sweeps") == 0


def test_no_more_than_max_parallel_are_in_the_queue(store: Store, driver: JobDriver, submit: Any) -> None:
    submit({**SEEDS, "max_parallel": 2})
    assert queue(store) == ["seeds/0001", "seeds/0002"]
    job = trial(store, 1)
    epoch = driver.run(job)
    assert queue(store) == ["seeds/0002"]
    end(store, job, epoch)
    assert queue(store) == ["seeds/0002", "seeds/0003"]
    assert store.cancel(trial(store, 2), text="cancelled by ada") is State.CANCELLED
    assert queue(store) == ["seeds/0003", "seeds/0004"]


def test_interrupted_trial_keeps_its_turn(store: Store, driver: JobDriver, submit: Any) -> None:
    submit({**SEEDS, "max_parallel": 1})
    job = trial(store, 1)
    epoch = driver.run(job)
    assert store.move(job, transition.ended(store.get(job), epoch, Reason.STOPPED_BY_BOX, "stopped"))
    assert queue(store) == ["seeds/0001"]


def test_held_trial_gives_its_turn_to_the_next(store: Store, submit: Any, call: Command) -> None:
    submit({**SEEDS, "max_parallel": 1})
    call("hold", trial(store, 1))
    assert queue(store) == ["seeds/0002"]
    call("release", trial(store, 1))
    assert queue(store) == ["seeds/0002"] and store.get(trial(store, 1)).reason is Reason.SWEEP_TURN


def test_cancel_ends_all_trials(store: Store, driver: JobDriver, submit: Any, call: Command) -> None:
    sweep = id_of(submit({**SEEDS, "max_parallel": 2}, "--json"))
    job = trial(store, 1)
    epoch = driver.run(job)
    said = call("cancel", "seeds")
    assert "With it 4 trials: 1 running, 1 queued, 2 waiting." in said.stdout, said.stdout
    assert queue(store) == [] and driver.report(job, epoch) == "cancel"
    assert store.get(sweep).state is State.CANCELLED
    assert {store.get(trial(store, number)).state for number in (2, 3, 4)} == {State.CANCELLED}


def test_hold_and_release_act_on_all_trials(store: Store, driver: JobDriver, submit: Any, call: Command) -> None:
    sweep = id_of(submit({**SEEDS, "max_parallel": 2}, "--json"))
    job = trial(store, 1)
    epoch = driver.run(job)
    call("hold", "seeds")
    assert queue(store) == [] and driver.report(job, epoch) == "stop" and store.get(sweep).label == "held"
    assert store.move(job, transition.ended(store.get(job), epoch, Reason.STOPPED_BY_BOX, "stopped"))
    assert store.get(job).state is State.WAITING and queue(store) == []
    said = call("release", "seeds")
    assert "4 trials" in said.stdout and store.get(sweep).label == "sweep"
    assert len(queue(store)) == 2 and len(sweeps.living(store, sweep)) == 4
    for _ in range(4):
        one = store.waiting()[0].id
        end(store, one, driver.run(one))
    assert store.get(sweep).state is State.SUCCEEDED


def test_release_leaves_trials_that_nobody_holds_their_turn(store: Store, submit: Any, call: Command) -> None:
    submit({**SEEDS, "max_parallel": 1})
    assert "is not held" in call("release", "seeds").stdout
    assert queue(store) == ["seeds/0001"]


def test_bump_acts_on_all_trials(store: Store, driver: JobDriver, submit: Any, call: Command) -> None:
    driver.submit("other")
    submit(SEEDS)
    call("bump", "seeds", "--priority", "high")
    assert queue(store)[-1] == "other" and {job.priority for job in store.waiting()[:4]} == {"high"}


def test_retried_trial_takes_its_place(store: Store, driver: JobDriver, submit: Any, call: Command) -> None:
    sweep = id_of(submit(SEEDS, "--json"))
    job = trial(store, 1)
    fail(store, job, driver.run(job))
    again = json.loads(call("retry", job, "--json").stdout)["id"]
    tally = store.get(sweep).trials
    assert tally and (tally.made, tally.failed) == (4, 0)
    end(store, again, driver.run(again), loss=0.1)
    tally = store.get(sweep).trials
    assert tally and (tally.succeeded, tally.best_id) == (1, again)
    refused = call("retry", sweep)
    assert refused.returncode == 2 and "Fix: pi0q retry seeds/0001" in refused.stderr


def test_sweep_waits_for_another_job_with_all_its_trials(store: Store, driver: JobDriver, submit: Any) -> None:
    first = driver.submit("train")
    submit({**SEEDS, "max_parallel": 3}, after="train")
    assert queue(store) == ["train"]
    end(store, first, driver.run(first))
    assert len(queue(store)) == 3


def test_job_after_a_sweep_starts_with_its_end(
    store: Store, driver: JobDriver, submit: Any, call: Command, tmp_path: Path
) -> None:
    submit({"train.seed": [1, 2]})
    (tmp_path / "last.yaml").write_text(json.dumps({"name": "last", "after": "seeds", "train": TRAIN}))
    assert call("submit", "last.yaml").returncode == 0
    for number in (1, 2):
        job = trial(store, number)
        end(store, job, driver.run(job))
    assert queue(store) == ["last"]


def test_repair_counts_trials_anew(store: Store, driver: JobDriver, submit: Any) -> None:
    sweep = id_of(submit({"train.seed": [1, 2], "max_parallel": 1}, "--json"))
    job = trial(store, 1)
    end(store, job, driver.run(job))
    # As if older data of the server had come back.
    store.client.hset(store.prefix + f"job:{sweep}", "trials", json.dumps({"total": 2, "metric": "loss"}))
    store.sweep(every_seconds=0.0)
    tally = store.get(sweep).trials
    assert tally and tally.done == 1


def test_submitting_the_same_sweep_twice_makes_it_once(store: Store, submit: Any) -> None:
    first, second = json.loads(submit(SEEDS, "--json").stdout), json.loads(submit(SEEDS, "--json").stdout)
    assert first["id"] == second["id"] and not second["new"] and len(queue(store)) == 4


def test_trials_are_made_once_however_often_they_are_sent(store: Store, submit: Any) -> None:
    sweep = id_of(submit(SEEDS, "--json"))
    raw = [store.raw(trial(store, number)) for number in (1, 2)]
    assert store.submit_trials(sweep, raw, text="again") == 0 and len(queue(store)) == 4


def test_prune_keeps_a_sweep_as_long_as_its_trials(store: Store, driver: JobDriver, submit: Any) -> None:
    sweep = id_of(submit({"train.seed": [1]}, "--json"))
    job = trial(store, 1)
    end(store, job, driver.run(job))
    everything = Retention(days=None, jobs=0)
    # Both ended within a millisecond: the sweep may come first, and then goes with the next look.
    assert {*store.prune(everything), *store.prune(everything)} == {job, sweep}
    assert store.client.exists(store.prefix + f"sweep:{sweep}") == 0


def test_dry_run_shows_the_first_trial_and_queues_nothing(store: Store, submit: Any) -> None:
    said = submit(SEEDS, "--dry-run")
    assert "It is a sweep of 4 trials" in said.stderr and "--seed=1" in said.stdout
    assert store.page().jobs == ()


def test_get_gives_the_sweep_back(store: Store, submit: Any, call: Command, tmp_path: Path) -> None:
    sweep = id_of(submit({**SEEDS, "max_parallel": 2}, "--json"))
    (tmp_path / "again.yaml").write_text(call("get", sweep).stdout)
    again = id_of(call("submit", "again.yaml", "--name", "again", "--json"))
    assert store.get(again).spec["sweep"] == store.get(sweep).spec["sweep"]

"""The search of a sweep by Optuna: what it proposes is queued once, also over a restart in any moment."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from pi0q.jobs import sweep_trials, transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.signing.keys import TrustedKeys
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import ENDED, State
from pi0q.ops.search.searcher import NUMBER, Searcher
from pi0q.queue import keys, sweeps
from pi0q.queue.store import Store
from pi0q.workers.runs.job_trust import JobTrust
from tests.conftest import Command, JobDriver
from tests.rig import signed

TRAIN = {"dataset.repo_id": "local/d", "dataset.root": "d", "policy.type": "act", "policy.push_to_hub": False}
SPACE = {"train.policy.optimizer_lr": {"from": 1e-5, "to": 1e-3, "log": True}, "train.batch_size": [8, 16, 32]}


@pytest.fixture
def searched(call: Command, tmp_path: Path, store: Store) -> str:
    sweep = {"kind": "tpe", "trials": 6, "max_parallel": 2, "space": SPACE}
    (tmp_path / "best_lr.yaml").write_text(json.dumps({"name": "best_lr", "sweep": sweep, "train": TRAIN}))
    said = call("submit", "best_lr.yaml")
    assert "a search of 6 trials for the least loss, at most 2 at a time" in said.stdout
    assert "pi0q[search]" in said.stdout, "no process proposes yet"
    return store.resolve("best_lr")


def restarted(store: Store, home: Path) -> Searcher:
    """A searcher that was started after the last one had ended."""
    store.client.delete(f"{store.prefix}searching")
    return Searcher(store, home)


def end(store: Store, driver: JobDriver, job: str, loss: float | None) -> None:
    epoch = driver.run(job)
    reason = Reason.FINISHED if loss is not None else Reason.SPEC_REFUSED
    if loss is not None:
        driver.report(job, epoch, loss=loss)
    assert store.move(job, transition.ended(store.get(job), epoch, reason, "so it ended"))


def numbers(store: Store, sweep: str) -> list[int | None]:
    return [job.sweep_number for job in sweeps.all_trials(store, sweep)]


def test_search_goes_to_its_end_by_what_the_trials_told(
    store: Store, driver: JobDriver, searched: str, tmp_path: Path
) -> None:
    searcher, parent = Searcher(store, tmp_path), Spec.from_json(store.get(searched).spec)
    assert searcher.look() == 2 and searcher.look() == 0
    while living := sweeps.living(store, searched):
        job = living[0]
        assert sweep_trials.inside(parent, Spec.from_json(store.get(job.id).spec))
        end(store, driver, job.id, loss=abs(job.sweep_values["train.policy.optimizer_lr"] - 1e-4))
        searcher.look()
    over = store.get(searched)
    assert over.state is State.SUCCEEDED and over.trials and over.trials.succeeded == 6
    assert numbers(store, searched) == [1, 2, 3, 4, 5, 6]
    trials = study(tmp_path, searched).trials
    told = {trial.user_attrs[NUMBER]: trial.value for trial in trials if trial.value is not None}
    assert len(told) >= 5 and len({trial.params["train.policy.optimizer_lr"] for trial in trials}) == 6


def study(home: Path, sweep: str) -> optuna.Study:
    backend = JournalFileBackend(str(home / "search" / f"{sweep}.journal"))
    return optuna.load_study(study_name=sweep, storage=optuna.storages.JournalStorage(backend))


def test_restart_proposes_nothing_that_is_there_already(
    store: Store, driver: JobDriver, searched: str, tmp_path: Path
) -> None:
    assert Searcher(store, tmp_path).look() == 2
    assert restarted(store, tmp_path).look() == 0 and numbers(store, searched) == [1, 2]
    end(store, driver, sweeps.living(store, searched)[0].id, loss=0.5)
    assert restarted(store, tmp_path).look() == 1 and numbers(store, searched) == [1, 2, 3]


def test_proposal_whose_job_was_not_made_is_made_once(
    store: Store, searched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed between the journal and the queue."""

    def killed(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "submit_trials", killed)
        with pytest.raises(KeyboardInterrupt):
            Searcher(store, tmp_path).look()
    (proposed,) = study(tmp_path, searched).trials
    restarted(store, tmp_path).look()
    first = sweeps.all_trials(store, searched)[0]
    rate = "train.policy.optimizer_lr"
    assert first.sweep_number == 1 and first.sweep_values[rate] == proposed.params[rate]
    restarted(store, tmp_path).look()
    assert numbers(store, searched) == [1, 2]


def test_journal_that_is_gone_is_made_again_of_the_jobs(
    store: Store, driver: JobDriver, searched: str, tmp_path: Path
) -> None:
    Searcher(store, tmp_path).look()
    end(store, driver, sweeps.living(store, searched)[0].id, loss=0.5)
    shutil.rmtree(tmp_path / "search")
    assert restarted(store, tmp_path).look() == 1 and numbers(store, searched) == [1, 2, 3]
    assert sorted(trial.user_attrs[NUMBER] for trial in study(tmp_path, searched).trials) == [1, 2, 3]
    assert [trial.value for trial in study(tmp_path, searched).trials if trial.value is not None] == [0.5]


def test_trial_that_failed_teaches_nothing_and_counts(
    store: Store, driver: JobDriver, searched: str, tmp_path: Path
) -> None:
    searcher = Searcher(store, tmp_path)
    searcher.look()
    end(store, driver, sweeps.living(store, searched)[0].id, loss=None)
    end(store, driver, sweeps.living(store, searched)[0].id, loss=float("nan"))
    searcher.look()
    assert [trial.state.name for trial in study(tmp_path, searched).trials[:2]] == ["FAIL", "FAIL"]
    assert numbers(store, searched) == [1, 2, 3, 4]


def test_second_searcher_waits(store: Store, searched: str, tmp_path: Path) -> None:
    first, second = Searcher(store, tmp_path), Searcher(store, tmp_path / "other")
    assert first.look() == 2 and second.look() == 0 and first.look() == 0
    assert not (tmp_path / "other" / "search").exists()


def test_held_or_cancelled_search_proposes_nothing(store: Store, searched: str, tmp_path: Path, call: Command) -> None:
    searcher = Searcher(store, tmp_path)
    call("hold", searched)
    assert searcher.look() == 0
    call("release", searched)
    assert searcher.look() == 2
    call("cancel", searched)
    assert searcher.look() == 0 and store.get(searched).state in ENDED


def test_a_signed_search_needs_no_key_of_the_machine_that_proposes(
    call: Command, store: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = tmp_path / "config"
    ada = signed.new_user(config)
    searched = request.getfixturevalue("searched")
    assert Searcher(store, tmp_path).look() == 2
    trust = JobTrust(tmp_path / "box", store.prefix, trusted_keys=tmp_path / "trusted_keys")
    keys.write_trusted(trust.path, TrustedKeys(keys=(ada,)))
    for job in sweeps.living(store, searched):
        record = store.get(job.id)
        assert record.signature is None and trust.refusal(record) is None
        spec: dict[str, Any] = {**record.spec, "train": {**record.spec["train"], "steps": 7}}
        refused = trust.refusal(replace(record, spec=spec))
        assert refused is not None and refused.why == "outside_sweep"

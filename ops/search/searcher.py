"""Propose trials of sweeps that search (`kind: tpe`), by Optuna, and tell it how they ended.

Runs on the queue's machine (`pi0q up` starts it where Optuna is installed). What was proposed lies in a journal below
PI0Q_HOME; the job of a proposal has an id of its own that follows from sweep and number, so that one which was
interrupted in between is made once. A journal that is gone is made again of the jobs.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import optuna
import redis
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pi0q.jobs import start_point, sweep_trials
from pi0q.jobs.errors import Pi0qError, SpecError
from pi0q.jobs.record import Record
from pi0q.jobs.schema.value_types import Value
from pi0q.jobs.signing import sweep_warrant
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import ENDED, State
from pi0q.jobs.sweep import TPE, Range, Sweep
from pi0q.queue import dependencies, sweeps
from pi0q.queue.store import Store, await_news
from pi0q.queue.submission import Known

logger = logging.getLogger(__name__)

#: Seconds between two looks at the most, and from a change to the look.
SLOWEST, SETTLE = 15.0, 0.5
#: Seconds that the right to propose lasts without renewal: of two searchers one waits.
RIGHT_SECONDS = 60
#: Proposals whose values do not go together, in a row, before a look gives up.
MOST_INVALID = 20
#: The attribute of Optuna's trial that holds the number of ours.
NUMBER = "number"


class Searcher:
    """Looks at the sweeps that search and proposes trials."""

    def __init__(self, store: Store, home: Path) -> None:
        self.store, self.folder = store, home / "search"
        self.me = f"{socket.gethostname()}-{secrets.token_hex(4)}"

    def run(self, stopping: threading.Event) -> None:
        """Propose until `stopping`; a server that is away is asked again."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        while not stopping.is_set():
            try:
                changes = self.store.subscribe("changes")
                while not stopping.wait(SETTLE):
                    self.look()
                    await_news(changes, None, SLOWEST, stopping)
            except redis.RedisError as error:
                logger.warning("the queue can't be reached: %s", error)
                stopping.wait(SLOWEST)

    def look(self) -> int:
        """Tell Optuna of what has ended and queue what it proposes next; return how many trials that were."""
        if not self._may_propose():
            return 0
        queued = 0
        for sweep_id in map(str, self.store.client.zrange(f"{self.store.prefix}sweeps", 0, -1)):
            try:
                queued += self._search(sweep_id)
            except Pi0qError as error:
                logger.warning("%s: %s", sweep_id, error)
        return queued

    def _may_propose(self) -> bool:
        key = f"{self.store.prefix}searching"
        if self.store.client.set(key, self.me, nx=True, ex=RIGHT_SECONDS):
            return True
        if self.store.client.get(key) != self.me:
            return False
        self.store.client.expire(key, RIGHT_SECONDS)
        return True

    def _search(self, sweep_id: str) -> int:
        record = self.store.get(sweep_id)
        spec = Spec.from_json(record.spec)
        if spec.sweep is None or spec.sweep.kind != TPE or record.state in ENDED or record.held:
            return 0
        jobs = {job.sweep_number or 0: job for job in sweeps.all_trials(self.store, sweep_id)}
        study = self._study(sweep_id, spec.sweep, jobs)
        search = Search(self.store, record, spec, study)
        search.tell(jobs)
        return search.ask(jobs)

    def _study(self, sweep_id: str, sweep: Sweep, jobs: Mapping[int, Record]) -> optuna.Study:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        backend = JournalFileBackend(str(self.folder / f"{sweep_id}.journal"))
        storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(storage=storage, study_name=sweep_id, direction="minimize", load_if_exists=True)
        known = {trial.user_attrs.get(NUMBER) for trial in study.get_trials(deepcopy=False)}
        for number, job in sorted(jobs.items()):
            if number not in known:
                study.add_trial(_as_proposed(job, sweep))
        return study


class Search:
    """One sweep at one moment."""

    def __init__(self, store: Store, record: Record, spec: Spec, study: optuna.Study) -> None:
        assert spec.sweep is not None
        self.store, self.record, self.spec, self.sweep, self.study = store, record, spec, spec.sweep, study
        self.warrant = sweep_warrant.of_sweep(record)

    def tell(self, jobs: Mapping[int, Record]) -> None:
        """Tell how trials ended; queue those whose jobs were not made before an interruption."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            number = trial.user_attrs.get(NUMBER)
            job = jobs.get(number) if isinstance(number, int) else None
            if job is None:
                if isinstance(number, int) and trial.params.keys() == self.sweep.space.keys():
                    self._queue(number, _values(trial.params, self.sweep))
                else:
                    self.study.tell(trial.number, state=TrialState.FAIL)
            elif job.state in ENDED:
                value = _value(job, self.sweep.metric)
                state = TrialState.FAIL if value is None else TrialState.COMPLETE
                self.study.tell(trial.number, None if value is None else [value], state=state)

    def ask(self, jobs: Mapping[int, Record]) -> int:
        """Queue further trials, as many as may be open at a time; return how many."""
        living = sum(job.state not in ENDED for job in jobs.values())
        most = self.sweep.parallel or 1
        wanted, queued, invalid = min(most - living, self.sweep.total - len(jobs)), 0, 0
        number = max(jobs, default=0)
        while queued < wanted and invalid < MOST_INVALID:
            number += 1
            # Of its own for each number: after a restart the same dice would fall the same way.
            self.study.sampler = optuna.samplers.TPESampler(seed=self.sweep.seed * 10_000 + number, constant_liar=True)
            trial = self.study.ask()
            trial.set_user_attr(NUMBER, number)
            for key, space in distributions(self.sweep).items():
                trial._suggest(key, space)
            good = self._queue(number, _values(trial.params, self.sweep))
            if not good:
                self.study.tell(trial, state=TrialState.FAIL)
            queued, invalid = queued + good, 0 if good else invalid + 1
        if invalid:
            logger.warning("%s: %d proposals in a row have values that do not go together", self.record.name, invalid)
        return queued

    def _queue(self, number: int, values: Mapping[str, Value]) -> bool:
        """Queue the job of a proposal; return False where its values do not go together."""
        try:
            spec = sweep_trials.with_values(self.spec, number, values)
        except SpecError as error:
            logger.info("%s: trial %d is left out: %s", self.record.name, number, error)
            return False
        known = Known(start=self.record.starts_from, base=self.record.base)
        place = sweeps.Place(sweep_id=self.record.id, number=number, values=values)
        fields = sweeps.trial_fields(
            spec,
            sweep_warrant.trial_id(self.record.id, number),
            place,
            submitter=self.record.submitter,
            known=known,
            peaks=self.store,
        )
        reference = start_point.reference_of(spec.train)
        pending = reference is not None and reference.step is None
        waits = dependencies.fields(spec, now_ms=self.record.created_ms, pending=pending)
        # Its submitter signed the sweep and has no part in this.
        signed = {} if self.warrant is None else {"warrant": self.warrant}
        self.store.submit_trials(self.record.id, [{**fields, **waits, **signed}], text="proposed by the search")
        return True


def distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """Return a sweep's space as Optuna has it; of a list the place of a value."""
    return {key: _distribution(space) for key, space in sweep.space.items()}


def _distribution(space: tuple[Value, ...] | Range) -> BaseDistribution:
    if not isinstance(space, Range):
        return CategoricalDistribution(range(len(space)))
    if space.whole:
        return IntDistribution(int(space.low), int(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)


def _values(params: Mapping[str, Any], sweep: Sweep) -> dict[str, Value]:
    """Return the values of a proposal, by dotted key."""
    return {key: params[key] if isinstance(space, Range) else space[params[key]] for key, space in sweep.space.items()}


def _as_proposed(job: Record, sweep: Sweep) -> FrozenTrial:
    """Return what Optuna would know of a job whose proposal it has lost."""
    params = {
        key: job.sweep_values.get(key) if isinstance(space, Range) else list(space).index(job.sweep_values.get(key))
        for key, space in sweep.space.items()
    }
    value = _value(job, sweep.metric) if job.state in ENDED else None
    over = TrialState.COMPLETE if value is not None else TrialState.FAIL
    state = over if job.state in ENDED else TrialState.RUNNING
    return optuna.create_trial(
        state=state,
        value=value,
        params=params,
        distributions=distributions(sweep),
        user_attrs={NUMBER: job.sweep_number},
    )


def _value(job: Record, metric: str) -> float | None:
    """Return the metric of a job that succeeded; None for any other, and where it is no number."""
    value = getattr(job, metric, None) if job.state is State.SUCCEEDED else None
    return float(value) if isinstance(value, (int, float)) and isfinite(value) else None

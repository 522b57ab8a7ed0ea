"""What a box judges of a waiting job's spec, and when it judges it anew."""

from __future__ import annotations

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.claims.admission import Admission
from pi0q.workers.host.identity import Identity
from tests.conftest import JobDriver

SPEC = Spec(name="x", train={"dataset.repo_id": "you/box", "policy.type": "act", "policy.push_to_hub": False}).to_json()


@pytest.fixture
def admission(chosen: Settings, store: Store) -> Admission:
    return Admission(chosen, store, Identity(box_id="1", name="box-a", boot="1"))


def test_spec_that_changed_after_it_was_judged_ends_its_job(
    admission: Admission, driver: JobDriver, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    job = driver.submit(spec=SPEC)
    assert isinstance(admission.spec(store.waiting()[0]), Spec)
    store.client.hset(store.prefix + f"job:{job}", "spec", '{"train": {"policy.discover_packages_path": "os"}}')
    assert admission.spec(store.waiting()[0]) == "its spec was changed after this box had judged it"
    ended = store.get(job)
    assert (ended.state, ended.reason) == (State.FAILED, Reason.SPEC_REFUSED)
    assert ended.history[-1].text == "box-a: its spec was changed after this box had judged it"
    assert job in caplog.text
    assert store.waiting() == []


def test_spec_is_judged_once_while_it_stays_the_same(admission: Admission, driver: JobDriver, store: Store) -> None:
    driver.submit(spec=SPEC)
    assert admission.spec(store.waiting()[0]) is admission.spec(store.waiting()[0])


def test_spec_of_an_owned_job_is_the_one_that_was_judged(admission: Admission, driver: JobDriver, store: Store) -> None:
    job = driver.submit(spec=SPEC)
    judged = admission.spec(store.waiting()[0])
    driver.run(job)
    assert admission.spec(store.owned("box-a")[0]) is judged
    assert store.get(job).state is State.RUNNING


def test_invalid_spec_is_refused_with_the_reason(admission: Admission, driver: JobDriver, store: Store) -> None:
    driver.submit(spec={"train": {"policy.discover_packages_path": "os"}})
    assert str(admission.spec(store.waiting()[0])).startswith("its spec is not valid")

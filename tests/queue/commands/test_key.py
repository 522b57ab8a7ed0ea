"""`pi0q key`, and what `submit`, `retry` and `key sign` put into the queue."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.signing.job_signature import forgery
from pi0q.jobs.signing.keys import TrustedKeys, parse_line
from pi0q.queue import keys
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver

FILE = """\
name: grab_box
train:
  dataset: {repo_id: local/grab_box, root: /data/grab_box}
  policy: {type: act, push_to_hub: false}
  optimizer_lr: 1.0e-05
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(FILE.replace("  optimizer_lr: 1.0e-05\n", "  steps: 50\n"))
    return str(path)


@pytest.fixture
def line(call: Command) -> str:
    assert call("key", "new").returncode == 0
    return call("key", "show").stdout.strip()


def genuine(record: Record, line: str, store: Store) -> bool:
    return forgery(record, keys.verifier(TrustedKeys(keys=(parse_line(line),)), store.prefix)) is None


def submitted(call: Command, store: Store, file: str) -> Record:
    return store.get(json.loads(call("submit", file, "--again", "--json").stdout)["id"])


def test_a_submit_signs_as_soon_as_there_is_a_key(call: Command, store: Store, file: str) -> None:
    assert submitted(call, store, file).signature is None
    call("key", "new")
    line = call("key", "show").stdout.strip()
    assert genuine(submitted(call, store, file), line, store)


def test_each_trial_of_a_sweep_is_signed(call: Command, store: Store, line: str, file: str) -> None:
    text = Path(file).read_text()
    Path(file).write_text(f"sweep: {{train.policy.optimizer_lr: [1e-4, 3e-5]}}\n{text}")
    submitted(call, store, file)
    assert all(genuine(store.get(store.resolve(f"grab_box/000{number}")), line, store) for number in (1, 2))


def test_a_submit_with_an_unusable_key_queues_nothing(
    call: Command, store: Store, line: str, file: str, env: dict[str, str]
) -> None:
    keys.signing_key_path(env).chmod(0o644)
    said = call("submit", file)
    assert said.returncode == 2 and "Fix: chmod 600" in said.stderr
    assert not list(store.page().jobs)


def test_a_retry_is_signed_with_the_jobs_before_it(
    call: Command, store: Store, driver: JobDriver, line: str, file: str
) -> None:
    first = submitted(call, store, file)
    second = store.get(fail_and_retry(call, store, driver, first.id))
    third = store.get(fail_and_retry(call, store, driver, second.id))
    assert genuine(third, line, store) and third.signature
    assert third.signature.lineage == (first.id, second.id)


def fail_and_retry(call: Command, store: Store, driver: JobDriver, job: str) -> str:
    fail(store, driver, job)
    said = call("retry", job, "--json")
    assert said.returncode == 0, said.stderr
    return str(json.loads(said.stdout)["id"])


def fail(store: Store, driver: JobDriver, job: str) -> None:
    epoch = driver.run(job)
    store.move(job, transition.ended(store.get(job), epoch, Reason.CUDA_OUT_OF_MEMORY, "CUDA out of memory"))


def test_a_retry_signs_no_file_that_was_changed_in_the_queue(
    call: Command, store: Store, driver: JobDriver, line: str, file: str
) -> None:
    job = submitted(call, store, file)
    fail(store, driver, job.id)
    changed = {**job.spec, "train": {**job.spec["train"], "steps": 51}}
    store.client.hset(f"{store.prefix}job:{job.id}", "spec", json.dumps(changed))
    said = call("retry", job.id)
    assert said.returncode == 2 and f"Fix: pi0q get {job.id} > job.yaml" in said.stderr
    assert store.get(job.id).continued == ""
    assert call("retry", job.id, "--file", file).returncode == 0


def test_waiting_jobs_are_signed_once_their_owner_has_looked(
    call: Command, store: Store, driver: JobDriver, file: str
) -> None:
    one, two = submitted(call, store, file), submitted(call, store, file)
    assert "You have no key" in call("key", "sign", "--all").stderr
    call("key", "new")
    line = call("key", "show").stdout.strip()
    asked = call("key", "sign", one.id, stdin="n\n")
    assert asked.returncode == 1 and "repo_id: local/grab_box" in asked.stdout
    assert store.get(one.id).signature is None
    assert call("key", "sign", one.id, stdin="y\n").returncode == 0
    assert genuine(store.get(one.id), line, store) and store.get(two.id).signature is None
    said = call("key", "sign", "--all", "--yes")
    assert said.returncode == 0 and one.id not in said.stdout and two.id in said.stdout
    assert call("key", "sign", "--all", "--yes").stdout == "There is no job to sign.\n"


def test_a_job_that_changes_while_it_is_looked_at_is_not_signed(call: Command, store: Store, file: str) -> None:
    job = submitted(call, store, file)
    call("key", "new")
    signature = job.signature
    assert signature is None
    record, raw = store.get_with_raw(job.id)
    store.client.hset(f"{store.prefix}job:{job.id}", "spec", json.dumps({**record.spec, "name": "x"}))
    call("key", "new")
    from pi0q.jobs.signing.job_signature import JobSignature

    made = JobSignature(key="ab" * 8, job=job.id, prefix="x", issued_ms=1, expires_ms=2, value="A" * 86 + "==")
    assert store.sign(job.id, raw, made, text="signed") == "changed"
    assert store.get(job.id).signature is None


def test_trusting_and_forgetting(call: Command, line: str, env: dict[str, str]) -> None:
    assert "trusts no keys" in call("key", "list").stdout
    first = call("key", "trust", line)
    assert "From now on, as a box, it runs signed jobs only" in first.stdout
    assert "(it did already)" in call("key", "trust", "-", stdin=f"{line}\n").stdout
    key_id = parse_line(line).id
    assert key_id in call("key", "list").stdout
    assert call("key", "forget", "nobody").returncode == 3
    assert call("key", "forget", key_id).returncode == 0
    told = json.loads(call("key", "list", "--json").stdout)
    assert told["signatures_demanded"] and told["keys"] == []


@pytest.mark.parametrize("words", [(), ("nonsense",), ("-",)], ids=["none", "nonsense", "empty input"])
def test_what_is_no_key_changes_nothing(call: Command, words: tuple[str, ...], env: dict[str, str]) -> None:
    assert call("key", "trust", *words).returncode == 2
    assert not keys.trusted_keys_path(env).exists()


def test_there_is_one_key_and_it_is_not_replaced(call: Command, line: str) -> None:
    again = call("key", "new")
    assert again.returncode == 2 and "Fix: pi0q key show" in again.stderr
    assert call("key", "show").stdout.strip() == line
    assert call("key", "show", "--box").returncode == 3

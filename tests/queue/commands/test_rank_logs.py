"""`pi0q logs --rank`: the logs of a job's other trainers."""

from __future__ import annotations

import json

import pytest

from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver


@pytest.fixture
def job(store: Store, driver: JobDriver) -> str:
    made = driver.submit()
    epoch = driver.run(made)
    driver.report(made, epoch, log="of rank 0\n")
    store.put_rank_logs(made, epoch, box="box-a", tails={1: "first\nlast\n", 2: "of rank 2\n"})
    store.put_rank_logs(made, epoch + 1, box="box-a", tails={1: "of another claim\n"})
    store.put_rank_logs(made, epoch, box="box-b", tails={1: "of another box\n"})
    return made


def test_each_rank_has_its_own_and_all_are_told_apart(call: Command, job: str) -> None:
    assert call("logs", job, "--rank", "1").stdout == "first\nlast\n"
    assert call("logs", job, "--rank", "1", "-n", "1").stdout == "last\n"
    assert call("logs", job, "--rank", "all").stdout.splitlines()[-5:] == [
        "== rank 1", "first", "last", "== rank 2", "of rank 2",
    ]  # fmt: skip
    told = json.loads(call("logs", job, "--rank", "2", "--json").stdout)
    assert told == {"id": job, "ranks": {"2": "of rank 2\n"}}


def test_rank_0_is_the_jobs_own_log(call: Command, job: str) -> None:
    assert call("logs", job, "--rank", "0").stdout == call("logs", job).stdout


def test_a_rank_that_is_none_is_refused_with_what_there_is(call: Command, job: str) -> None:
    said = call("logs", job, "--rank", "5")
    assert said.returncode == 3 and "the queue knows ranks 0 to 2" in said.stderr
    assert call("logs", job, "--rank", "x").returncode == 2
    assert call("logs", job, "--rank", "1", "-f").returncode == 2


def test_what_is_no_log_is_left_out(call: Command, store: Store, job: str) -> None:
    store.client.set(f"{store.prefix}tail:{job}:ranks", '{"1": 5, "x": "y", "2": "good\\u001b[2J\\n"}')
    assert store.rank_tails(job) == {2: "good\x1b[2J\n"}
    assert "\x1b" not in call("logs", job, "--rank", "2").stdout
    store.client.set(f"{store.prefix}tail:{job}:ranks", "[")
    assert store.rank_tails(job) == {}

"""How runs end, what follows, and what of a trainer's words may be seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.record import Record
from tests.rig.cluster import gone, wait

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster

#: As in witness/sitecustomize.py.
HF_TOKEN, WANDB_KEY = "hf_" + "CaNaRy" * 6, "c0ffee" * 7


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster) -> Box:
    return shared_cluster.box(slots=4, FAKE_STEP_SECONDS="0.01", HF_TOKEN=HF_TOKEN, WANDB_API_KEY=WANDB_KEY)


def failed(cluster: Cluster, box: Box, name: str) -> Record:
    record = cluster.ends(cluster.submit(name))
    assert str(record.state) == "failed"
    assert box.processes(record.id) == [] and cluster.store.owned(box.name) == []
    box.trainers_came_one_by_one(record.id)
    return record


def test_an_end_without_a_reason_is_tried_three_times(shared_cluster: Cluster, box: Box) -> None:
    record = failed(shared_cluster, box, "exit3@12")
    assert (str(record.reason), record.attempt, record.epoch) == ("trainer_failed", 3, 3)
    assert record.detail.startswith("the trainer ended with exit code 3 and said last: ")
    assert "(attempt 3 of 3)" in record.detail and "pi0q logs" in record.fix
    # Each try goes on from the last checkpoint.
    assert [event["step"] for event in box.events(record.id, "ready")] == [0, 10, 10]


def test_an_exception_is_told_in_its_own_words(shared_cluster: Cluster, box: Box) -> None:
    record = failed(shared_cluster, box, "error@2")
    # At the same step twice it is no chance.
    again = "the same as the time before, so it is not tried again"
    assert record.detail == f"RuntimeError: a fault on demand (after step 1) ({again})"
    assert (str(record.reason), record.attempt) == ("trainer_failed", 2)
    shown = shared_cluster.pi0q("show", record.id).stdout
    assert "RuntimeError: a fault on demand" in shown and "(trainer_failed)" in shown and record.fix in shown


@pytest.mark.parametrize(("name", "reason"), [("oom@3", "cuda_out_of_memory"), ("nan@3", "non_finite_loss")])
def test_what_would_happen_again_is_not_tried_again(shared_cluster: Cluster, box: Box, name: str, reason: str) -> None:
    record = failed(shared_cluster, box, name)
    assert (str(record.reason), record.attempt, record.epoch) == (reason, 1, 1)
    assert len(box.lives(record.id)) == 1


def test_a_flood_of_output_stays_small_in_the_queue(shared_cluster: Cluster, box: Box) -> None:
    record = shared_cluster.ends(shared_cluster.submit("flood@3"))
    assert str(record.state) == "succeeded"
    assert shared_cluster.store.client.strlen(f"{shared_cluster.prefix}tail:{record.id}") <= 32 * 1024
    text, _ = shared_cluster.store.tail(record.id)
    assert "lines are only in the log on the box" in text
    assert box.trainer_log(record.id).count("flood " * 40) == 20_000


def redis_says(cluster: Cluster) -> str:
    """Every key and value of the queue."""
    client, said = cluster.store.client, []
    read: dict[str, Any] = {
        "string": client.get,
        "hash": client.hgetall,
        "list": lambda key: client.lrange(key, 0, -1),
        "set": client.smembers,
        "zset": lambda key: client.zrange(key, 0, -1),
    }
    for key in client.scan_iter(f"{cluster.prefix}*"):
        said.append(f"{key} {read[str(client.type(key))](key)}")
    return "\n".join(said)


@pytest.mark.parametrize("name", ["tell", "confess"])
def test_no_secret_gets_out(shared_cluster: Cluster, box: Box, name: str) -> None:
    record = shared_cluster.ends(shared_cluster.submit(name))
    wait(lambda: gone(box.runner(record.id)), "the end of its runner, which writes its last")
    seen = {path.name: path.read_text(errors="replace") for path in box.run_dir(record.id).iterdir() if path.is_file()}
    assert set(seen) == {"trainer.log", "events.jsonl", "runner.json", "runner.log", "ledger.json", "lease"}
    seen["redis"] = redis_says(shared_cluster)
    for command in (["show", record.id], ["show", record.id, "--json"], ["logs", record.id], ["ls", "--json"]):
        seen[" ".join(command)] = shared_cluster.pi0q(*command).stdout
    seen["worker"] = box.log
    assert [place for place, text in seen.items() if "CaNaRy" in text or "c0ffee" in text] == []
    # They were said, and stars stand in their place.
    assert "***" in seen["trainer.log"]
    if name == "confess":
        assert "***" in seen["redis"]
        assert record.detail.startswith("RuntimeError: 401 at https://***hub.example with *** and ***")
    assert json.loads(seen[f"show {record.id} --json"])["id"] == record.id
    assert Path(record.run_dir or "") == box.run_dir(record.id)

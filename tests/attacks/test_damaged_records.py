"""02b, 02d, 02k: records and messages written past `submit` by someone who knows the server's password."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.state import State
from pi0q.ops.server.roles import Role
from pi0q.queue import celery_message
from pi0q.queue.store import Store
from tests.rig.cluster import PATIENCE
from tests.rig.damages import DAMAGES, NEEDS, inject

if TYPE_CHECKING:
    from tests.attacks.conftest import Box, Cluster

#: What is no message of pi0q, in the shared queue and in a box's own.
NO_MESSAGES = ("garbage", "1", "null", "{}", '{"headers": {"id": []}}', "[" * 100_000, '{"headers": {"id": "x"}}', "")


class Stream(threading.Thread):
    """Injects damaged records and messages of every kind until it is stopped."""

    def __init__(self, store: Store, spec: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.store, self.spec, self.jobs = store, spec, list[str]()
        self.stopping, self.all_sent = threading.Event(), threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            for field, text in DAMAGES.values():
                self.jobs.append(inject(self.store, self.spec, **{field: text}))
                if self.stopping.wait(0.02):
                    return
            for text in NO_MESSAGES:
                self.store.client.lpush(f"{self.store.prefix}jobs", text)
                self.store.client.lpush(f"{self.store.prefix}box.box-a", text)
            self.all_sent.set()
            self.stopping.wait(0.5)


def test_a_stream_of_damaged_records_stops_nobody(cluster: Cluster) -> None:
    box = cluster.box()
    cluster.slow_down(5)
    healthy = cluster.submit("healthy", steps=40)
    box.steps(healthy, 5)
    stream = Stream(cluster._connect(), dict(cluster.store.get(healthy).spec))
    stream.start()
    assert stream.all_sent.wait(PATIENCE)
    later = cluster.submit("later", steps=5)
    for words in (["ls"], ["ls", "--json"], ["ls", "--all"], ["show", healthy], ["why", later], ["boxes"]):
        done = cluster.pi0q(*words)
        assert (done.returncode, done.stderr) == (0, ""), words
    shown = {job["id"]: job["state"] for job in json.loads(cluster.pi0q("ls", "--all", "--json").stdout)}
    assert shown[healthy] == "running" and shown[stream.jobs[0]] == "broken"
    told = cluster.pi0q("show", stream.jobs[0])
    assert told.returncode == 1 and "Fix: `pi0q cancel" in told.stderr and "Traceback" not in told.stderr
    doctor = json.loads(cluster.pi0q("doctor", "--laptop", "--json").stdout)
    (found,) = [one for one in doctor["checks"] if one["name"] == "records"]
    assert found["status"] == "warning" and "can't be read" in found["detail"]
    cluster.speed_up()
    assert cluster.ends(healthy).state is State.SUCCEEDED
    stream.stopping.set()
    stream.join()
    named = [box.log.count(f"passed over job {job}: its record is damaged") for job in stream.jobs]
    assert max(named) <= 1, "one line for each, however often one is seen"
    assert "dropped a message" in box.log and box.worker.poll() is None
    assert not [job for job in stream.jobs if box.lives(job)]


def test_an_id_that_leads_out_of_the_runs_directory(cluster: Cluster) -> None:
    box = cluster.box()
    outside = cluster.place / "outside" / "precious"
    (outside / "output").mkdir(parents=True)
    (outside / "output" / "thesis.txt").write_text("precious")
    job = "../../outside/precious"
    assert (box.home / "runs" / job).resolve() == outside.resolve()
    first = cluster.submit(steps=5)
    spec = dict(cluster.store.get(first).spec)
    inject(cluster.store, spec, job)
    message = celery_message.build(job, name="x", needs=NEEDS, priority="urgent", origin="alice@laptop")
    cluster.store.client.lpush(f"{cluster.prefix}box.box-a", message)
    healthy = cluster.submit(steps=5)
    assert cluster.ends(healthy).state is State.SUCCEEDED
    assert sorted(path.name for path in outside.rglob("*")) == ["output", "thesis.txt"]
    box.says("dropped a message of box.box-a: its id is no job's")
    assert job in cluster.pi0q("ls").stdout
    assert cluster.pi0q("cancel", job, role=Role.ADMIN).returncode == 0
    assert job not in cluster.pi0q("ls").stdout


@pytest.mark.parametrize("field", ["wandb_run_id", "gpus", "pins", "continues"])
def test_a_field_that_would_reach_a_command_line_or_a_path(cluster: Cluster, field: str, tmp_path: Path) -> None:
    secret = tmp_path / "netrc"
    secret.write_text("machine api.wandb.ai login user password 0123456789abcdef0123456789abcdef01234567\n")
    texts = {
        "wandb_run_id": f"includeX{secret}",
        "gpus": '["0,1"]',
        "pins": '{"you/box": "../../x"}',
        "continues": "../../x",
    }
    box: Box = cluster.box()
    first = cluster.submit(steps=5)
    job = inject(cluster.store, dict(cluster.store.get(first).spec), **{field: texts[field]})
    assert cluster.ends(first).state is State.SUCCEEDED
    box.says(f"passed over job {job}: its record is damaged ({field} is not")
    assert box.lives(job) == [] and not box.run_dir(job).exists()

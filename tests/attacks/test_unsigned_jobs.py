"""02a, 02e, 02h: what a stolen box writes into the queue and beside it, where boxes demand signatures."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.jobs.spec import Priority
from pi0q.jobs.state import State
from pi0q.queue import keys
from pi0q.queue.retention import Retention
from tests.rig import signed
from tests.rig.cluster import send, wait
from tests.rig.damages import NEEDS, inject

if TYPE_CHECKING:
    from tests.attacks.conftest import Box, Cluster

#: As much as no box has: the job is judged and waits.
TOO_MUCH = "900TiB"


@pytest.fixture
def ada(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings of a user who signs; every machine of the story trusts her."""
    config = tmp_path / "ada"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    signed.trust(config, signed.new_user(config))
    return config


def raw(cluster: Cluster, job: str) -> dict[str, str]:
    found = cluster.store.client.hgetall(f"{cluster.prefix}job:{job}")
    return {str(name): str(text) for name, text in found.items()}


def refused(cluster: Cluster, job: str, text: str) -> None:
    """Waits until the box refuses the job with these words; nothing of it has run."""
    wait(lambda: text in cluster.refused(job), f"{text} of {job}", lambda: cluster.refused(job))
    record = cluster.store.get(job)
    assert (record.state, record.epoch) == (State.QUEUED, 0)


def rewrite(cluster: Cluster, job: str, **fields: str) -> None:
    """Changes a record as whoever may write to the server can, and has boxes read it again."""
    changes: dict[Any, Any] = {**fields}
    cluster.store.client.hset(f"{cluster.prefix}job:{job}", mapping=changes)
    other = Priority.HIGH if cluster.store.get(job).priority != "high" else Priority.NORMAL
    cluster.store.bump(job, other, text="bumped")


def test_a_stolen_box_brings_no_job_file_of_its_own_to_another_box(cluster: Cluster, ada: Path) -> None:
    box = cluster.box()
    done = cluster.submit("signed", steps=5)
    assert cluster.ends(done).state is State.SUCCEEDED and cluster.store.get(done).receipt
    known = raw(cluster, done)
    spec: dict[str, Any] = json.loads(known["spec"])

    forged = inject(cluster.store, spec)
    refused(cluster, forged, "its job file is not signed")
    told = cluster.pi0q("why", forged).stdout
    assert "signature: its job file is not signed" in told and f"pi0q key sign {forged}" in told

    copied = inject(cluster.store, spec, signature=known["signature"])
    refused(cluster, copied, "its signature (key")

    assert cluster.store.prune(Retention(days=None, jobs=0)) == [done]
    inject(cluster.store, spec, done, signature=known["signature"], receipt=known["receipt"])
    refused(cluster, done, "it has ended before, and its record was put back")

    waiting = cluster.submit("waiting", steps=5, disk=TOO_MUCH)
    assert "disk" in cluster.refused(waiting), "the box has judged it"
    good, bad = raw(cluster, waiting), json.loads(raw(cluster, waiting)["spec"])
    bad["train"]["steps"] = 6
    bad["resources"]["disk"] = "10MiB"
    small = json.dumps({**NEEDS})
    rewrite(cluster, waiting, spec=json.dumps(bad), needs=small)
    refused(cluster, waiting, "was changed after it was signed")
    # What is put right again is judged as before: the box did not end it.
    rewrite(cluster, waiting, spec=good["spec"], needs=good["needs"])
    wait(lambda: cluster.refused(waiting).startswith("disk"), "the old refusal", lambda: cluster.refused(waiting))
    assert [path.name for path in (box.home / "lives").glob("*.jsonl")] == [f"{done}.jsonl"]


def test_a_job_file_swapped_between_claim_and_start_is_not_run(cluster: Cluster, ada: Path) -> None:
    box = cluster.box()
    wait(box.spare_runner, "a runner that waits", lambda: box.log)
    waits = box.spare_runner()
    os.kill(waits, signal.SIGSTOP)
    job = cluster.submit(steps=5)
    cluster.comes_to(job, State.CLAIMED)
    spec = json.loads(raw(cluster, job)["spec"])
    spec["train"]["steps"] = 6
    cluster.store.client.hset(f"{cluster.prefix}job:{job}", "spec", json.dumps(spec))
    os.kill(waits, signal.SIGCONT)
    ended = cluster.ends(job)
    assert (ended.state, ended.reason, box.lives(job)) == (State.FAILED, Reason.NOT_TRUSTED, [])
    assert "was changed after it was signed" in ended.detail
    shown = cluster.pi0q("show", job).stdout
    assert "not_trusted" in shown and "pi0q retry" in shown


def test_a_box_takes_over_the_checkpoints_of_trusted_boxes_alone(cluster: Cluster, ada: Path, tmp_path: Path) -> None:
    """The copies of a box that is gone: one that does not trust that box runs nothing of them, and loses none."""
    share = tmp_path / "share"
    share.mkdir()
    times: dict[str, Any] = {"PI0Q_LEASE_SECONDS": "30", "PI0Q_WAIT_FOR_BOX": "1"}
    first = cluster.box("box-a", **times)
    cluster.slow_down(20)
    job = cluster.submit(steps=30, checkpoints={"every": None, "copy_to": str(share)})
    # A copy that comes late may be of the next checkpoint.
    cluster.until(job, lambda record: record.copied and record.copied.step >= 10)
    first.sealed(job, 20)
    send(signal.SIGSTOP, first.trainer(job))
    cluster.until(job, lambda record: record.copied and record.copied.step == 20)
    made_by = signed.box_key(first.home, "box-a")
    gone(cluster, first, job)
    cluster.speed_up()
    second = cluster.box("box-b", **times)
    stopped = cluster.ends(job)
    assert (stopped.state, stopped.reason) == (State.FAILED, Reason.NOT_TRUSTED)
    assert f"not signed by a box that this one trusts (key {made_by.id})" in stopped.detail
    assert (share / job / "000020").is_dir() and not second.lives(job)

    user = keys.read_trusted(keys.trusted_keys_path({"XDG_CONFIG_HOME": str(ada)}))
    assert user
    signed.trust(ada, *user.keys, made_by)
    assert cluster.pi0q("retry", job).returncode == 0
    after = cluster.store.get(job).continued
    done = cluster.ends(after)
    assert done.state is State.SUCCEEDED, done.detail
    assert second.events(after, "ready")[0]["step"] == 20


def gone(cluster: Cluster, box: Box, job: str) -> None:
    """The box's machine is given back."""
    box.crash()
    cluster.boxes.remove(box)
    cluster.let_lease_run_out(job)

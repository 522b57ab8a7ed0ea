"""A training fails on a real box; its user's report comes into the corpus with the class that the box gave it."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

from pi0q.jobs.state import State
from tests import corpus
from tests.jobs.failures import test_corpus

if TYPE_CHECKING:
    from tests.rig.cluster import Cluster


def test_a_failed_training_is_reported_and_taken_into_the_corpus(cluster: Cluster) -> None:
    cluster.box("gpu-of-ada", FAKE_FAULT="oom@3")
    job = cluster.submit("boxes_of_ada", steps=5)
    record = cluster.ends(job)
    assert record.state is State.FAILED and record.facts["error"]["type"] == "OutOfMemoryError"
    file = cluster.place / "report.tar.gz"
    done = cluster.pi0q("report", job, "--output", str(file), "--yes")
    assert done.returncode == 0, done.stderr
    with tarfile.open(file) as archive:
        held = "".join(archive.extractfile(member).read().decode() for member in archive)  # type: ignore[union-attr]
        (inner,) = (member for member in archive if member.name.endswith(".json"))
        told = json.loads(archive.extractfile(inner).read())  # type: ignore[union-attr]
    assert "ada" not in held and str(cluster.place) not in held
    assert told["facts"]["step"] == 2 and "lerobot_train.py" in "".join(told["facts"]["error"]["frames"])
    entry = corpus.add(file, corpus=cluster.place)
    log = test_corpus.read(entry)
    assert log.head["reason"] == str(record.reason) == "cuda_out_of_memory"
    test_corpus.test_each_has_its_class(log)
    test_corpus.test_what_is_read_is_never_a_bare_exit_code(log)

"""Each row of the table of faults that these stories are to tell has one at least."""

from __future__ import annotations

import re
from pathlib import Path

ROWS = {
    1: "Celery worker kill -9",
    2: "trainer kill -9",
    3: "runner and trainer killed, worker alive",
    4: "container restart: everything on the box dies, no grace",
    5: "box gone for good",
    6: "Redis kill -9 + AOF everysec",
    7: "Redis data loss / old RDB",
    8: "Redis OOM noeviction",
    9: "Redis failover (replica promoted)",
    10: "partition box<->Redis shorter than the fence",
    11: "partition longer than the lease",
    12: "half-open TCP",
    13: "SIGSTOP of the whole box > lease, then SIGCONT",
    14: "clock +-2 h on one box",
    15: "message delivered twice",
    16: "message lost",
    17: "poison job",
    18: "disk full at checkpoint",
    19: "torn checkpoint",
    20: "silent corruption",
    27: "wandb down / key bad",
    28: "wandb run deleted, then resume",
    29: "CUDA OOM at step 1 / step 5000",
    30: "cgroup or platform memory kill",
    31: "GPU taken by another process",
    32: "Xid/ECC, GPU lost",
    33: "NaN loss",
    34: "hung trainer",
    35: "cancel with setsid grandchildren",
    45: "push at the end fails",
    46: "submitter dies mid-submit / double Enter",
    47: "worker upgrade during a run",
}


def test_every_row_has_a_story() -> None:
    told = set[int]()
    for module in Path(__file__).parent.glob("test_*.py"):
        told |= {int(row) for row in re.findall(r"^def test_row_(\d\d)_", module.read_text(encoding="utf-8"), re.M)}
    assert told == set(ROWS)

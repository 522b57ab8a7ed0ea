"""Damaged records, and how whoever knows the server's password gets them into the queue."""

from __future__ import annotations

import json
import secrets
from typing import Any

from pi0q.queue import celery_message
from pi0q.queue.store import Store

NEEDS = {"gpus": 0, "vram_mib": 0, "disk_mib": 1}
#: Damages of one field, as anyone with the server's password can write them.
DAMAGES: dict[str, tuple[str, str]] = {
    "state": ("state", "bogus"),
    "no state": ("state", ""),
    "spec": ("spec", "{"),
    "deep spec": ("spec", "[" * 50_000),
    "nested spec": ("spec", '{"a":' * 500 + "1" + "}" * 500),
    "needs": ("needs", "[]"),
    "needs gpus": ("needs", '{"gpus":"x"}'),
    "negative needs": ("needs", '{"disk_mib":-1}'),
    "created": ("created_ms", "nan"),
    "created huge": ("created_ms", "1e999"),
    "step": ("step", "x"),
    "epoch": ("epoch", "1e400"),
    "checkpoint": ("checkpoint", '{"a":1}'),
    "checkpoint list": ("checkpoint", "[1]"),
    "checkpoint path": ("checkpoint", '{"step":1,"path":"/a/../../b","manifest":"%s","bytes":1}' % ("a" * 64)),
    "evidence": ("evidence", "[1]"),
    "evidence text": ("evidence", '"x"'),
    "evidence seen": ("evidence", '{"seen":7}'),
    "push": ("push", "[1]"),
    "push tries": ("push", '{"tries":"many"}'),
    "wandb_sync": ("wandb_sync", '{"a":1}'),
    "preflight": ("preflight", '{"vm":1}'),
    "preflight seconds": ("preflight", '{"vm":{"seconds":"x"}}'),
    "queued": ("queued_ms", "x"),
    "id": ("id", "zzz"),
    "another id": ("id", "0123456789ab"),
    "eta": ("eta_seconds", "inf"),
    "rest": ("rest_seconds", "nan"),
    "priority": ("priority", "x"),
    "kept_steps": ("kept_steps", '["x"]'),
    "disk_plan": ("disk_plan", "[1]"),
    "pins": ("pins", "[1]"),
    "pin": ("pins", '{"lerobot/pi0":"main"}'),
    "long detail": ("detail", "x" * 200_000),
    "include": ("wandb_run_id", "includeX/root/.netrc"),
    "run id": ("wandb_run_id", "a/../../x"),
    "gpus": ("gpus", '["0,1"]'),
    "box": ("box", "../x"),
    "continues": ("continues", "../../x"),
    "run_dir": ("run_dir", "../x"),
    "wandb_url": ("wandb_url", "javascript:alert(1)"),
    "not a number": ("spec", '{"a":NaN}'),
    "infinite": ("spec", '{"a":1e999}'),
}


def inject(store: Store, job_spec: dict[str, Any], job: str = "", /, **fields: str) -> str:
    """Writes record and message straight into the server, as `attacks/sec.py` does."""
    job, at = job or secrets.token_hex(6), store.now_ms()
    message = celery_message.build(job, name="poison", needs=NEEDS, priority="urgent", origin="alice@laptop")
    known: dict[Any, Any] = {
        "id": job, "name": "poison", "priority": "urgent", "submitter": "alice@laptop", "spec": json.dumps(job_spec),
        "needs": json.dumps(NEEDS), "steps": "2", "wandb_run_id": f"pi0q-{secrets.token_hex(3)}", "queue": "jobs",
        "message": message, "state": "queued", "created_ms": str(at), "updated_ms": str(at), "queued_ms": str(at),
        "epoch": "0", "installation": str(store.client.hget(store.prefix + "server", "installation")),
    } | fields  # fmt: skip
    pipe = store.client.pipeline()
    pipe.hset(f"{store.prefix}job:{job}", mapping=known)
    pipe.zadd(f"{store.prefix}live", {job: at})
    pipe.zadd(f"{store.prefix}lookup", {f"i:{job}": 0, f"n:poison\0{job}": 0})
    pipe.lpush(f"{store.prefix}jobs", message)
    pipe.publish(f"{store.prefix}wake", job)
    pipe.publish(f"{store.prefix}changes", job)
    pipe.execute()
    return job

"""A box for the tests of its caches: `prepare` in a process of its own, before a stand-in Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pi0q.workers.hub.requirements import PALIGEMMA, TOKENIZER_FILES, Fetch
from tests.standin_hub import StandInHub

DRIVER = """
import json, logging, os, sys
from pi0q.queue.settings import load
from pi0q.workers.hub import fetch, modelscope
from pi0q.workers.network import routes
from pi0q.workers.hub.errors import HubError
from pi0q.workers.hub.fetch import prepare
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.hub.session import Pins

fetch.PAUSES_SECONDS = (0.1, 0.1)
# A way that is slow to answer here is a busy machine's, and no other is to be taken for it.
routes.PROBE_SECONDS = 60.0
if told := os.environ.get("TOKENIZER_HASHES"):
    modelscope.TOKENIZER = json.loads(told)
asked = json.loads(sys.argv[1])
before = dict(os.environ)
fetches = [Fetch.from_json(one) for one in asked["fetches"]]
def say(line):
    print(json.dumps({"say": line}), flush=True)
class Say(logging.Handler):
    def emit(self, record):
        say(record.getMessage())
logging.getLogger("pi0q").addHandler(Say())
try:
    pins = prepare(fetches, load(), pins=Pins(**asked["pins"]), on_phase=lambda phase: say(str(phase)))
    end = {"pins": pins.commits, "uncompared": pins.uncompared}
except HubError as refused:
    end = {"reason": refused.reason.value, "detail": refused.detail, "asked": refused.asked_seconds}
end |= {"environment_kept": before == dict(os.environ), "imported": "huggingface_hub" in sys.modules}
print(json.dumps(end), flush=True)
"""

DATASET = Fetch(kind="dataset", repo_id="you/grab_box", repo_type="dataset")
BASE = Fetch(kind="base", repo_id="you/base", repo_type="model")
TOKENIZER = Fetch(kind="tokenizer", repo_id=PALIGEMMA, repo_type="model", patterns=TOKENIZER_FILES)

DATASET_FILES = {"meta/info.json": b'{"codebase_version": "v3.0"}', "data/chunk-000/file-000.parquet": b"p" * 9000}
BASE_FILES = {"config.json": b"{}", "model.safetensors": b"w" * 50_000, "README.md": b"a policy"}
TOKENIZER_REPO = {
    "config.json": b'{"model_type": "paligemma"}',
    "tokenizer.json": b"{}",
    "tokenizer.model": b"t" * 5000,
    "tokenizer_config.json": b"{ }",
    "special_tokens_map.json": b"{  }",
    "model-00001-of-00003.safetensors": b"x" * 9000,
    "preprocessor_config.json": b"{   }",
}


@dataclass(frozen=True, kw_only=True)
class End:
    """What a prepare came to."""

    says: list[str]
    pins: dict[str, str]
    #: Those of them that are ModelScope's own.
    uncompared: dict[str, str]
    reason: str
    detail: str
    asked: float
    environment_kept: bool
    imported: bool


def box_env(hub: StandInHub, home: Path, **env: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "PI0Q_"))}
    kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
    own = {
        "HOME": str(home.parent),
        "PI0Q_HOME": str(home.parent),
        "PI0Q_HF_HOME": str(home),
        "PI0Q_HF_ENDPOINT": hub.url,
        "PI0Q_ROADS": "mirror,turbo,hub",
        "PI0Q_NETWORK_TURBO": str(home.parent / "network_turbo"),
    }
    return {**kept, **own, **env}


def begin(
    hub: StandInHub,
    home: Path,
    *fetches: Fetch,
    pins: Mapping[str, str] = {},
    uncompared: Mapping[str, str] = {},
    **env: str,
) -> subprocess.Popen[str]:
    asked = {
        "fetches": [asdict(one) for one in fetches],
        "pins": {"commits": dict(pins), "uncompared": dict(uncompared)},
    }
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(asked)],
        env=box_env(hub, home, **env),
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> End:
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    *says, end = [json.loads(line) for line in told.splitlines()]
    blank = {"pins": {}, "uncompared": {}, "reason": "", "detail": "", "asked": 0.0}
    return End(says=[line["say"] for line in says], **{**blank, **end})


def prepare(
    hub: StandInHub,
    home: Path,
    *fetches: Fetch,
    pins: Mapping[str, str] = {},
    uncompared: Mapping[str, str] = {},
    **env: str,
) -> End:
    return finish(begin(hub, home, *fetches, pins=pins, uncompared=uncompared, **env))


def content(fetch: Fetch, home: Path, sha: str) -> dict[str, bytes]:
    top = fetch.snapshot(home, sha)
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def read_until(out: IO[str] | None, text: str) -> list[str]:
    """What it says up to the line that holds `text`."""
    assert out is not None
    says = []
    for line in out:
        says.append(json.loads(line).get("say", ""))
        if text in says[-1]:
            return says
    raise AssertionError(f"never said {text!r}: {says}")

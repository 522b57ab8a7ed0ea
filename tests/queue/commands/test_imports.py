"""What each command imports: a command of a tenth of a second is mostly imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pi0q.queue.store import Store
from tests.conftest import JobDriver

FILE = """\
train:
  dataset: {repo_id: local/grab_box, root: /data/grab_box}
  policy: {type: act, push_to_hub: false}
"""
#: Modules that no command below may import, by the price of their import.
NEVER = {"celery", "kombu", "jinja2", "huggingface_hub", "torch", "lerobot", "psutil", "filelock", "importlib.metadata"}
#: command -> what it may not import besides. `JOB` and `FILE` stand for what the test makes.
COMMANDS: dict[tuple[str, ...], set[str]] = {
    ("--help",): {"redis", "yaml", "rich", "socket", "json", "tomllib", "platformdirs", "pi0q.queue.store_reads"},
    ("ls",): {
        "redis",
        "rich",
        "yaml",
        "asyncio",
        "urllib.request",
        "importlib.resources",
        "pi0q.jobs.spec",
        "tempfile",
    },
    ("ls", "--json"): {"redis", "yaml", "asyncio", "urllib.request", "importlib.resources", "pi0q.jobs.spec", "rich"},
    ("show", "JOB"): {"redis", "yaml", "asyncio", "urllib.request", "importlib.resources", "pi0q.jobs.spec"},
    ("why", "JOB"): {
        "redis",
        "yaml",
        "rich",
        "hashlib",
        "asyncio",
        "urllib.request",
        "importlib.resources",
        "tempfile",
    },
    ("boxes",): {"redis", "rich", "yaml", "asyncio", "urllib.request", "importlib.resources", "pi0q.jobs.spec"},
    ("logs", "JOB"): {"redis", "yaml", "rich", "asyncio", "urllib.request", "importlib.resources", "pi0q.jobs.spec"},
    ("submit", "FILE"): {
        "redis",
        "rich",
        "pi0q.queue.refusals",
        "pi0q.queue.box_status",
        "hashlib",
        "hmac",
        "asyncio",
        "urllib.request",
        "http",
        "ssl",
        "importlib.resources",
    },
}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_imports_only_what_it_uses(
    command: tuple[str, ...], driver: JobDriver, store: Store, env: dict[str, str], tmp_path: Path
) -> None:
    job, file = driver.submit(), tmp_path / "job.yaml"
    store.announce_box("box-a", "id-a", {"status": "ready", "gpus": "[]"})
    file.write_text(FILE)
    argv = [{"JOB": job, "FILE": str(file)}.get(word, word) for word in command]
    imported = imports(argv, env)
    assert "click" in imported
    assert imported & (NEVER | COMMANDS[command]) == set()


def test_an_import_that_is_forbidden_is_seen(env: dict[str, str]) -> None:
    assert {"redis", "click"} <= imports(["cancel", "nosuchjob"], env, code=3)


def imports(argv: list[str], env: dict[str, str], *, code: int = 0) -> set[str]:
    """The modules that a whole `pi0q …` imported, beyond those of a bare interpreter."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pi0q.queue.cli", *argv],
        env=env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr[-2000:]
    lines = (line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:"))
    return set(lines)

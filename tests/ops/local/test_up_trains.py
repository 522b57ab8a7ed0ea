"""`pi0q up` in one go: a job goes in, a real worker trains it (on the fake LeRobot), Flower shows and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("flower")
from playwright.sync_api import Browser, Page

from tests.conftest import Command, Running, Start, WaitFor
from tests.ops.conftest import NOWHERE, press, shows

JOB = """
name: {name}
resources: {{gpus: 1, vram: 10GiB, disk: 10MiB}}
train:
  dataset: {{repo_id: local/grab_box, root: datasets/grab_box}}
  policy: {{type: act, push_to_hub: false}}
  steps: 100000
  batch_size: 2
  save_freq: 50000
"""
FAKE = Path(__file__).parents[2] / "fake_lerobot"


def living(mark: str) -> list[psutil.Process]:
    """Processes with this in their command line: a job's id, or the home of a test."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and mark in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.fixture
def up(start: Start, tmp_path: Path) -> Iterator[Running]:
    meta = tmp_path / "home" / "datasets" / "grab_box" / "meta"
    meta.mkdir(parents=True)
    (meta / "info.json").write_text("{}")
    running = start(
        *("up", "--port", "0", "--flower-port", "0", "--web-port", "0", "--slots", "1"),
        **NOWHERE,
        PYTHONPATH=os.pathsep.join(filter(None, [str(FAKE), os.environ.get("PYTHONPATH", "")])),
        PI0Q_TRAINER_PYTHON=sys.executable,
        PI0Q_BOX="box-a",
        PI0Q_SYSTEM_DISK_RESERVE_MIB="0",
        PI0Q_FAKE_GPUS='[{"name": "RTX PRO 6000", "total_gib": 97}]',
        FAKE_STEP_SECONDS="0.02",
    )
    running.until("Ctrl-C stops it")
    yield running
    if running.process.poll() is None:
        running.end(signal.SIGTERM)
    # Trainings go on without the worker; those of a test that failed must not.
    for process in living(str(tmp_path / "home" / "runs")):
        process.kill()


@pytest.fixture
def page(up: Running, browser: Browser, tmp_path: Path) -> Iterator[Page]:
    facts = json.loads((tmp_path / "home" / "up.json").read_text())
    password = (tmp_path / "home" / "flower.password").read_text().strip()
    context = browser.new_context(
        base_url=facts["flower_url"],
        http_credentials={"username": facts["flower_user"], "password": password},
    )
    yield context.new_page()
    context.close()


def test_a_job_from_submit_to_terminate(
    page: Page, up: Running, pi0q: Command, tmp_path: Path, wait_for: WaitFor
) -> None:
    ids = []
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(JOB.format(name=name))
        answer = pi0q("submit", f"{name}.yaml", "--json", **NOWHERE)
        ids.append(json.loads(answer.stdout)["id"])
    first, second = ids

    def job(job_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(pi0q("show", job_id, "--json", **NOWHERE).stdout)
        return shown

    def comes(path: str, where: str, *said: str) -> None:
        page.goto(path)
        for text in said:
            shows(page, where, text)

    wait_for(lambda: job(first)["step"])
    comes("/tasks", "#tasks-table", "STARTED", "PENDING")
    comes(f"/task/{first}", "#task-page", "/100000 0%", "pi0q@box-a")
    comes("/", "#workers-table", "pi0q@box-a(.|\n)*Online")
    comes("/worker/pi0q@box-a", "body", r"RTX PRO 6000 \| VRAM free")
    comes("/broker", "body", r"box\.box-a")
    shows(page, "tr#jobs", r"^\s*jobs\s+1\b")

    page.goto(f"/task/{first}")
    press(page, "Terminate")
    wait_for(lambda: job(first)["state"] == "cancelled")
    comes(f"/task/{first}", "#task-page", "REVOKED")
    # The box is free, and the next one gets it.
    wait_for(lambda: job(second)["state"] == "running")
    assert job(first)["history"][-2]["text"] == "cancelled in Flower by pi0q"
    # A runner whose job has ended goes when its last word is told.
    wait_for(lambda: not living(first))
    pi0q("cancel", second, **NOWHERE)
    wait_for(lambda: job(second)["state"] == "cancelled")
    assert up.end(signal.SIGTERM) == 0

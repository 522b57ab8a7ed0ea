"""`pi0q open`: which address a browser gets."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from pi0q.queue.commands.open_ import is_known
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver

LINK = "https://wandb.ai/us/lerobot/runs/pi0q-1"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    urls: list[str] = []

    def launch(url: str) -> int:
        urls.append(url)
        return 0

    monkeypatch.setattr(click, "launch", launch)
    return urls


def up(env: dict[str, str], url: object) -> None:
    home = Path(env["PI0Q_HOME"])
    home.mkdir(exist_ok=True)
    (home / "up.json").write_text(json.dumps({"web_url": url}))


def test_open_prefers_the_wandb_run_and_takes_the_own_page_where_asked(
    call: Command, driver: JobDriver, store: Store, env: dict[str, str], opened: list[str]
) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    up(env, "http://127.0.0.1:5550")
    page = f"http://127.0.0.1:5550/jobs/{job}"
    assert call("open", job).stdout == page + "\n"
    driver.report(job, epoch, wandb_url=LINK)
    assert call("open", job).stdout == LINK + "\n"
    assert call("open", job, "--page").returncode == 0
    assert opened == [page, LINK, page]
    assert json.loads(call("open", job, "--json").stdout) == {"id": job, "wandb": LINK, "swanlab": None, "page": page}


@pytest.mark.parametrize("url", ["https://elsewhere.example", 5, None])
def test_open_without_a_page_says_what_to_start(
    call: Command, driver: JobDriver, env: dict[str, str], opened: list[str], url: object
) -> None:
    job = driver.submit()
    up(env, url)
    said = call("open", job)
    assert said.returncode == 1 and f"Fix: pi0q web   and then again: pi0q open {job}" in said.stderr
    assert opened == []


@pytest.mark.parametrize(
    ("url", "base", "known"),
    [
        (LINK, "", True),
        ("https://api.wandb.ai/x", "", True),
        ("https://wandb.example/x", "https://wandb.example", True),
        ("https://wandb.example/x", "", False),
        ("https://swanlab.cn/@us/lerobot/runs/r", "", True),
        ("https://evilswanlab.cn/x", "", False),
        ("https://wandb.ai@evil.example/x", "", False),
        ("https://evilwandb.ai/x", "", False),
    ],
)
def test_is_known_opens_no_address_that_somebody_wrote_into_a_record(url: str, base: str, known: bool) -> None:
    assert is_known(url, base) is known


def test_open_only_prints_an_address_elsewhere(call: Command, driver: JobDriver, opened: list[str]) -> None:
    job = driver.submit()
    driver.report(job, driver.run(job), wandb_url="https://evil.example/run")
    said = call("open", job)
    assert opened == [] and said.stdout == "https://evil.example/run\n" and "Not opened" in said.stderr

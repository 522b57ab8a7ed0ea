"""The web page with many jobs and boxes, in a real browser: first paint, and from a change to its paint.

    PYTHON benchmarks/web.py [--jobs 1000] [--boxes 100] [--rounds 10] [--out benchmarks/DATE-web.md]

PYTHON has pi0q[web,server,dev]; a chromium is on PATH. Two boxes in three have eight cards, three of them with a
training each; the others have one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
from playwright.sync_api import Page, sync_playwright

from pi0q.ops.local import server as servers
from pi0q.queue.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.rig import fleet

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAGES = ("/", "/queue", "/jobs", "/boxes")
#: Milliseconds that the issue allows: first paint, and from a view that the page has to what a browser shows.
FIRST, UPDATE = 1000, 300
#: Tells when a text of a page was painted: by the clock that this process has, too.
WATCH = """word => new Promise(resolve => {
  const look = () => document.querySelector('main').textContent.includes(word)
    ? requestAnimationFrame(() => resolve(Date.now())) : requestAnimationFrame(look);
  look();
})"""


def main(jobs: int, boxes: int, rounds: int, out: Path | None) -> None:
    """Measure, print, and write the report."""
    with tempfile.TemporaryDirectory(prefix="pi0q-") as place:
        home = Path(place)
        port = servers.choose_port(0, default=0, option="--port")
        server = servers.start(home / "data", port=port, log=home / "server.log")
        try:
            store = Store(redis.Redis.from_url(server.url, decode_responses=True))
            fleet.crowd(store, jobs=jobs, boxes=boxes)
            text = report(measure(store, server.url, home, rounds), jobs, boxes, rounds)
        finally:
            server.stop()
    print(text)
    if out:
        out.write_text(text, encoding="utf-8")


def measure(store: Store, url: str, home: Path, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds by what was measured."""
    env = {**os.environ, "PI0Q_REDIS_URL": url, "PI0Q_HOME": str(home / "home"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "pi0q.queue.cli", "web", "--port", "0"]
    web = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert web.stdout is not None
    address = web.stdout.readline().split()[2]
    path = next(place for name in BROWSERS if (place := shutil.which(name)))
    password = (home / "home" / "web.password").read_text(encoding="utf-8").strip()
    found: dict[str, list[float]] = {}
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            context = browser.new_context(http_credentials={"username": "pi0q", "password": password})
            context.new_page().goto(address)
            for _ in range(rounds):
                for name in PAGES:
                    page = context.new_page()
                    page.goto(address + name)
                    found.setdefault(f"first paint of {name}", []).append(paint(page))
                    page.close()
                print(*(f"{what} {values[-1]:.0f} ms;" for what, values in found.items()), flush=True)
            page = context.new_page()
            page.goto(address)
            page.wait_for_selector('.live[data-link="on"]')
            found |= updates(store, page, rounds)
            browser.close()
    finally:
        web.terminate()
        web.communicate()
    return found


def paint(page: Page) -> float:
    """Return when the browser painted its first content, milliseconds after the address was opened."""
    ask = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1"
    while (at := float(page.evaluate(ask))) < 0:
        page.wait_for_timeout(5)
    return at


def updates(store: Store, page: Page, rounds: int) -> dict[str, list[float]]:
    """Change one job again and again; return the milliseconds from the change, and from the news in the browser."""
    # The fleet page shows the oldest.
    record = min((job for job in store.page(live=-1, ended=0).jobs if job.box), key=lambda job: job.created_ms)
    page.evaluate("""() => { window.news = 0; const plain = window.fetch;
        window.fetch = (...args) => { window.news = Date.now(); return plain(...args); }; }""")
    whole, browser = [], []
    for number in range(rounds):
        time.sleep(2.0)
        word = f"marker {number} of {rounds}"
        began = time.time() * 1000
        store.report(record.id, record.epoch, lease_seconds=600.0, fields={"phase": word}, log=chunk())
        painted: Any = page.evaluate(WATCH, word)
        whole.append(painted - began)
        browser.append(painted - float(page.evaluate("window.news")))
    return {"from a change of a job to its paint": whole, "from the news in a browser to its paint": browser}


def chunk() -> Any:
    """No new text of a log."""
    from pi0q.queue.store_types import LogChunk

    return LogChunk(text="")


def report(found: dict[str, list[float]], jobs: int, boxes: int, rounds: int) -> str:
    """Return the report."""
    lines = [
        f"# The web page with {jobs:,} jobs and {boxes} boxes",
        "",
        f"`benchmarks/web.py`, {rounds} rounds, headless chromium, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}.",
        "",
        "| what | median | worst | goal |",
        "|---|---|---|---|",
    ]
    for what, values in found.items():
        goal = FIRST if what.startswith("first") else UPDATE if "news" in what else None
        told = f"< {goal} ms" if goal else ""
        lines.append(f"| {what} | {statistics.median(values):.0f} ms | {max(values):.0f} ms | {told} |")
    return "\n".join(lines) + "\n"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--boxes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(words)


if __name__ == "__main__":
    chosen = arguments()
    main(chosen.jobs, chosen.boxes, chosen.rounds, chosen.out)

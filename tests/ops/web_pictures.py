"""Takes the pictures of the web page and of `pi0q top`: the stand-in fleet of tests/rig/fleet.py, as a browser and
a terminal show it.

    python tests/ops/web_pictures.py [DIRECTORY]

Needs a Python with pi0q[web,server,dev] and a browser on PATH; half a minute.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import redis
from PIL import Image
from playwright.sync_api import sync_playwright

from pi0q.ops.local import server as servers
from pi0q.ops.top.app import Top
from pi0q.queue.reading.watcher import StoreSource, Watcher
from pi0q.queue.store import Store

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.rig import fleet

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OUT = Path(__file__).parents[2] / "ops" / "pictures"
LIMIT_BYTES = 200_000


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pi0q-") as place:
        home = Path(place)
        port = servers.choose_port(0, default=0, option="--port")
        server = servers.start(home / "data", port=port, log=home / "server.log")
        try:
            store = Store(redis.Redis.from_url(server.url, decode_responses=True))
            _, _, ids = fleet.fill(store)
            show(server.url, home, ids, out)
            asyncio.run(draw_top(store, out / "top.svg"))
        finally:
            server.stop()


async def draw_top(store: Store, out: Path) -> None:
    """Draw the page of `pi0q top` as it is on a terminal of 120 columns."""
    watcher = Watcher(StoreSource(store, store, 60.0, live=50, ended=20))
    watcher.start()
    app = Top(watcher, store, user="ada@laptop")
    async with app.run_test(size=(120, 42)) as pilot:
        while not app.losses:
            await pilot.pause(0.1)
        app.refresh_page()
        await pilot.pause(0.1)
        out.write_text(app.export_screenshot(title="$ pi0q top"), encoding="utf-8")
    watcher.stop()


def show(url: str, home: Path, ids: dict[str, str], out: Path) -> None:
    """Start the page and photograph it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PI0Q_")}
    env = clean | {"PI0Q_REDIS_URL": url, "PI0Q_HOME": str(home / "home"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "pi0q.queue.cli", "web", "--port", "0", "--actions"]
    web = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert web.stdout is not None
    address = web.stdout.readline().split()[2]
    password = (home / "home" / "web-actions.password").read_text(encoding="utf-8").strip()
    path = next(found for name in BROWSERS if (found := shutil.which(name)))
    job = f"/jobs/{ids['grab_box_pi0_fmc3']}"
    pictures = {"web": ("/", 1440, 1180), "web-job": (job, 1440, 900), "web-phone": ("/", 390, 844)}
    pictures["web-wall"] = ("/", 2560, 1440)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            for name, (where, width, height) in pictures.items():
                page = browser.new_page(
                    viewport={"width": width, "height": height},
                    http_credentials={"username": "operator", "password": password},
                )
                page.goto(address + where)
                page.wait_for_selector('.live[data-link="on"]')
                file = out / f"{name}.png"
                page.screenshot(path=file)
                # A page has few colours: a palette halves the file.
                Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)
                assert file.stat().st_size <= LIMIT_BYTES, f"{file} has {file.stat().st_size} bytes"
            browser.close()
    finally:
        web.terminate()
        web.communicate()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)

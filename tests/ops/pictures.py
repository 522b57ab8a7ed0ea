"""Takes the README's pictures: small real trainings by the real LeRobot, as Flower and `pi0q watch` show them.

    python tests/ops/pictures.py [DIRECTORY]

Needs a Python with pi0q and LeRobot, a browser on PATH, and a few minutes of CPU.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright
from rich.console import Console

import pi0q.jobs.examples
from pi0q.ops.local import standins_main
from pi0q.queue.commands import watch
from pi0q.queue.settings import load
from pi0q.queue.store import Store, heard

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OUT = Path(__file__).parents[2] / "ops" / "pictures"
EXAMPLES = Path(next(iter(pi0q.jobs.examples.__path__)))
SMALL = (EXAMPLES / "act.yaml").read_text(encoding="utf-8")
LIMIT_BYTES = 150_000


def pi0q_json(env: dict[str, str], *args: str, stdin: str = "") -> Any:
    """What a command answers."""
    command = [sys.executable, "-m", "pi0q.queue.cli", *args, "--json"]
    done = subprocess.run(command, env=env, input=stdin, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def submit(env: dict[str, str], name: str, *, steps: int = 40, lr: str = "1.0e-5") -> str:
    """Queues the small example under a name."""
    text = SMALL.replace("name: act_cpu\n", f"name: {name}\n", 1).replace("steps: 20\n", f"steps: {steps}\n", 1)
    text = text.replace("    type: act\n", f"    type: act\n    optimizer_lr: {lr}\n", 1)
    text = text.replace("save_freq: 10\n", "save_freq: 20\n", 1)
    return str(pi0q_json(env, "submit", "-", stdin=text)["id"])


def wait(store: Store, job: str, *states: str, step: int = 0) -> None:
    """Until the job is in one of these states, at this step or later."""
    changes = store.subscribe("changes")
    while (record := store.get(job)).state.value not in states or (record.step or 0) < step:
        list(heard(changes, 5.0))
    changes.close()


def photograph(home: Path, out: Path) -> None:
    """The tasks page as it is now."""
    facts = json.loads((home / "up.json").read_text())
    path = next(found for name in BROWSERS if (found := shutil.which(name)))
    credentials = {"username": facts["flower_user"], "password": (home / "flower.password").read_text().strip()}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 620}, http_credentials=credentials)  # type: ignore[arg-type]
        page.goto(facts["flower_url"] + "/tasks")
        page.wait_for_load_state("networkidle")
        out.parent.mkdir(exist_ok=True)
        page.screenshot(path=out)
        browser.close()
    assert out.stat().st_size <= LIMIT_BYTES, f"{out} has {out.stat().st_size} bytes"


def draw(store: Store, job: str, out: Path) -> None:
    """The screen of `pi0q watch JOB` as it is now, on a terminal of 110 columns."""
    console = Console(record=True, width=110, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(watch.screen(store, job, 60.0)[0])
    out.write_text(console.export_svg(title=f"$ pi0q watch {store.get(job).name}"), encoding="utf-8")


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pi0q-") as place:
        home = Path(place)
        standins_main.make_dataset(home / "datasets" / "grab_box")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PI0Q_")}
        env = clean | {"PI0Q_HOME": place, "PI0Q_BOX": "box-a", "HF_HUB_OFFLINE": "1", "PI0Q_FAKE_GPUS": "[]"}
        env |= {"PI0Q_TRAINER_PYTHON": sys.executable, "PYTHONUNBUFFERED": "1", "XDG_CONFIG_HOME": place}
        command = [sys.executable, "-m", "pi0q.queue.cli", "up", "--port", "0", "--flower-port", "0", "--no-web"]
        command += ["--slots", "1"]
        up = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        assert up.stdout is not None
        while "Ctrl-C stops it" not in up.stdout.readline():
            assert up.poll() is None
        try:
            show(env, home, out)
        finally:
            up.send_signal(signal.SIGTERM)
            up.communicate()


def show(env: dict[str, str], home: Path, out: Path) -> None:
    """One job of each kind, and the picture."""
    from redis import Redis

    settings = load(env)
    store = Store(Redis.from_url(settings.redis_url, decode_responses=True))
    wait(store, submit(env, "grab_box_act"), "succeeded")
    wait(store, submit(env, "grab_box_act_hot", lr="10.0"), "failed", "succeeded")
    running = submit(env, "fold_cloth_act", steps=3000)
    regretted = submit(env, "fold_cloth_wrong_camera")
    pi0q_json(env, "cancel", regretted)
    example = (EXAMPLES / "grab_box.yaml").read_text(encoding="utf-8")
    pi0q_json(env, "submit", "-", stdin=example)
    wait(store, running, "running", step=50)
    photograph(home, out / "flower.png")
    draw(store, running, out / "watch.svg")
    pi0q_json(env, "cancel", running)
    wait(store, running, "cancelled")
    store.client.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)

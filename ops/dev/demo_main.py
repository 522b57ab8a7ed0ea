"""`make demo`: one job all the way on this machine, its trainer killed once on the way.

    python -m pi0q.ops.dev.demo_main [DIRECTORY]

The real server, worker, runner and LeRobot; the dataset is noise and the tokenizer a stand-in, so that nothing has to
be downloaded. Where LeRobot has no pi0 (0.4.4, on a Python below 3.12), a small ACT takes its place. The server has
roles, and TLS where it was built with it; the job file is signed, and the box runs no other.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path

from pi0q.jobs.checkpoint import MANIFEST
from pi0q.jobs.record import Record
from pi0q.jobs.schema import flags
from pi0q.jobs.state import State
from pi0q.ops.dev import demo_protection
from pi0q.ops.local import standins_main
from pi0q.queue import settings
from pi0q.queue.connection import connect
from pi0q.queue.store import Store
from pi0q.workers.host import process_tree
from pi0q.workers.runs.run_directory import RunDirectory

#: Seconds until server, worker and Flower must be there; a cold disk takes a while to import Celery.
UP_SECONDS = 90.0
#: Seconds between two looks at how far the trainer is.
LOOK_SECONDS = 0.05


def pi0q(*words: str) -> list[str]:
    return [sys.executable, "-m", "pi0q.queue.cli", *words]


def say(text: str) -> None:
    print(f"\n\033[1m# {text}\033[0m" if sys.stdout.isatty() else f"\n# {text}", flush=True)


#: The user's variables, where the server has roles: the demo's own commands are not those of its owner.
AS_USER: dict[str, str] = {}


def shown(*words: str) -> None:
    """Runs a command as its user would, and shows that."""
    print(f"$ pi0q {' '.join(words)}", flush=True)
    subprocess.run(pi0q(*words), check=True, env={**os.environ, **AS_USER})


def protect() -> demo_protection.Protection:
    """Switches roles, TLS and signatures on, as far as there are any here."""
    found = demo_protection.of_this_machine()
    for what in found.missing:
        print(f"  without {what}", flush=True)
    if found.roles:
        shown("server", "init", *(("--tls", "--host", "localhost") if found.tls else ()))
    if found.signatures:
        demo_protection.trust_own_key(pi0q())
    return found


def make(kind: str, place: Path) -> None:
    """Makes a stand-in; LeRobot's many words about codecs that nobody needs here are shown only if it fails."""
    done = subprocess.run([sys.executable, standins_main.__file__, kind, str(place)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    print(f"  {done.stdout.strip()}", flush=True)


@contextmanager
def up(home: Path) -> Iterator[Store]:
    """`pi0q up` in its own directory on free ports, until the end of the block."""
    print("$ pi0q up", flush=True)
    running = subprocess.Popen(pi0q("up", "--port", "0", "--flower-port", "0"), start_new_session=True)
    try:
        yield wait_for_box(home, running)
    finally:
        say("The end: Ctrl-C stops server, worker and Flower; records and checkpoints stay")
        running.send_signal(signal.SIGINT)
        running.wait()


def wait_for_box(home: Path, running: subprocess.Popen[bytes]) -> Store:
    """The store, once a box has announced itself."""
    deadline = time.monotonic() + UP_SECONDS
    while time.monotonic() < deadline and running.poll() is None:
        if (home / "up.json").exists():
            chosen = settings.load()
            store = Store(connect(chosen), chosen.prefix)
            if any(box.get("status") == "ready" for box in store.boxes()):
                return store
        time.sleep(0.2)
    sys.exit(f"`pi0q up` did not come up within {UP_SECONDS:.0f} s; see {home}/logs.")


def watch_and_kill(store: Store, job_id: str, home: Path) -> Record:
    """Shows the job's progress, and kills its trainer once it has a checkpoint and went on from there."""
    threading.Thread(target=kill_once, args=(job_id, RunDirectory(home / "runs" / job_id)), daemon=True).start()
    print(f"$ pi0q watch {job_id}", flush=True)
    user = {**os.environ, **AS_USER}
    with subprocess.Popen(pi0q("watch", job_id), stdout=subprocess.PIPE, text=True, env=user) as watching:
        assert watching.stdout is not None
        for line in watching.stdout:
            print("  " + line, end="", flush=True)
    return store.get(job_id)


def kill_once(job_id: str, run: RunDirectory) -> None:
    """Looks at the run's files rather than at reports, which come once a second: a fast machine would be done."""
    while (
        not (sealed := list(run.checkpoints.glob(f"*/{MANIFEST}"))) or last_step(run) < int(sealed[0].parent.name) + 2
    ):
        time.sleep(LOOK_SECONDS)
    say(f"kill -9 of the trainer at step {last_step(run)}: it must go on from its checkpoint")
    for pid in process_tree.marked(job_id, epoch=1):
        process_tree.send(pid, signal.SIGKILL)


def last_step(run: RunDirectory) -> int:
    """Return the newest step that the trainer reported."""
    lines = run.events.read_text().splitlines()
    events = (json.loads(line) for line in lines if line.endswith("}"))
    return max((event["step"] for event in events if event["event"] == "step"), default=0)


def report(job: Record) -> None:
    """Where everything lies."""
    assert job.run_dir is not None
    run = Path(job.run_dir)
    say("What it left")
    for checkpoint in sorted((run / "output" / "checkpoints").iterdir()):
        manifest = checkpoint / "pi0q.manifest.json"
        print(f"  {checkpoint}" + ("  (verified)" if manifest.exists() and not checkpoint.is_symlink() else ""))
    print(f"  log    {run / 'trainer.log'}")
    runs = sorted((run / "output" / "wandb").glob("offline-run-*"))
    print(f"  WandB  one run, {job.wandb_run_id}, offline, in {len(runs)} parts; `wandb sync` joins them:")
    for part in runs:
        print(f"         {part}")


def main() -> None:
    home = Path(sys.argv[1] if len(sys.argv) > 1 else ".demo").absolute()
    os.environ |= {"PI0Q_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "huggingface")}
    # The user's own keys and settings are not touched.
    os.environ["XDG_CONFIG_HOME"] = str(home / "config")
    for name in [name for name in os.environ if name.startswith("PI0Q_") and name != "PI0Q_HOME"]:
        del os.environ[name]
    shutil.rmtree(home, ignore_errors=True)
    lerobot = version("lerobot")
    example = "act.yaml" if flags.line(lerobot) == "0.4" else "quickstart.yaml"
    say(f"A dataset of noise and a stand-in tokenizer for LeRobot {lerobot}")
    make("dataset", home / "datasets" / "grab_box")
    if example == "quickstart.yaml":
        make("tokenizer", home / "huggingface")
    say("Who may do what: users of the server, and a key that signs job files")
    protection = protect()
    say("Server, worker and Flower on this machine")
    with up(home) as store, as_file(files("pi0q.jobs.examples").joinpath(example)) as file:
        if protection.roles:
            shown("server", "add-user", demo_protection.USER)
            AS_USER.update(demo_protection.environment_of(home))
        say(f"One job, all the way: {example}")
        shown("submit", str(file))
        job_id = max(store.page().jobs, key=lambda job: job.created_ms).id
        job = watch_and_kill(store, job_id, home)
        say("The record")
        shown("ls")
        shown("show", job_id)
        report(job)
    if job.state is not State.SUCCEEDED or job.epoch < 2:
        sys.exit(f"The demo failed: the job is {job.state}, {job.reason}, after {job.epoch} claims.")
    say("Done: submitted, claimed, trained, killed, resumed, ended.")


if __name__ == "__main__":
    main()

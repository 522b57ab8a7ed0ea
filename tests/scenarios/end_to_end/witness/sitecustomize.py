"""Imported first by every Python of these tests: a witness of each trainer's life, and mischief by a job's name.

A trainer holds a lock for as long as it lives, so a second one beside it would be seen, and writes down when
it began and what else of its job was alive then. A job named `oom@3` gets FAKE_FAULT=oom@3; `stray`, `ghost`,
`tell` and `confess` are below, and `parricide` kills its runner.
"""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

FAULT = re.compile(r"[a-z0-9]+@\d+")
#: Secrets as they might stand in a trainer's output; none of them is one.
CANARIES = {
    "hub": "hf_" + "CaNaRy" * 6,
    "wandb": "wandb_v1_CaNaRyCaNaRyCaNaRy",
    "known": "c0ffee" * 7,
    "password": "CaNaRyPaSsWoRd",
}


def others(job: str) -> list[int]:
    """Other processes of this job."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"PI0Q_JOB={job}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def begin(job: str, lives: Path) -> None:
    lives.mkdir(exist_ok=True)
    lock = os.open(lives / f"{job}.lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    life = {
        "pid": os.getpid(),
        "epoch": int(os.environ["PI0Q_EPOCH"]),
        "alone": alone,
        "others": others(job),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "argv": sys.orig_argv,
    }
    with (lives / f"{job}.jsonl").open("a") as file:
        file.write(json.dumps(life) + "\n")


def stray(lives: Path, job: str) -> None:
    """A grandchild that leaves session and group and ignores all that can be ignored."""
    deaf = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-S", "-c", deaf], start_new_session=True)
    (lives / f"{job}.stray").write_text(str(child.pid))


def ghost(lives: Path, job: str) -> None:
    """As a daemon does it: forked twice, in a session of its own, and with nothing of ours in its environment."""
    deaf = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; time.sleep(600)"
    start = f"import subprocess as s, sys; c = [sys.executable, '-S', '-c', {deaf!r}]"
    start += "; print(s.Popen(c, start_new_session=True, env={}, stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    made = subprocess.run([sys.executable, "-S", "-c", start], stdout=subprocess.PIPE, check=True)
    (lives / f"{job}.stray").write_text(made.stdout.decode())


def key_of_the_runner() -> str:
    """The key that the trainer of this job does not get, as a trainer that spies finds it: in its parent's memory."""
    raw = Path(f"/proc/{os.environ['PI0Q_PARENT']}/environ").read_bytes()
    known = dict(entry.partition(b"=")[::2] for entry in raw.split(b"\0"))
    assert "WANDB_API_KEY" not in os.environ
    return known[b"WANDB_API_KEY"].decode()


def tell() -> None:
    """Prints every secret in the ways in which libraries do."""
    known = key_of_the_runner()
    print(f"token={CANARIES['hub']} wandb: {known} {CANARIES['wandb']}")
    print(f"GET https://user:{CANARIES['password']}@hub.example/api failed\r{known}\x1b[31m{CANARIES['hub']}\x1b[0m")
    print("x" * 8100 + CANARIES["hub"] * 3)


def confess() -> None:
    """At the third step the training fails with secrets in its words."""
    from lerobot import faults

    def fail(step: int) -> None:
        if step == 3:
            where = f"https://user:{CANARIES['password']}@hub.example"
            raise RuntimeError(f"401 at {where} with {CANARIES['hub']} and {key_of_the_runner()}")

    faults.before_step = fail


def trainer(job: str) -> None:
    lives = Path(os.environ["PI0Q_HOME"]) / "lives"
    begin(job, lives)
    name = next((flag[11:].strip('"') for flag in sys.orig_argv if flag.startswith("--job_name=")), "")
    if FAULT.fullmatch(name):
        os.environ["FAKE_FAULT"] = name
    if name == "stray":
        stray(lives, job)
    elif name == "ghost":
        ghost(lives, job)
    elif name == "parricide":
        os.kill(int(os.environ["PI0Q_PARENT"]), signal.SIGKILL)
    elif name == "tell":
        tell()
    elif name == "confess":
        confess()


def cut_off() -> None:
    """The queue's server dies at the moment a runner starts its trainer."""
    start: Any = subprocess.Popen.__init__

    def start_and_cut(self: Any, argv: Any, **how: Any) -> None:
        start(self, argv, **how)
        if any("pi0q_trainer" in str(part) for part in argv):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(os.environ["WITNESS_SERVER"]), signal.SIGKILL)

    subprocess.Popen.__init__ = start_and_cut  # type: ignore[assignment,method-assign]


def impatient() -> None:
    """A runner that waits for less than a second between a polite word, SIGKILL, and taking what lives for undead."""
    from pi0q.workers.host import process_tree

    process_tree.POLITE_SECONDS, process_tree.UNKILLABLE_SECONDS = 0.2, 1.0


if "WITNESS_IMPATIENT" in os.environ and "pi0q.workers.runner.runner_main" in sys.orig_argv:
    impatient()
if "WITNESS_SERVER" in os.environ and "pi0q.workers.runner.runner_main" in sys.orig_argv:
    cut_off()
#: Where the trainer's hook lies; the second is the old address, kept for one release.
HOOKS = ("workers/trainer/pi0q_trainer", "workers/run/pi0q_trainer")
if "PI0Q_JOB" in os.environ and any(part.endswith(HOOKS) for part in sys.orig_argv):
    trainer(os.environ["PI0Q_JOB"])

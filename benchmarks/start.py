"""How long a start takes: from submit to the trainer's process, and of the commands themselves; peers beside it.

    PYTHON benchmarks/start.py [--jobs 200] [--starts 15] [--out benchmarks/DATE-start.md]

PYTHON has pi0q[worker,server,bench]. One server (ops/local/server.py), one `pi0q worker` with one simulated card of
80 GiB, and beside it the peers' workers on the same server: Celery (threads, prefork), RQ (fork per job, SimpleWorker).
They take turns, one job each and a pause between, so that each finds its worker idle and all have the same noise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec, parse
from pi0q.jobs.state import ENDED, State
from pi0q.ops.local import server as servers
from pi0q.ops.server import binary
from pi0q.queue.store import Store, heard
from pi0q.queue.submission import fields_of, new_fields, put

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
#: Seconds between two jobs, drawn evenly, so that no worker's own rhythm is met again and again.
PAUSE = (0.15, 0.45)
#: Jobs in the store when `pi0q ls` is timed, and how many of them have not ended.
STORED, LIVING = 10_000, 100
PATIENCE = 60.0
#: Of the fake trainer.
STEP_SECONDS = 0.05
#: The goals of README: milliseconds, and of what.
GOAL_MEDIAN, GOAL_P99, GOAL_HELP, GOAL_LS = (100, "median"), (250, "p99"), (100, "median"), (300, "median")
PARTS = ("submit to claimed", "claimed to preparing", "preparing to running")
JOB: dict[str, Any] = {
    "name": "start",
    "resources": {"gpus": 1, "vram": "40GiB", "disk": "10MiB"},
    "train": {
        "dataset": {"repo_id": "local/grab_box", "root": "datasets/grab_box"},
        "policy": {"type": "act", "device": "cuda", "push_to_hub": False, "pretrained_backbone_weights": None},
        "steps": 1,
    },
}
CAVEATS = """\
How to read it

- pi0q's end point is the record's `running`, written behind the fork of the trainer's process: a whole new Python,
  VRAM and disk measured, lease and promises written, run directory and log made. A peer's is the first line of its
  task's body. The work is not the same; the peers show what the transport costs on this machine.
- Server, workers and the measuring process share this machine. Clocks: pi0q's is the server's, in whole milliseconds.
- The card is simulated (NVML is not asked); the trainer is tests/fake_lerobot with one step.
- The contestants take turns, a job each, pauses of 0.15 to 0.45 s between, so each worker is idle when its job comes.
- *End of a job to the next one's trainer*: the queue holds the next job already; each trains for 2 s.
- The floors: `--help` can't be faster than Python with click; `ls` needs redis-py, whose import brings its asyncio and
  cluster halves along, and rich.
- A ratio is that of the medians to the first row's."""


@contextlib.contextmanager
def worker(argv: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[None]:
    """A worker's process, in a session of its own, until the block ends."""
    with log.open("ab") as out:
        started = subprocess.Popen(argv, env=dict(env), cwd=log.parent, stdout=out, stderr=out, start_new_session=True)
    try:
        yield
    finally:
        servers.end(started, 10.0)


def env_of(home: Path, url: str) -> dict[str, str]:
    """Environment of pi0q's box and of the peers' workers."""
    left_out = ("PI0Q_", "PYTHONDONTWRITEBYTECODE")  # An installed package has its bytecode.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    paths = [str(HERE), str(HERE.parent / "tests" / "fake_lerobot"), clean.get("PYTHONPATH", "")]
    return clean | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PI0Q_REDIS_URL": url,
        "PI0Q_HOME": str(home),
        "PI0Q_TRAINER_PYTHON": sys.executable,
        "PI0Q_SYSTEM_DISK_RESERVE_MIB": "0",
        "PI0Q_FAKE_GPUS": json.dumps([{"name": "simulated", "total_gib": 80}]),
        "FAKE_STEP_SECONDS": str(STEP_SECONDS),
        "NOOP_REDIS_URL": url,
    }


def command(name: str, *args: str) -> list[str]:
    """A command of this interpreter's environment; pi0q's also where it is not installed."""
    if name == "pi0q" and not (BIN / name).exists():
        return [sys.executable, "-m", "pi0q.queue.cli", *args]
    return [str(BIN / name), *args]


def workers(url: str) -> dict[str, list[str]]:
    """Whose worker is started how."""
    celery = command("celery", "-A", "noop_celery", "worker", "--without-mingle", "--without-gossip", "-c", "1")
    rq = command("rq", "worker", "--url", url)
    return {
        "pi0q": command("pi0q", "worker", "--name", "bench"),
        "Celery, threads": [*celery, "-P", "threads", "-Q", "threads", "-n", "threads@bench"],
        "Celery, prefork": [*celery, "-P", "prefork", "-Q", "prefork", "-n", "prefork@bench"],
        "RQ, fork per job": [*rq, "fork"],
        "RQ, SimpleWorker": [*rq, "-w", "rq.worker.SimpleWorker", "simple"],
    }


# -- submit to start ----------------------------------------------------------------------------------


def comes_to(store: Store, job_id: str, met: Callable[[Record], bool]) -> Record:
    """Waits on the job's own words."""
    deadline, listening = time.monotonic() + PATIENCE, store.subscribe("changes")
    try:
        while not met(record := store.get(job_id)):
            if time.monotonic() > deadline:
                raise SystemExit(f"{job_id} did not come on: {record}")
            list(heard(listening, 1.0))
        return record
    finally:
        listening.close()


def pi0q_start(store: Store, spec: Spec) -> dict[str, float]:
    """Milliseconds of one job: submit to `running`, which is said behind the trainer's fork, and its parts."""
    submitted = time.time() * 1000
    job_id = put(store, new_fields(spec))["id"]
    record = comes_to(store, job_id, lambda job: job.state in ENDED)
    if record.state is not State.SUCCEEDED:
        raise SystemExit(f"the job ended as {record.state}: {record.detail}")
    at = {event.state: event.at_ms for event in reversed(record.history)}
    return {
        "submit to running": at[State.RUNNING] - submitted,
        "submit to claimed": at[State.CLAIMED] - submitted,
        "claimed to preparing": at[State.PREPARING] - at[State.CLAIMED],
        "preparing to running": at[State.RUNNING] - at[State.PREPARING],
    }


def in_a_row(store: Store, count: int) -> list[float]:
    """Milliseconds from one job's end to the next one's trainer, where the next waits already; each trains 2 s."""
    longer = JOB | {"train": JOB["train"] | {"steps": round(2 / STEP_SECONDS)}}
    spec = parse(json.dumps(longer), filename="start.yaml")
    ids = [put(store, new_fields(spec))["id"] for _ in range(count + 1)]
    jobs = [comes_to(store, job_id, lambda job: job.state in ENDED) for job_id in ids]
    started = [next(event.at_ms for event in job.history if event.state is State.RUNNING) for job in jobs]
    ended = [float(job.ended_ms or 0) for job in jobs]
    return [start - end for start, end in zip(started[1:], ended, strict=False)]


def peers(url: str) -> dict[str, Callable[[str], Any]]:
    """How each peer that is installed is given its no-op."""
    os.environ["NOOP_REDIS_URL"] = url
    sys.path.insert(0, str(HERE))
    from noop_celery import celery_noop

    found: dict[str, Callable[[str], Any]] = {
        "Celery, threads": lambda answer: celery_noop.apply_async((answer,), queue="threads"),
        "Celery, prefork": lambda answer: celery_noop.apply_async((answer,), queue="prefork"),
    }
    try:
        import rq
    except ImportError:
        return found
    client = redis.Redis.from_url(url)
    fork, simple = rq.Queue("fork", connection=client), rq.Queue("simple", connection=client)
    return found | {
        "RQ, fork per job": lambda answer: fork.enqueue("noop.noop", answer),
        "RQ, SimpleWorker": lambda answer: simple.enqueue("noop.noop", answer),
    }


def peer_start(client: Any, publish: Callable[[str], Any]) -> float:
    """Milliseconds from just before the publish to the first line of the task's body."""
    at = time.time()
    publish("noop:answer")
    answer = client.blpop(["noop:answer"], timeout=PATIENCE)
    if answer is None:
        raise SystemExit("a peer's worker did not answer")
    return (float(answer[1]) - at) * 1000


def measure_starts(store: Store, url: str, jobs: int) -> dict[str, list[float]]:
    """Rounds of one job each; the first two warm up and do not count."""
    spec, publishers, client = parse(json.dumps(JOB), filename="start.yaml"), peers(url), redis.Redis.from_url(url)
    found: dict[str, list[float]] = {}
    for index in range(jobs + 2):
        times = pi0q_start(store, spec)
        for name, publish in publishers.items():
            time.sleep(random.uniform(*PAUSE))
            times[name] = peer_start(client, publish)
        time.sleep(random.uniform(*PAUSE))
        if index >= 2:
            for name, value in times.items():
                found.setdefault(name, []).append(value)
        if index % 20 == 0:
            print(f"round {index} of {jobs}", file=sys.stderr, flush=True)
    return found


# -- start-up of the commands -------------------------------------------------------------------------


def fill(store: Store) -> None:
    """10,000 jobs, all but the last hundred ended."""
    spec = parse(json.dumps(JOB), filename="start.yaml")
    for index in range(STORED):
        job_id = f"{index:012x}"
        store.submit(job_id, fields_of(spec, job_id, submitter="bench@bench"), text="submitted")
        if index < STORED - LIVING:
            store.cancel(job_id, text="cancelled")


def measure_commands(url: str, home: Path, starts: int) -> dict[str, list[float]]:
    """Milliseconds of whole processes, taking turns; the first of each warms up and does not count."""
    env = env_of(home, url) | {"PI0Q_PREFIX": "full:"}
    argvs = {
        "pi0q --help": command("pi0q", "--help"),
        f"pi0q ls, {STORED:,} jobs": command("pi0q", "ls"),
        "celery --help": command("celery", "--help"),
        "rq --help": command("rq", "--help"),
        "python, nothing": [sys.executable, "-c", "pass"],
        "python, `import click`": [sys.executable, "-c", "import click"],
        "python, `import redis`": [sys.executable, "-c", "import redis"],
    }
    found: dict[str, list[float]] = {name: [] for name in argvs}
    for index in range(starts + 1):
        for name, argv in argvs.items():
            begun = time.perf_counter()
            subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL)
            if index:
                found[name].append((time.perf_counter() - begun) * 1000)
    return found


# -- the report ---------------------------------------------------------------------------------------


def p99(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def goal(measured: float, limit: float, of: str) -> str:
    return f"{of} {limit} ms: {'met' if measured <= limit else 'MISSED'}"


def table(title: str, times: Mapping[str, Sequence[float]], goals: Mapping[str, str]) -> str:
    """A Markdown table that also reads well on a terminal; the ratio is that of the medians to the first row's."""
    first = statistics.median(next(iter(times.values())))
    lines: list[tuple[str, ...]] = [(title, "n", "min", "median", "p99", "max", "ratio", "goal")]
    for name, values in times.items():
        median = statistics.median(values)
        numbers = (f"{number:.1f}" for number in (min(values), median, p99(values), max(values)))
        lines.append((name, str(len(values)), *numbers, f"{median / first:.2f}", goals.get(name, "")))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]])


def stolen() -> tuple[int, int]:
    """CPU time that the hypervisor gave to others, and all CPU time, in ticks since the boot."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return ticks[7], sum(ticks[:8])


def machine() -> str:
    """Where and with what this runs."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line), "CPU")
    packages = ", ".join(f"{name} {version(name)}" for name in ("pi0q", "celery", "kombu", "redis", "rq"))
    server = subprocess.run([binary.find_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return (
        f"{model}, {os.cpu_count()} cores; {platform.system()} {platform.release()}; "
        f"Python {platform.python_version()}; "
        f"{packages}; {' '.join(server.split()[:3])}"
    )


def noise(before: tuple[int, int], after: tuple[int, int]) -> str:
    """How far this machine had its CPU to itself."""
    load = " ".join(f"{number:.2f}" for number in os.getloadavg())
    share = (after[0] - before[0]) / max(1, after[1] - before[1])
    return f"load average at the end {load}; {share:.0%} of the CPU time was stolen by the hypervisor"


def report(starts: dict[str, list[float]], commands: dict[str, list[float]], noise: str) -> str:
    """The whole report in Markdown."""
    whole, row = starts["submit to running"], starts.pop("in a row")
    parts = {name: starts[name] for name in PARTS}
    theirs = {name: starts[name] for name in starts if name not in {"submit to running", *PARTS}}
    beside = {"pi0q, to the trainer": whole} | theirs
    start_goals = (goal(statistics.median(whole), *GOAL_MEDIAN), goal(p99(whole), *GOAL_P99))
    helped, listed = (statistics.median(values) for values in list(commands.values())[:2])
    command_goals = (goal(helped, *GOAL_HELP), goal(listed, *GOAL_LS))
    return "\n\n".join(
        [
            f"# Start-up, {time.strftime('%Y-%m-%d')}",
            f"`make bench`, that is `python {' '.join(['benchmarks/start.py', *sys.argv[1:]])}`; milliseconds.",
            f"- {machine()}\n- {noise}",
            "## From submit to start, worker idle",
            table("", beside, {"pi0q, to the trainer": "; ".join(start_goals)}),
            "## pi0q's part by part",
            table("", {"submit to running": whole} | parts | {"end of a job to the next one's trainer": row}, {}),
            "## Commands, whole processes",
            table("", commands, dict(zip(commands, command_goals, strict=False))),
            CAVEATS,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="jobs of each, one after another")
    parser.add_argument("--starts", type=int, default=15, help="starts of each command")
    parser.add_argument("--out", type=Path, help="where the report goes besides the terminal")
    args = parser.parse_args()
    before = stolen()
    with tempfile.TemporaryDirectory(prefix="pi0q-bench-") as name, contextlib.ExitStack() as cluster:
        home = Path(name) / "home"
        meta = home / "datasets" / "grab_box" / "meta"
        meta.mkdir(parents=True)
        (meta / "info.json").write_text("{}")
        port = servers.choose_port(0, default=0, option="--port")
        server = servers.start(Path(name) / "server", port=port, log=Path(name) / "server.log")
        cluster.callback(server.stop)
        client = redis.Redis.from_url(server.url, decode_responses=True)
        with contextlib.ExitStack() as shift:
            for who, argv in workers(server.url).items():
                shift.enter_context(worker(argv, env_of(home, server.url), home / f"{who}.log"))
            starts = measure_starts(Store(client), server.url, args.jobs)
            starts["in a row"] = in_a_row(Store(client), max(5, args.jobs // 10))
        fill(Store(client, "full:"))
        commands = measure_commands(server.url, home, args.starts)
    text = report(starts, commands, noise(before, stolen()))
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

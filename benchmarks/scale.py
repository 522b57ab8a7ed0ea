"""What grows with jobs and boxes, and how far: claims, wakes, sweeps, commands; peers and bounds beside it.

    PYTHON benchmarks/scale.py [--quick] [--only depth,burst] [--out benchmarks/DATE-scale.md]

PYTHON has pi0q[worker,server,bench]. Each part has a server of its own (ops/local/server.py, appendfsync always except
while it is filled). `--quick` takes 5,000 jobs and 100 boxes and less than two minutes, and says how long it took; else
100,000 and 1,000. A peer that is not installed is named as missing; where no peer has the like, the bound is what the
bare server does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import redis
import scale_boxes
import start
from scale_boxes import Tally

from pi0q.jobs.spec import Spec, parse
from pi0q.jobs.state import State
from pi0q.ops.local import server as servers
from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimant, Reservation
from pi0q.queue.submission import fields_of
from pi0q.queue.waiting_index import ScanPosition

#: Processes that submit at full speed.
FILLERS = 3
MISSING = "not installed"
#: Ends the name of a series of CPU times.
CPU = ", CPU"
#: 300 ms on a machine that imports redis-py in 130.
BOXES_RATIO = 2.3
CLAIMANT = Claimant(box="bench", boot="boot", lease_seconds=600.0)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large one run is."""

    jobs: int
    boxes: int
    real_boxes: int
    rounds: int
    #: Jobs that fit nowhere beside an idle box; seconds until it has asked the preflight of all, ten at each beat; and
    #: seconds for which its traffic is then counted.
    unfit: int
    settle_seconds: float
    idle_seconds: float


QUICK = Size(jobs=5_000, boxes=100, real_boxes=10, rounds=4, unfit=10, settle_seconds=12.0, idle_seconds=5.0)
#: What a whole `--quick` may take.
QUICK_SECONDS = 120.0
FULL = Size(jobs=100_000, boxes=1000, real_boxes=50, rounds=15, unfit=250, settle_seconds=300.0, idle_seconds=60.0)


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    what: str
    measured: str
    goal: str = ""
    met: bool | None = None
    #: A peer's number, or the bound.
    beside: str = ""


@dataclass
class Bench:
    """One server with a store, and what its work cost since `mark`."""

    server: servers.Server
    base: Path
    prefix: str = "pi0q:"
    marked: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = redis.Redis.from_url(self.server.url, decode_responses=True)
        self.store = Store(self.client, self.prefix)

    def mark(self) -> None:
        self.marked = self._counters()

    def since(self) -> dict[str, float]:
        """CPU seconds of the server's main thread and bytes to and from it, since `mark`."""
        return {name: value - self.marked[name] for name, value in self._counters().items()}

    def _counters(self) -> dict[str, float]:
        cpu, net = self.client.info("cpu"), self.client.info("stats")
        return {
            "cpu": cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"],
            "out": net["total_net_output_bytes"],
            "in": net["total_net_input_bytes"],
        }

    def fill(self, first: int, count: int, *, gib: int = 40, name: str = "start") -> None:
        """Submit jobs by several processes; their ids are numbers."""
        self.client.config_set("appendfsync", "no")
        processes = self.submitters(first, count, gib, name)
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        self.client.config_set("appendfsync", "always")

    def submitters(self, first: int, count: int, gib: int, name: str) -> list[multiprocessing.Process]:
        """Processes that submit so many jobs as fast as they can."""
        share, end = -(-count // FILLERS), first + count
        parts = [(at, min(share, end - at)) for at in range(first, end, share)]
        return [
            multiprocessing.Process(target=submit_many, args=(self.server.url, self.prefix, at, part, gib, name))
            for at, part in parts
        ]


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A server of its own for one part."""
    with tempfile.TemporaryDirectory(prefix="pi0q-scale-") as name:
        base = Path(name)
        (base / "home").mkdir()
        port = servers.choose_port(0, default=0, option="--port")
        server = servers.start(base / "server", port=port, log=base / "server.log")
        try:
            yield Bench(server, base)
        finally:
            server.stop()


def a_spec(gib: int, name: str = "start") -> Spec:
    job = start.JOB | {"name": name, "resources": start.JOB["resources"] | {"vram": f"{gib}GiB"}}
    return parse(json.dumps(job), filename="scale.yaml")


def job_id(number: int) -> str:
    return f"{number:012x}"


def submit_many(url: str, prefix: str, first: int, count: int, gib: int, name: str) -> list[float]:
    """Submit one after another; milliseconds of each."""
    store, spec, took = Store(redis.Redis.from_url(url, decode_responses=True), prefix), a_spec(gib, name), []
    for number in range(first, first + count):
        fields = fields_of(spec, job_id(number), submitter="bench@bench")
        began = time.perf_counter()
        store.submit(job_id(number), fields, text="submitted by bench@bench")
        took.append((time.perf_counter() - began) * 1000)
    return took


def quantiles(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} / {start.p99(values):.2f} ms"


# -- one server, many waiting jobs ----------------------------------------------------------------


def depth(size: Size) -> list[Row]:
    """Claims, late claims, the sweep and a job that fits, behind very many."""
    with bench() as on:
        on.fill(0, size.jobs)
        newest = submit_many(on.server.url, on.prefix, size.jobs, 200, 40, "start")
        rows = [Row(f"submit, {size.jobs:,} waiting, p50 / p99", quantiles(newest), beside=publish_of(on))]
        worst, places = 0.0, {"first": 0, "in the middle": size.jobs // 2, "last": size.jobs + 199 - size.rounds}
        for place, first in places.items():
            wall, script, _ = timed(on, size.rounds, lambda n, first=first: claim(on.store, first + n, "claimed"))
            worst = max(worst, script)
            rows.append(Row(f"claim, {place} of {size.jobs:,}, p50 / p99; script p50", f"{wall}; {script:.2f} ms"))
        rows.append(Row("- the dearest place, script p50", f"{worst:.2f} ms", "<= 1 ms", worst <= 1, move_of(on)))
        wall, script, _ = timed(on, size.rounds, lambda n: claim(on.store, n, "gone", box="late"))
        what = "claim that came too late, p50 / p99; script p50"
        rows.append(Row(what, f"{wall}; {script:.2f} ms", "<= 0.3 ms", script <= 0.3))
        return [*rows, sweep(on, size), fitting(on, size)]


def claim(store: Store, number: int, expected: str, box: str = "bench") -> None:
    who = Claimant(box=box, boot="boot", lease_seconds=600.0)
    answer = store.claim(job_id(number), who, Reservation(), text="measured by the benchmark")
    assert answer == expected if isinstance(answer, str) else expected == "claimed", answer


def timed(on: Bench, rounds: int, act: Callable[[int], None]) -> tuple[str, float, float]:
    """Wall time, p50 / p99, as text; p50 and p99 of the scripts by the server's own clock, milliseconds."""
    took = []
    on.client.config_resetstat()
    for number in range(rounds):
        began = time.perf_counter()
        act(number)
        took.append((time.perf_counter() - began) * 1000)
    known = on.client.info("latencystats")["latency_percentiles_usec_evalsha"]
    return quantiles(took), float(known["p50"]) / 1000, float(known["p99"]) / 1000


def sweep(on: Bench, size: Size) -> Row:
    """The steps of the sweep."""

    def step(_: int) -> None:
        on.client.delete(on.prefix + "swept")
        on.store.sweep()

    _, median, worst = timed(on, size.rounds, step)
    what = f"one step of the sweep, {size.jobs:,} waiting, script: p50 / p99"
    return Row(what, f"{median:.1f} / {worst:.1f} ms", "<= 5 ms a step", worst <= 5)


def fitting(on: Bench, size: Size) -> Row:
    """How soon a small box learns of the one job that fits it, behind all others."""
    submit_many(on.server.url, on.prefix, 1 << 40, 1, 8, "small")
    began = time.perf_counter()
    found = on.store.next_candidates("small", (24 * 1024,), ScanPosition())
    took = (time.perf_counter() - began) * 1000
    seen = [one.id for one in found.found] == [job_id(1 << 40)]
    told = f"found in one look of {took:.1f} ms" if seen else f"not found in one look: {found}"
    return Row(f"a job that fits behind {size.jobs:,} that do not", told, "claimed within one wake, at any depth", seen)


def publish_of(on: Bench) -> str:
    """What Celery's and RQ's own submit takes on this server."""
    peers, told = start.peers(on.server.url), []
    for name in ("Celery, threads", "RQ, fork per job"):
        took = []
        for _ in range(100 if name in peers else 0):
            began = time.perf_counter()
            peers[name]("noop:unheard")
            took.append((time.perf_counter() - began) * 1000)
        told.append(f"{name.partition(',')[0]} {quantiles(took) if took else MISSING}")
    return "; ".join(told)


def move_of(on: Bench) -> str:
    """The bound: the server moves one message from list to list, with its fsync."""
    took = []
    on.client.rpush("bound:from", *("x" * 900 for _ in range(200)))
    for _ in range(200):
        began = time.perf_counter()
        on.client.lmove("bound:from", "bound:to", "RIGHT", "LEFT")
        took.append((time.perf_counter() - began) * 1000)
    return f"bound, a bare LMOVE: {quantiles(took)}"


# -- many boxes -----------------------------------------------------------------------------------


def burst(size: Size) -> list[Row]:
    """As many jobs as boxes at full speed: simulated boxes that ask and claim, judging left out."""
    workers = min(8, max(2, (os.cpu_count() or 2) - 2))
    names = [f"box{number:04d}" for number in range(size.boxes)]
    with bench() as on:
        ready, results = multiprocessing.Barrier(workers * scale_boxes.THREADS + 1), multiprocessing.SimpleQueue()
        slices = [(on.server.url, on.prefix, names[at::workers], ready, results) for at in range(workers)]
        serving = [multiprocessing.Process(target=scale_boxes.serve_slice, args=args) for args in slices]
        submitting = on.submitters(1 << 30, size.boxes, 8, "burst")
        for process in serving:
            process.start()
        ready.wait(120.0)
        on.mark()
        for process in submitting:
            process.start()
        tally = Tally.added(results.get() for _ in range(workers * scale_boxes.THREADS))
        cost, spans = on.since(), claim_waits(on.store, size.boxes)
        for process in [*serving, *submitting]:
            process.join()
    what = f"{size.boxes:,} simulated boxes in {workers} processes, {size.boxes:,} jobs at once"
    return burst_rows(what, tally, cost, spans, bound=blpop_bound(size.boxes))


def claim_waits(store: Store, count: int) -> list[tuple[int, int]]:
    """When each job was submitted and when it was claimed, server's milliseconds."""
    found = []
    for number in range(count):
        history = store.get(job_id((1 << 30) + number)).history
        claimed = [event.at_ms for event in history if event.state is State.CLAIMED]
        found += [(history[0].at_ms, claimed[0])] if claimed else []
    return found


def burst_rows(what: str, tally: Tally, cost: dict[str, float], spans: list[tuple[int, int]], bound: str) -> list[Row]:
    waits = [claimed - submitted for submitted, claimed in spans]
    came = [submitted for submitted, _ in spans]
    offered = len(came) / max(0.001, (max(came) - min(came)) / 1000)
    seconds = (max(claimed for _, claimed in spans) - min(submitted for submitted, _ in spans)) / 1000
    rate, each, worst, sent = len(waits) / seconds, tally.attempts / len(waits), start.p99(waits), cost["out"] / 2**20
    return [
        Row(f"{what}: claims a second", f"{rate:.0f} of {offered:.0f} submitted", ">= 300", rate >= 300, bound),
        Row("- wait, median / p99", f"{statistics.median(waits):.0f} / {worst:.0f} ms", "p99 <= 3.5 s", worst <= 3500),
        Row("- attempts a claim", f"{each:.2f} ({dict(tally.answers)}, {tally.looks} looks)", "<= 3", each <= 3),
        Row("- sent to the boxes", f"{sent:.0f} MiB", "<= 200 MiB", sent <= 200),
        Row("- server CPU a claim", f"{cost['cpu'] / len(waits) * 1000:.2f} ms"),
        Row("- claim call, p50 / p99", quantiles(tally.claim_ms)),
    ]


def blpop_bound(count: int) -> str:
    """What RQ's and Celery's workers do: as many clients as boxes wait in BLPOP, each takes one message."""
    with bench() as on:
        clients = [redis.Redis.from_url(on.server.url) for _ in range(min(count, 200))]
        waiting = [client.connection_pool.get_connection() for client in clients]
        for connection in waiting:
            connection.send_command("BLPOP", "bound:queue", 0)
        began = time.perf_counter()
        for _ in waiting:
            on.client.rpush("bound:queue", "x" * 900)
        for connection in waiting:
            connection.read_response()
            connection.disconnect()
        seconds = time.perf_counter() - began
    return f"bound, {len(waiting)} clients in BLPOP: {len(waiting) / seconds:.0f} a second"


def herd(size: Size) -> list[Row]:
    """Boxes with pi0q's own agent in one process: measuring and judging included, one GIL for all."""
    with bench() as on:
        tally = Tally()
        boxes = [
            scale_boxes.real_box(on.base, on.server.url, on.prefix, f"box{number:04d}", tally)
            for number in range(size.real_boxes)
        ]
        with scale_boxes.agents(boxes):
            wait_for(lambda: len(on.store.boxes()) == len(boxes), 120)
            time.sleep(2.0)
            tally.answers.clear()
            on.mark()
            submit_many(on.server.url, on.prefix, 1 << 30, size.real_boxes, 8, "burst")
            wait_for(lambda: tally.answers["claimed"] >= size.real_boxes, 120)
            cost = on.since()
        spans = claim_waits(on.store, size.real_boxes)
    waits, count = [claimed - submitted for submitted, claimed in spans], size.real_boxes
    attempts, cpu = tally.attempts / len(waits), cost["cpu"] / len(waits) * 1000
    what = f"{count} real boxes in one process, {count} jobs at once: attempts a claim"
    return [
        Row(what, f"{attempts:.2f}", "<= 3", attempts <= 3),
        Row("- wait, median / p99", f"{statistics.median(waits):.0f} / {start.p99(waits):.0f} ms"),
        Row("- server CPU a claim", f"{cpu:.1f} ms"),
    ]


def wait_for(met: Callable[[], object], seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not met():
        if time.monotonic() > give_up:
            raise SystemExit(f"not within {seconds:.0f} s: {met}")
        time.sleep(0.05)


# -- one idle box ---------------------------------------------------------------------------------


def idle(size: Size) -> list[Row]:
    """A real `pi0q worker` beside an empty queue, then beside jobs that fit nowhere; its connections."""
    with bench() as on:
        env = start.env_of(on.base / "home", on.server.url)
        before = on.client.info("clients")["connected_clients"]
        with start.worker(start.command("pi0q", "worker", "--name", "bench"), env, on.base / "home" / "worker.log"):
            wait_for(lambda: [box for box in on.store.boxes() if box.get("status") == "ready"], 120)
            time.sleep(min(10.0, size.settle_seconds / 2))
            held = on.client.info("clients")["connected_clients"] - before
            empty = traffic(on, size.idle_seconds)
            submit_many(on.server.url, on.prefix, 0, size.unfit, 200, "unfit")
            time.sleep(size.settle_seconds)
            beside = traffic(on, size.idle_seconds)
    above = max(0.0, beside - empty)
    what = f"idle box, {size.unfit} unfit jobs wait: traffic above an empty queue's, both directions"
    told = f"{above / 1e6:.0f} MB a day (the empty queue's {empty / 1e6:.0f})"
    return [
        Row("connections of an idle box, standby runner included", str(held), "<= 6", held <= 6),
        Row(what, told, "<= 50 MB a day", above <= 50e6),
    ]


def traffic(on: Bench, seconds: float) -> float:
    """Bytes a day between boxes and server, by what passes in a while; our own questions are taken off."""
    on.mark()
    own = on.since()
    on.mark()
    time.sleep(seconds)
    cost = on.since()
    return max(0.0, sum(cost[way] - own[way] for way in ("in", "out"))) * 86_400 / seconds


# -- commands -------------------------------------------------------------------------------------


def commands(size: Size) -> list[Row]:
    """Whole processes, taking turns, by their ratio to `import redis` in the same run."""
    with bench() as on:
        on.fill(0, 1000)
        announce_boxes(on.store, 1000)
        file = on.base / "job.yaml"
        file.write_text(json.dumps(start.JOB))
        env = start.env_of(on.base / "home", on.server.url)
        some = job_id(500)
        argvs = {
            "import redis": [sys.executable, "-c", "import redis"],
            "ls": start.command("pi0q", "ls"),
            "show": start.command("pi0q", "show", some),
            "why": start.command("pi0q", "why", some),
            "boxes": start.command("pi0q", "boxes"),
            "submit FILE": start.command("pi0q", "submit", "--again", str(file)),
        }
        few = env | {"PI0Q_PREFIX": "few:"}
        for number in range(20):
            Store(on.client, "few:").submit(
                job_id(number), fields_of(a_spec(40), job_id(number), submitter="b"), text=""
            )
        argvs_few = {name: [word if word != some else job_id(5) for word in argv] for name, argv in argvs.items()}
        small, large = run_rounds(argvs_few, few, size.rounds), run_rounds(argvs, env, size.rounds)
    goals = {"ls": 0.85, "show": 0.85, "why": 0.85, "submit FILE": 0.95}
    rows = [ratio_row(name, small, goal) for name, goal in goals.items()]
    return [*rows, *(boxes_row(name, large) for name in ("why", "boxes", "show")), *peer_commands(size, few)]


def ratio_row(name: str, times: dict[str, list[float]], goal: float) -> Row:
    ratio, told = ratio_of(name, times)
    beside = f"`import redis` {statistics.median(times['import redis']):.0f} ms"
    return Row(f"`pi0q {name}`, ratio to `import redis`", told, f"<= {goal}", ratio <= goal, beside)


def boxes_row(name: str, times: dict[str, list[float]]) -> Row:
    ratio, told = ratio_of(name, times)
    goal = f"<= 300 ms where `import redis` takes 130: <= {BOXES_RATIO}"
    return Row(f"`pi0q {name}`, 1,000 boxes, ratio to `import redis`", told, goal, ratio <= BOXES_RATIO)


def ratio_of(name: str, times: dict[str, list[float]]) -> tuple[float, str]:
    """The ratio of the medians of CPU time, which holds under load, and in words that of the wall times as well."""
    cpu, wall = (
        statistics.median(times[name + kind]) / statistics.median(times["import redis" + kind]) for kind in (CPU, "")
    )
    least = min(times[name]) / min(times["import redis"])
    return cpu, f"CPU {cpu:.2f}; wall {wall:.2f}, of the minima {least:.2f} ({statistics.median(times[name]):.0f} ms)"


def run_rounds(argvs: dict[str, list[str]], env: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of whole processes, and by `NAME, CPU` of their CPU, taking turns; the first of each warms up."""
    found: dict[str, list[float]] = {name + kind: [] for name in argvs for kind in ("", CPU)}
    for index in range(rounds + 1):
        for name, argv in argvs.items():
            began, used = time.perf_counter(), children_cpu()
            subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if index:
                found[name].append((time.perf_counter() - began) * 1000)
                found[name + CPU].append((children_cpu() - used) * 1000)
    return found


def children_cpu() -> float:
    """CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def announce_boxes(store: Store, count: int) -> None:
    """Boxes that announced what a real one does while 200 jobs do not fit its disk."""
    told = {
        job_id(number): [{"kind": "problem", "text": "disk: needs 81.4 GiB, 20.1 GiB free" + " " * 60}]
        for number in range(200)
    }
    card = {"uuid": "GPU-1", "name": "H100", "free_mib": 80_000, "total_mib": 81_920}
    fields = {
        "status": "ready", "boot": "b", "version": "0", "gpus": json.dumps([card]), "free_mib": "[80000]",
        "disk_free_mib": 20_000, "home": "/root/pi0q", "hf_home": "/root/hf", "slots": 1, "running": 0,
        "lerobot": "0.6.1", "note": "", "refusals": json.dumps(told), "plans": "{}",
    }  # fmt: skip
    for number in range(count):
        store.announce_box(f"box{number:04d}", f"id{number}", fields)


def peer_commands(size: Size, env: dict[str, str]) -> list[Row]:
    """The peers' own start-up."""
    argvs = {"celery --help": start.command("celery", "--help"), "rq --help": start.command("rq", "--help")}
    argvs |= {name: [name, *args] for name, args in (("tsp", []), ("squeue", [])) if shutil.which(name)}
    there = {name: argv for name, argv in argvs.items() if shutil.which(argv[0])}
    times = run_rounds(there, env, max(3, size.rounds // 3))
    told = [f"{name} {statistics.median(values):.0f} ms" for name, values in times.items() if not name.endswith(CPU)]
    told += [f"{name} {MISSING}" for name in ("tsp", "squeue") if not shutil.which(name)]
    return [Row("peers' commands", "; ".join(told))]


# -- submit to trainer ----------------------------------------------------------------------------


def trainer(size: Size) -> list[Row]:
    """Submit to trainer on an idle box, by start.py with its peers; task-spooler and Slurm where they are installed."""
    with bench() as on, contextlib.ExitStack() as shift:
        home = on.base / "home"
        (home / "datasets" / "grab_box" / "meta").mkdir(parents=True)
        (home / "datasets" / "grab_box" / "meta" / "info.json").write_text("{}")
        for who, argv in start.workers(on.server.url).items():
            if who == "pi0q" or shutil.which(argv[0]):
                shift.enter_context(start.worker(argv, start.env_of(home, on.server.url), home / f"{who}.log"))
        times = start.measure_starts(on.store, on.server.url, size.rounds)
        tools = spoolers(on.base, size.rounds)
    whole = times["submit to running"]
    peers = {name: values for name, values in times.items() if name.startswith(("Celery", "RQ"))}
    told = [f"{name} {statistics.median(values):.1f}" for name, values in (peers | tools).items()]
    told += [f"{name} {MISSING}" for name in ("Celery", "RQ") if not any(one.startswith(name) for one in peers)]
    told += [f"{name} {MISSING}" for name in ("tsp", "srun") if name not in tools]
    median, worst = statistics.median(whole), start.p99(whole)
    parts = " / ".join(f"{statistics.median(times[part]):.1f}" for part in start.PARTS)
    told_of = f"{median:.1f} ms (by part {parts})"
    return [
        Row("submit to trainer, median", told_of, "<= 25 ms", median <= 25, "; ".join(told)),
        Row("submit to trainer, p99", f"{worst:.1f} ms of {len(whole)}", "<= 80 ms", worst <= 80),
    ]


def spoolers(base: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds from before the command to the first line of its job, of the tools that are installed."""
    answer, script = base / "answer", base / "answer.sh"
    script.write_text(f"#!/bin/sh\ndate +%s.%N > {answer}.new && mv {answer}.new {answer}\n")
    script.chmod(0o755)
    env = os.environ | {"TS_SOCKET": str(base / "ts")}
    argvs = {"tsp": ["tsp", "-n", str(script)], "srun": ["srun", "-Q", "-n1", str(script)]}
    found: dict[str, list[float]] = {}
    for name in (name for name in argvs if shutil.which(name)):
        for _ in range(rounds):
            answer.unlink(missing_ok=True)
            began = time.time()
            subprocess.run(argvs[name], check=True, stdout=subprocess.DEVNULL, env=env)
            wait_for(answer.exists, 60)
            found.setdefault(name, []).append((float(answer.read_text()) - began) * 1000)
    return found


# -- the report -----------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Size], list[Row]]] = {
    "depth": depth,
    "burst": burst,
    "herd": herd,
    "idle": idle,
    "commands": commands,
    "trainer": trainer,
}
CAVEATS = """\
## How to read it

- Server, boxes and measuring process share this machine: wall times grow with its load, which each part states. The
  server's own times of its scripts (INFO latencystats, the median), attempts and bytes hold better.
- *Simulated boxes* ask and claim by the Store's own methods, in the agent's order; measuring and judging are left out,
  and a few threads serve all, each with two connections. *Real boxes* are pi0q's agents, threads of one process with
  one GIL; they start no runner.
- Cards are simulated; the trainer is tests/fake_lerobot. A peer's end point is the first line of its task.
- The bound of a claim is one LMOVE with its fsync, that of a burst as many clients in BLPOP: what the bare server does,
  without a record, a lease, a promise or a need.
- A ratio to `import redis`, of CPU time most of all, holds on slow and fast machines alike; the milliseconds are this
  machine's."""
HUNDRED_THOUSAND = """\
## On paper: 100,000 boxes

One server runs its scripts on one core. What such a fleet asks of it, by the costs above and in `docs/server.md`:

- *Heartbeats* come each 10 s: 10,000 a second, at 0.1 to 0.3 ms each one to three cores. A beat of 60 s, which a lease
  of 600 s allows, makes that a third of a core.
- *Reports*: 100,000 running jobs that report each 10 s, 0.16 ms each, take 1.6 cores.
- *Connections*: six a box are 600,000; a server takes 10,000 as it is delivered and some 60,000 with larger limits. A
  proxy on each site, which shares its connections and passes wakes on, is needed before any sharding.
- *Claims and submits* take half a millisecond each; 100,000 boxes whose jobs last an hour need 28 a second.

So the step is to shard by queue, not to make one server faster. A queue (of a team, a site, a kind of GPU) lives whole
on one server, and a box asks the two or three queues that it serves. Within a queue every script stays atomic. In a
Redis cluster all keys of a script must lie in one slot. All keys begin with the prefix, which is KEYS[1] of every
script, so a prefix with a hash tag (`PI0Q_PREFIX='pi0q:{site-a}:'`) keeps a queue in one slot with the scripts as they
are.

Not ready for it: clients of a cluster (redis-py's RedisCluster, Celery's transport; a script's other keys are derived
from the prefix and not declared), a box that listens to several prefixes, `pi0q ls` over several queues, one name space
of jobs (`lookup`) over all queues."""


def rendered(rows: Sequence[Row]) -> str:
    lines = [("what", "measured", "goal", "", "beside")]
    marks = {True: "met", False: "MISSED", None: ""}
    lines += [(row.what, row.measured, row.goal, marks[row.met], row.beside) for row in rows]
    head, *body = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([head, "|---|---|---|---|---|", *body])


def measure(names: Sequence[str], size: Size) -> str:
    """Run the parts; the report's tables. A part that fails is told and does not end the others."""
    tables = []
    for name in names:
        began = time.monotonic()
        try:
            # In a process of its own: Celery's app keeps the first server's address.
            with ProcessPoolExecutor(max_workers=1) as own:
                rows = own.submit(PARTS[name], size).result()
        except (Exception, SystemExit) as error:
            rows = [Row(name, f"failed: {type(error).__name__}: {error}", met=False)]
        took, load = time.monotonic() - began, os.getloadavg()[0]
        tables.append(f"## {name}\n\n{rendered(rows)}\n\n{took:.0f} s; load average at its end {load:.1f}")
        print(f"{tables[-1]}\n", flush=True)
    return "\n\n".join(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5,000 jobs and 100 boxes: less than two minutes")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, help="where the report goes besides the terminal")
    args = parser.parse_args()
    before, size, began = start.stolen(), QUICK if args.quick else FULL, time.monotonic()
    tables = measure(args.only.split(","), size)
    seconds = time.monotonic() - began
    limit = f"; at most {QUICK_SECONDS:.0f} s: {'met' if seconds <= QUICK_SECONDS else 'MISSED'}" if args.quick else ""
    head = [
        f"# Scale, {time.strftime('%Y-%m-%d')}",
        f"`python {' '.join(['benchmarks/scale.py', *sys.argv[1:]])}`",
        f"- {start.machine()}\n- {start.noise(before, start.stolen())}\n- {seconds:.0f} s in all{limit}",
    ]
    if args.out:
        args.out.write_text("\n\n".join([*head, tables, CAVEATS, HUNDRED_THOUSAND]) + "\n")
    print(head[-1])


if __name__ == "__main__":
    main()

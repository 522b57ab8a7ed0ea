"""`python -m tests.nemesis`: rounds of seeded faults, in several clusters at a time; see README's `make nemesis`."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.nemesis import plan, report
from tests.rig import clock, machine

ROOT = Path(__file__).parents[2]
#: Seconds after which a cluster that says nothing is given up with its round.
SILENT = 600.0
#: A cluster is three workers that start at once: as many clusters as have the CPU for it are opened at a time.
OPENING = threading.Semaphore(max(1, (os.cpu_count() or 2) // 3))


def main(argv: Sequence[str] | None = None) -> int:
    """Plays the rounds; 0 if none of them broke a promise."""
    options = parsed(argv)
    logs = Path(options.logs or tempfile.mkdtemp(prefix="nemesis-logs-"))
    seeds = range(options.seed + options.first, options.seed + options.rounds)
    if options.story:
        print("\n\n".join(plan.draw(seed, clocks=not clock.missing()).story() for seed in seeds))
        return 0
    lacks = "; ".join(filter(None, (machine.refusal(), clock.missing())))
    print(
        f"nemesis: {len(seeds)} rounds, seeds {seeds[0]} to {seeds[-1]}, {options.jobs} clusters of "
        f"{len(plan.BOXES)} boxes at a time, lease {plan.LEASE:g} s" + (f" (not here: {lacks})" if lacks else ""),
        flush=True,
    )
    began = time.monotonic()
    told = list(played(seeds, options.jobs, logs, verbose=options.verbose, keep=options.keep))
    seconds = time.monotonic() - began
    print(report.table(told, seconds))
    file = Path(options.results or logs / "results.jsonl")
    with file.open("a") as results:
        results.write(json.dumps({"run": report.machine(options.jobs, seconds, lacks)}) + "\n")
        results.writelines(json.dumps(round) + "\n" for round in told)
    if options.report:
        Path(options.report).write_text(report.markdown([file]))
        print(f"report: {options.report}")
    return 1 if any(round["violations"] for round in told) or len(told) < len(seeds) else 0


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make nemesis", description=str(__doc__))
    parser.add_argument("--rounds", type=int, default=20, help="how many")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; each has its own, one more")
    parser.add_argument("--first", type=int, default=0, help="rounds of these to leave out at the beginning")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="clusters at a time")
    parser.add_argument("--report", help="a Markdown file to write, of all that --results holds")
    parser.add_argument("--results", help="a file that gets a line of JSON for each round; it may hold earlier ones")
    parser.add_argument("--logs", help="where failed rounds are kept")
    parser.add_argument("--keep", action="store_true", help="keep the logs of rounds that went well too")
    parser.add_argument("--story", action="store_true", help="tell what would happen, and do nothing")
    parser.add_argument("--verbose", action="store_true", help="a line a round, also of those that went well")
    options = parser.parse_args(argv)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6) * 1000
    options.jobs = min(options.jobs, options.rounds)
    return options


def played(
    seeds: Sequence[int], jobs: int, logs: Path, *, verbose: bool = False, keep: bool = False
) -> list[dict[str, Any]]:
    """What each round came to, in the order in which they ended."""
    waiting: queue.Queue[int] = queue.Queue()
    logs.mkdir(parents=True, exist_ok=True)
    plain_root(logs)
    for seed in seeds:
        waiting.put(seed)
    done: queue.Queue[dict[str, Any]] = queue.Queue()
    told: list[dict[str, Any]] = []
    clusters = [
        threading.Thread(target=keep_cluster, args=(waiting, done, logs, keep), daemon=True) for _ in range(jobs)
    ]
    for cluster in clusters:
        cluster.start()
    while len(told) < len(seeds):
        told.append(done.get())
        tell(told, len(seeds), verbose)
    for cluster in clusters:
        cluster.join()
    return told


def keep_cluster(waiting: queue.Queue[int], done: queue.Queue[dict[str, Any]], logs: Path, keep: bool) -> None:
    """Has one process after the other play seeds until none is left; one that hangs is ended."""
    cluster: subprocess.Popen[str] | None = None
    while True:
        try:
            seed = waiting.get_nowait()
        except queue.Empty:
            break
        if cluster is None or cluster.poll() is not None:
            cluster = open_cluster(logs, keep)
        done.put(ask(cluster, seed))
    if cluster is not None:
        assert cluster.stdin is not None and cluster.stdout is not None
        cluster.stdin.close()
        cluster.wait()
        cluster.stdout.close()


def plain_root(logs: Path) -> list[str]:
    """What a tree that is not installed lacks: the package's name, and its version."""
    root = logs / "root"
    if importlib.util.find_spec("pi0q") is None:
        (root / "pi0q").mkdir(parents=True, exist_ok=True)
        for folder in ("jobs", "queue", "workers", "ops"):
            if not (root / "pi0q" / folder).exists():
                (root / "pi0q" / folder).symlink_to(ROOT / folder)
    if not any(importlib.metadata.distributions(name="pi0q")):
        info = root / "pi0q-0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pi0q\nVersion: 0\n")
    return [str(root)] if root.exists() else []


def open_cluster(logs: Path, keep: bool) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""), *plain_root(logs))))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    # Each of some thousand processes would compile what it imports, if it is not kept.
    env |= {"PYTHONPATH": path, "PYTHONPYCACHEPREFIX": env.get("PYTHONPYCACHEPREFIX", str(logs / "pycache"))}
    with OPENING, (logs / "clusters.err").open("a") as errors:
        cluster = subprocess.Popen(
            [sys.executable, "-m", "tests.nemesis.one", str(logs), *(["keep"] if keep else [])],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert cluster.stdout is not None
        cluster.stdout.readline()
        return cluster


def ask(cluster: subprocess.Popen[str], seed: int) -> dict[str, Any]:
    """One round; of a cluster that died or hung, that."""
    assert cluster.stdin is not None and cluster.stdout is not None
    # Its boxes end with it: they ask the kernel for that.
    alarm = threading.Timer(SILENT, cluster.kill)
    alarm.start()
    try:
        cluster.stdin.write(f"{seed}\n")
        cluster.stdin.flush()
        line = cluster.stdout.readline()
        return dict(json.loads(line))
    except (OSError, ValueError):
        cluster.kill()
        ended = f"rig: the cluster died or hung ({cluster.wait()}), see clusters.err beside the logs"
        return {"seed": seed, "violations": [ended], "counts": {}, "seconds": 0.0, "story": ""}
    finally:
        alarm.cancel()


def tell(told: list[dict[str, Any]], rounds: int, verbose: bool) -> None:
    last = told[-1]
    if last["violations"]:
        print(f"\nseed {last['seed']} BROKE A PROMISE\n{last.get('story', '')}")
        print("\n".join(f"  >> {text}" for text in last["violations"]))
        print(f"  logs: {last.get('logs')}\n  again: make nemesis SEED={last['seed']} ROUNDS=1\n", flush=True)
    if verbose or len(told) % 25 == 0:
        faults = ", ".join(f"{kind} {count}" for kind, count in last["counts"].get("faults", {}).items())
        bad = sum(bool(each["violations"]) for each in told)
        print(f"{len(told)}/{rounds} rounds, {bad} bad; seed {last['seed']}: {last['seconds']} s, {faults}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""How long a restarted container takes to train again: from its first process to the trainer's.

    PYTHON -m benchmarks.restart [--rounds 20] [--gib 0 2] [--out benchmarks/DATE-restart.md]

PYTHON has pi0q[worker,server,dev]; run it in the repository's root, on a Linux that allows namespaces. The box is a
container of tests/rig: a PID 1 of its own, so that a crash ends everything at once and a start has a new boot id, as on
a rented box. In it a real `pi0q worker` trains with tests/fake_lerobot (a fake: its checkpoints are files of the wanted
size, no LeRobot is imported). Each round crashes it in the middle of a training and starts it again.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from tests.rig import machine
from tests.rig.cluster import Box, Cluster
from tests.rig.server import Server

#: Seconds from the first process of the container to the trainer's: the goal.
GOAL = 15.0
PARTS = ("container to worker's first word", "… to own job claimed", "… to trainer (checkpoint verified)")


def once(cluster: Cluster, box: Box) -> tuple[float, float, float]:
    """Seconds of one crash and restart: to the worker's word, to its own job claimed anew, to the trainer."""
    job = cluster.submit(steps=100_000, save_freq=3, disk="20GiB")
    epoch = cluster.until(job, lambda now: now.checkpoint, seconds=120).epoch
    box.crash()
    began = time.time()
    box.start()
    seen = box.log.count("takes jobs from")
    word = 0.0
    while not word:
        if box.log.count("takes jobs from") > seen:
            word = time.time()
        time.sleep(0.005)
    record = cluster.until(job, lambda now: now.epoch > epoch and now.state is State.RUNNING, seconds=120)
    claimed, running = at(record, State.CLAIMED), at(record, State.RUNNING)
    cluster.store.cancel(job, text="the round is over")
    cluster.ends(job)
    return word - began, claimed - began, running - began


def at(record: Record, state: State) -> float:
    """When it came to this state the last time, seconds since 1970."""
    return [event.at_ms for event in record.history if event.state is state][-1] / 1000


def table(gib: float, rounds: list[tuple[float, float, float]]) -> str:
    rows = []
    for part, seconds in zip(PARTS, zip(*rounds, strict=True), strict=True):
        ordered = sorted(seconds)
        numbers = (ordered[0], statistics.median(ordered), ordered[-1])
        rows.append(f"| {part} | {len(ordered)} | " + " | ".join(f"{number:.2f}" for number in numbers) + " |")
    met = "met" if max(each[-1] for each in rounds) <= GOAL else "MISSED"
    head = f"## A checkpoint of {gib:g} GiB\n\n| seconds from the container's first process | n | min | median | max |"
    return "\n".join([head, "|---|---|---|---|---|", *rows, "", f"Goal, at most {GOAL:g} s to the trainer: {met}."])


def measure(gib: float, rounds: int) -> list[tuple[float, float, float]]:
    with tempfile.TemporaryDirectory() as place:
        server = Server.start(Path(place) / "server" / "data")
        cluster = Cluster(Path(place), server)
        try:
            # The fake's optimizer is twice its model.
            box = cluster.box(contained=True, FAKE_MODEL_BYTES=str(int(max(gib * 2**30 / 3, 4096))))
            return [once(cluster, box) for _ in range(rounds)]
        finally:
            cluster.close()
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--gib", type=float, nargs="+", default=[0.0, 2.0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if why := machine.refusal():
        raise SystemExit(f"This machine allows no containers ({why}); nothing was measured.")
    parts = [table(gib, measure(gib, args.rounds if gib < 1 else max(3, args.rounds // 4))) for gib in args.gib]
    about = f"{os.cpu_count()} cores; Linux {platform.release()}; Python {platform.python_version()}"
    text = "\n\n".join(
        [
            f"# A restarted container, {time.strftime('%Y-%m-%d')}",
            f"`python -m benchmarks.restart`, seconds. {about}; load average at the end {os.getloadavg()[0]:.2f}.",
            *parts,
            "How to read it\n\n- The crash is SIGKILL to PID 1 of a PID namespace: nobody gets a word out. The restart "
            "has a new PID 1, hence a new boot id;\n  the lease (600 s) has not run out, and nobody waits for it.\n"
            "- The trainer is tests/fake_lerobot: the time until LeRobot has been imported and has loaded its weights "
            "comes on top\n  (2026-11-22-full-pi0-h100.md).\n- The checkpoint is hashed whole before it is used: its "
            "bytes were in the page cache here.",
        ]
    )
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

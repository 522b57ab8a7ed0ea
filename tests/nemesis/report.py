"""What was survived: the summary of many rounds, for a terminal and for benchmarks/."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.nemesis import plan

Told = Sequence[dict[str, Any]]


def total(told: Told, name: str) -> int:
    return sum(round["counts"].get(name, 0) for round in told)


def counted(told: Told, name: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for round in told:
        found.update(round["counts"].get(name, {}))
    return found


def rules(told: Told) -> Counter[str]:
    """Violations by rule."""
    return Counter(text.partition(":")[0] for round in told for text in round["violations"])


def rows(told: Told, seconds: float) -> list[tuple[str, str]]:
    faults, ends = counted(told, "faults"), counted(told, "ends")
    recovery = sorted(round["counts"]["recovery"] for round in told if "recovery" in round["counts"]) or [0.0]
    bad = rules(told)
    return [
        ("rounds", f"{len(told)} in {seconds:.0f} s, {sum(bool(round['violations']) for round in told)} of them bad"),
        ("faults carried out", f"{sum(faults.values())} ({total(told, 'missed')} found nothing to hit)"),
        ("jobs", f"{sum(ends.values())}: " + ", ".join(f"{count} {end}" for end, count in ends.most_common())),
        ("trainers", f"{total(told, 'trainers')}, {total(told, 'resumes')} of them resumed from a checkpoint"),
        ("steps and checkpoints", f"{total(told, 'steps')} steps, {total(told, 'saves')} checkpoints vouched for"),
        ("calls of the queue checked", f"{total(told, 'calls')}, {total(told, 'maybes')} of them without an answer"),
        (
            "all jobs ended after all was well",
            f"within {statistics.median(recovery):.1f} s (median), {recovery[-1]:.1f} s at most",
        ),
        ("the machine itself stood still", f"{sum(r['counts'].get('stalled', 0.0) for r in told):.1f} s in all rounds"),
        ("jobs lost or doubled (I1)", str(bad["I1"])),
        ("two owners at a time (I2)", str(bad["I2"])),
        ("more lost than a save and a step (I3)", str(bad["I3"])),
        ("orphans, promises left (I4)", str(bad["I4"]) + known_strays(told)),
        ("vain retries (I6)", str(bad["I6"])),
        ("healthy trainers killed", str(bad["healthy"])),
        ("workers that died by themselves", str(bad["alive"])),
        ("rounds that the rig itself failed", str(bad["rig"])),
    ]


def described(kind: str) -> str:
    text = plan.KINDS[kind][2].format(box="a box", seconds=0.0, job="any", note="some")
    return text.replace("0.0 s", "a while")


def known_strays(told: Told) -> str:
    count = total(told, "strays")
    return f" (and {count} without any mark of a runner that had outlived its worker and was killed)" if count else ""


def table(told: Told, seconds: float) -> str:
    """For a terminal."""
    faults = counted(told, "faults")
    lines = [f"{name:>40}  {value}" for name, value in rows(told, seconds)]
    lines += ["", f"{'survived':>40}  " + ", ".join(f"{kind} {count}" for kind, count in faults.most_common())]
    return "\n".join(["", *lines])


def machine(jobs: int, seconds: float, lacks: str) -> dict[str, Any]:
    """What a report says of where and how long rounds were played."""
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "linux": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "jobs": jobs,
        "seconds": round(seconds),
        "lacks": lacks,
    }


def markdown(files: Sequence[Path]) -> str:
    """For benchmarks/, with date, machine and caveats: of the rounds in these files of results."""
    lines_read = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    runs = [line["run"] for line in lines_read if "run" in line]
    told = [line for line in lines_read if "seed" in line]
    seconds, run = sum(run["seconds"] for run in runs), runs[0]
    seeds = sorted(round["seed"] for round in told)
    faults = counted(told, "faults")
    bad = [round for round in told if round["violations"]]
    lacks = run["lacks"]
    parts = f", in {len(runs)} parts" if len(runs) > 1 else ""
    lines = [
        f"# Nemesis, {run['date']}",
        "",
        f"`make nemesis ROUNDS={len(told)} SEED={seeds[0]} JOBS={run['jobs']}`{parts}",
        "",
        f"Machine: {run['cores']} cores, {run['processor']}, Linux {run['linux']}, Python {run['python']}. "
        f"{run['jobs']} clusters at a time, each a server and {len(plan.BOXES)} boxes: real `pi0q worker` processes"
        f"{'' if lacks else ', each in a container of its own'}, on a line of its own, with a simulated GPU and the "
        f"fake LeRobot, {plan.STEP * 1000:g} ms a step. Lease {plan.LEASE:g} s, fence {plan.FENCE:g} s; "
        "all other times follow from the lease." + (f" Not on this machine: {lacks}." if lacks else ""),
        "",
        "| what | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows(told, seconds)),
        "",
        "| fault | carried out |",
        "| --- | --- |",
        *(f"| {described(kind)} | {count} |" for kind, count in faults.most_common()),
        "",
        "Caveats: the trainer, its GPU and its model are fakes; files, processes, containers, connections and the",
        "server are real. A checkpoint is a few kB. A fault that found nothing to hit is not counted. Of those that",
        "last, one in three is longer than the lease. The machine's own pauses count as outages for every box.",
    ]
    if bad:
        lines += ["", "Bad rounds:", ""]
        lines += [f"- seed {round['seed']}: {'; '.join(round['violations'])[:600]}" for round in bad]
    return "\n".join(lines) + "\n"

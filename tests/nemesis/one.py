"""One cluster that plays the seeds it is told on standard input, a line of JSON about each on standard output."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.nemesis.check import check
from tests.nemesis.harness import Harness, keep, tidy
from tests.nemesis.history import History
from tests.nemesis.plan import draw
from tests.rig import clock


def main(logs: str, keep_all: str = "") -> None:
    """`keep_all`: anything, to keep the logs of rounds that went well too."""
    harness: Harness | None = None
    place = Path(tempfile.mkdtemp(prefix="nemesis-"))
    clusters = 1
    try:
        with contextlib.suppress(Exception):
            harness = Harness(place / "cluster-1")
        # Whoever opens clusters opens the next one now.
        print("{}", flush=True)
        for line in sys.stdin:
            seed = int(line)
            began = time.monotonic()
            try:
                if harness is None:
                    clusters += 1
                    harness = Harness(place / f"cluster-{clusters}")
                told = play(harness, seed, Path(logs) / f"seed-{seed}", keep_all=bool(keep_all))
            except Exception:
                told = {
                    "seed": seed,
                    "violations": [f"rig: {traceback.format_exc()}"],
                    "counts": {},
                    "story": draw(seed).story(),
                }
            told["seconds"] = round(time.monotonic() - began, 1)
            if told["violations"] and harness is not None:
                told["logs"] = str(Path(logs) / f"seed-{seed}")
                keep(harness, Path(logs) / f"seed-{seed}")
                with contextlib.suppress(Exception):
                    harness.close()
                shutil.rmtree(harness.place, ignore_errors=True)
                harness = None
            print(json.dumps(told), flush=True)
    finally:
        if harness is not None:
            harness.close()
        shutil.rmtree(place, ignore_errors=True)


def play(harness: Harness, seed: int, logs: Path, *, keep_all: bool) -> dict[str, Any]:
    plan = draw(seed, clocks=not clock.missing())
    history = harness.play(plan)
    violations = [str(each) for each in check(history)]
    if violations or keep_all:
        logs.mkdir(parents=True, exist_ok=True)
        (logs / "story.txt").write_text("\n".join([plan.story(), "", *violations, "", happened(history)]) + "\n")
        (logs / "history.json").write_text(json.dumps(asdict(history), indent=1))
    if keep_all:
        keep(harness, logs)
    if not violations:
        tidy(harness)
    return {
        "seed": seed,
        "violations": violations,
        "story": plan.story() if violations else "",
        "counts": counts(history),
    }


def counts(history: History) -> dict[str, Any]:
    """What the summary adds up."""
    return {
        "faults": Counter(fault.kind for fault in history.faults),
        "missed": history.missed,
        "strays": len(history.strays),
        "ends": Counter(f"{known.state} {known.reason}".strip() for known in history.jobs),
        "trainers": len(history.lives),
        "resumes": sum((life.first or 1) > 1 for life in history.lives),
        "steps": sum(act.kind == "step" and act.t1 is not None for life in history.lives for act in life.acts),
        "saves": len(history.sealed),
        "calls": len(history.calls),
        "maybes": sum(call.t1 is None for call in history.calls),
        "recovery": round(history.ended - history.healed, 2),
        "stalled": round(sum(end - begin for begin, end in history.stalls), 2),
    }


def happened(history: History) -> str:
    """The faults as they were carried out, and each trainer, by time."""
    lines = [
        (fault.t0, f"{fault.kind} {fault.box} {fault.job} until {fault.t1 - history.begin:.2f}")
        for fault in history.faults
    ]
    lines += [
        (
            life.begin,
            f"trainer of {life.job} on {life.box} epoch {life.epoch}: steps {life.first}-{life.last}, done {life.done}",
        )
        for life in history.lives
    ]
    lines += [(known.accepted or 0.0, f"job {known.number} = {known.id}") for known in history.jobs]
    lines += [(known.ended or 0.0, f"{known.id} ended: {known.state} {known.reason}") for known in history.jobs]
    lines += [(history.healed, "all is well")]
    return "\n".join(f"{at - history.begin:7.2f}  {text}" for at, text in sorted(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])

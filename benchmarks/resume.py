"""A training that is killed again and again, beside the one that never was: do they agree?

    PYTHON benchmarks/resume.py --out benchmarks/DATE-resume     writes …-resume.md, …-resume.svg and …-resume.json
    … --only act --steps 60 --kills 4                            a quick look
    … --ranks 2                                                  two processes a training, one of them killed each time

PYTHON is one with LeRobot; the trainers run on the CPU, one thread each, ACT with two data loaders and image transforms
and (LeRobot >= 0.5) pi0 shrunk to 17 M parameters. Each kill is SIGKILL at a random moment; the resume is from the
newest checkpoint that verifies, as pi0q's runner finds it. Several reports in one picture: `--draw FILE.json… --out …`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

sys.path.insert(0, str(Path(__file__).parents[1]))

from pi0q.ops.local import standins_main
from pi0q.workers.checkpoints import local_store
from tests.workers.trainer import fork_server
from tests.workers.trainer.fork_server import ForkServer, Life, digests

SAVE_FREQ = 10


def race(home: ForkServer, name: str, flags: list[str], *, steps: int, kills: int, **env: str) -> dict[str, Any]:
    """One training unkilled and one killed `kills` times; their losses, lives and last checkpoints."""
    dice = random.Random(name)
    name, told = name.replace(" ", "-"), name
    one, other = home.place / f"{name}-whole", home.place / f"{name}-killed"
    begun = time.monotonic()
    whole = home.live(f"{name}-whole", [*flags, f"--output_dir={one}"], **env)
    assert whole.code == 0, whole.log.read_text()[-3000:]
    lives, start = list[dict[str, Any]](), 0
    for number in range(kills + 1):
        again = fork_server.resume(other, start) if start else [*flags, f"--output_dir={other}"]
        at = start + SAVE_FREQ + dice.randint(1, 5)
        rank = dice.randrange(int(env.get("RANKS", "1")))
        end = f"SIGKILL@{at}+{dice.uniform(0, 0.5):.3f}#{rank}" if number < kills else ""
        life = home.live(f"{name}-{number}", again, end=end, **env)
        assert life.code == (-9 if end else 0), life.log.read_text()[-3000:]
        lives.append({"from": start, "losses": life.losses()})
        start = newest(other, life) or start
    same = digests(other, steps) == digests(one, steps)
    return {
        "name": told, "lerobot": importlib.metadata.version("lerobot"), "torch": importlib.metadata.version("torch"),
        "whole": whole.losses(), "lives": lives, "times": times(whole),
        "same_files": same, "seconds": round(time.monotonic() - begun),
    }  # fmt: skip


def times(life: Life) -> list[tuple[str, int, float]]:
    """When each step and each save was done, seconds from the first one on: what an estimate can be tried on."""
    told = [event for event in life.events if event["event"] in ("step", "saved")]
    return [(event["event"], event["step"], round(event["t"] - told[0]["t"], 3)) for event in told]


def newest(output: Path, life: Life) -> int | None:
    """The step to go on from: what the trainer said it saved is vouched for, the rest is not trusted."""
    for step in life.saved():
        local_store.seal(output / "checkpoints" / f"{step:06d}", step=step, epoch=1)
    found = local_store.newest(output / "checkpoints")
    return found.step if found else None


def difference(result: dict[str, Any]) -> float:
    """The largest difference between a loss of any life and the unkilled one of that step."""
    whole = result["whole"]
    return max(abs(loss - whole[step]) for life in result["lives"] for step, loss in life["losses"].items())


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    new = not importlib.metadata.version("lerobot").startswith("0.4")
    with tempfile.TemporaryDirectory() as place:
        home = ForkServer(Path(place))
        subprocess.run(
            [sys.executable, standins_main.__file__, "dataset", f"{place}/dataset"], check=True, capture_output=True
        )
        fork = {"dataloader_multiprocessing_context": "fork"} if new else {}
        flags = fork_server.common(home.place, steps=args.steps, save_freq=SAVE_FREQ, num_workers=2, **fork)
        found, ranks = [], {"RANKS": str(args.ranks)}
        several = f" on {args.ranks} ranks" if args.ranks > 1 else ""
        if args.only in (None, "act"):
            more = [*fork_server.ACT, "--dataset.image_transforms.enable=true"]
            found.append(race(home, f"act{several}", [*flags, *more], steps=args.steps, kills=args.kills, **ranks))
        if new and args.only in (None, "pi0"):
            standins_main.make_tokenizer(home.place / "hf")
            flags = fork_server.common(home.place, steps=args.steps, save_freq=SAVE_FREQ, num_workers=0)
            flags, ranks = [*flags, *fork_server.PI0], ranks | {"PI0Q_REHEARSAL": "1"}
            found.append(race(home, f"pi0{several}", flags, steps=args.steps, kills=args.kills, **ranks))
        home.close()
    return found


# The picture: losses above, the difference below, a mark where it was killed.

WIDTH, HIGH, LOW, LEFT, GAP = 860, 170, 50, 64, 46


def element(parent: ET.Element, tag: str, text: str = "", **attributes: object) -> ET.Element:
    made = ET.SubElement(parent, tag, {name.replace("_", "-"): str(value) for name, value in attributes.items()})
    made.text = text or None
    return made


def line(parent: ET.Element, points: list[tuple[float, float]], colour: str, width: float) -> None:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    element(parent, "polyline", points=path, fill="none", stroke=colour, stroke_width=width)


def panel(svg: ET.Element, result: dict[str, Any], top: float) -> None:
    whole, lives = result["whole"], result["lives"]
    steps, low, high = max(whole), min(whole.values()), max(whole.values())

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - 20) * step / steps

    def y(loss: float) -> float:
        return top + HIGH * (1 - (loss - low) / (high - low))

    title = f"{result['name']}, LeRobot {result['lerobot']}: killed {len(lives) - 1} times in {steps} steps"
    element(svg, "text", title, x=LEFT, y=top - 10, font_size=14, font_weight="bold")
    for loss in (low, high):
        element(svg, "text", f"{loss:.2f}", x=LEFT - 8, y=y(loss) + 4, text_anchor="end", font_size=11)
    for life in lives[1:]:
        line(svg, [(x(life["from"]), top), (x(life["from"]), top + HIGH + LOW)], "#dddddd", 1)
    line(svg, [(x(step), y(loss)) for step, loss in whole.items()], "#9ecae1", 6)
    for number, life in enumerate(lives):
        colour = ("#08519c", "#d94801")[number % 2]
        line(svg, [(x(step), y(loss)) for step, loss in life["losses"].items()], colour, 1.4)
    zero = top + HIGH + LOW
    off = difference(result)
    for number, life in enumerate(lives):
        points = [
            (x(step), zero - (loss - whole[step]) / (off or 1) * LOW * 0.8) for step, loss in life["losses"].items()
        ]
        line(svg, points, ("#08519c", "#d94801")[number % 2], 2)
    element(svg, "text", "difference", x=LEFT - 8, y=zero + 4, text_anchor="end", font_size=11)
    element(svg, "text", f"largest: {off:g}", x=WIDTH - 24, y=zero - 6, text_anchor="end", font_size=11)


def draw(results: list[dict[str, Any]]) -> str:
    height = 40 + len(results) * (HIGH + LOW + GAP)
    svg = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {height}")
    svg.set("font-family", "sans-serif")
    element(svg, "rect", width=WIDTH, height=height, fill="white")
    element(svg, "text", "thick: never killed; thin, in turn: the lives of the killed one; grey: where each life began",
            x=LEFT, y=18, font_size=12, fill="#555555")  # fmt: skip
    for number, result in enumerate(results):
        panel(svg, result, 56 + number * (HIGH + LOW + GAP))
    return ET.tostring(svg, encoding="unicode") + "\n"


def report(results: list[dict[str, Any]], out: Path) -> str:
    rows = []
    for result in results:
        lives = result["lives"]
        again = sum(len(life["losses"]) for life in lives) - max(result["whole"])
        files = "the same" if result["same_files"] else "DIFFERENT"
        versions = f"{result['lerobot']}, torch {result['torch']}"
        numbers = f"{max(result['whole'])} | {len(lives) - 1} | {again} | {difference(result):g}"
        rows.append(f"| {result['name']} | {versions} | {numbers} | {files} |")
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}; on the CPU"
    return (
        f"# Killed and resumed, {out.name[:10]}\n\n`python benchmarks/resume.py`, {machine}.\n\n"
        f"![losses]({out.name}.svg)\n\n{HEAD}" + "\n".join(rows) + f"\n\n{READING}"
    )


HEAD = """\
| model | LeRobot | steps | SIGKILLs | steps trained twice | largest difference of a loss | last checkpoint |
|---|---|---|---|---|---|---|
"""
READING = f"""\
How to read it

- Each SIGKILL comes at a random moment, also while a checkpoint is written; the resume is from the newest one that
  verifies (save_freq {SAVE_FREQ}). *Difference* is of every life's every loss, those of steps trained twice included,
  to the unkilled run's loss of that step. *Last checkpoint*: weights, optimizer, scheduler and random state by SHA-256.
- act: 64 wide, two data loaders, image transforms on. pi0: 17 M parameters, bfloat16. An epoch has seven batches, so
  nearly every life begins in another epoch than the first.
- Not shown: a GPU. There LeRobot restores the GPU's random state as well, but kernels that add in no fixed order
  (cuDNN's, unless `cudnn_deterministic`) differ in the last digits from run to run, killed or not.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", choices=["act", "pi0"])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--draw", type=Path, nargs="+")
    args = parser.parse_args()
    if args.steps <= (args.kills + 2) * SAVE_FREQ:
        parser.error(f"too few steps: each life needs {SAVE_FREQ} to get on")
    drawn = [result for file in args.draw or () for result in json.loads(file.read_text())]
    results = drawn or run(args)
    # Names of steps are text in JSON.
    results = json.loads(json.dumps(results), object_hook=numbered)
    args.out.with_name(args.out.name + ".json").write_text(json.dumps(results) + "\n")
    args.out.with_name(args.out.name + ".svg").write_text(draw(results))
    args.out.with_name(args.out.name + ".md").write_text(report(results, args.out))


def numbered(value: dict[str, Any]) -> dict[Any, Any]:
    return {int(name) if name.isdigit() else name: of for name, of in value.items()}


if __name__ == "__main__":
    main()

"""`make test-versions`: the tests marked `real` on other versions of LeRobot, each in an environment of its own.

    python -m tests.versions [VERSION…] [--keep] [--report FILE]

Each environment takes 3 to 6 GB and is removed before the next one, unless it is kept; one that is there already is
used. LeRobot below 0.5 runs on Python 3.10 to 3.12, later ones need 3.12 or newer. The report is dated and says what
passed, what was skipped and why, and what failed. A version takes half an hour on two cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pi0q.ops.dev import make_venv_main as maker

ROOT = Path(__file__).parents[1]
#: The oldest that pi0q drives and one between it and the one that `make test` has, with the extras that the tests need:
#: pi0 of 0.4 wants a patched transformers, which no index has.
VERSIONS = {"0.5.1": "pi", "0.4.4": "transformers-dep"}
EXTRAS = "worker,server,flower,dev"
#: What the report says of an environment.
PACKAGES = ("lerobot", "torch", "torchvision", "transformers", "huggingface-hub", "accelerate", "numpy", "wandb")
#: "3 passed, 1 skipped in 12.3s" at the end of pytest's output.
SUMMARY = re.compile(r"^=*\s*(\d+ (?:passed|failed|skipped|error)[^=]*?)\s*=*$")
#: A line of `--durations`: "12.34s call     tests/x.py::test_y".
DURATION = re.compile(r"([\d.]+)s (?:call|setup)\s+(\S+::\S.*)")
#: A line of `-rs`: "SKIPPED [2] tests/x.py:12: why".
SKIPPED = re.compile(r"SKIPPED \[(\d+)\] (\S+?):\d+: (.*)")
LOOK = (
    "import json, platform, sys; from importlib.metadata import version, PackageNotFoundError\n"
    "def of(name):\n"
    "    try: return version(name)\n"
    "    except PackageNotFoundError: return 'none'\n"
    "print(json.dumps({'Python': platform.python_version(), **{name: of(name) for name in sys.argv[1:]}}))"
)


@dataclass(frozen=True)
class Outcome:
    """What one version came to."""

    #: pytest's last line.
    summary: str
    #: Versions of Python and packages.
    packages: dict[str, str]
    #: Seconds of each test that ran.
    seconds: dict[str, float]
    #: Number, file and reason of tests that were skipped.
    skipped: tuple[tuple[str, str, str], ...]
    #: Tests that failed.
    failed: tuple[str, ...]
    #: Seconds of all, the installation left out.
    whole: float


def python_for(lerobot: str) -> str:
    """Return the newest interpreter of this machine that this LeRobot runs on. Exits with a sentence without one."""
    old = tuple(map(int, lerobot.split(".")[:2])) < (0, 5)
    fits = [(3, 12), (3, 11), (3, 10)] if old else [(3, 12), (3, 13)]
    found = {version: python for python in maker.candidates() if (version := maker.version(python))}
    chosen = next((found[version] for version in fits if version in found), None)
    if chosen is None:
        needed = " or ".join(f"{major}.{minor}" for major, minor in fits)
        sys.exit(f"LeRobot {lerobot} needs Python {needed}; none was found. Fix: uv python install 3.12")
    return chosen


def try_version(lerobot: str, *, keep: bool) -> Outcome:
    """Run the tests in the version's own environment."""
    place = ROOT / f".venv-lerobot-{lerobot}"
    python = place / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([python_for(lerobot), "-m", "venv", "--clear", str(place)], check=True)
        extra = VERSIONS.get(lerobot, "")
        wanted = f"lerobot[{extra}]=={lerobot}" if extra else f"lerobot=={lerobot}"
        maker.install(python, ["-e", f"{ROOT}[{EXTRAS}]", wanted, "wandb>=0.20,<1"])
        looked = subprocess.run([str(python), "-c", LOOK, *PACKAGES], check=True, stdout=subprocess.PIPE, text=True)
        tests = [str(python), "-m", "pytest", "-q", "-n", "0", "-m", "real", "-rfs", "--durations=0", "tests"]
        began = time.monotonic()
        done = subprocess.run(tests, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        whole = time.monotonic() - began
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
    found = outcome(done.stdout.splitlines(), done.returncode, json.loads(looked.stdout), whole)
    if found.failed or done.returncode:
        print(done.stdout[-20_000:])
    return found


def outcome(lines: Sequence[str], code: int, packages: dict[str, str], whole: float) -> Outcome:
    """Return what pytest's output says."""
    summary = next((found[1] for line in reversed(lines) if (found := SUMMARY.match(line))), f"exit {code}")
    failed = tuple(line.partition(" ")[2] for line in lines if line.startswith(("FAILED ", "ERROR ")))
    seconds: dict[str, float] = {}
    for line in lines:
        if timed := DURATION.match(line):
            seconds[timed[2]] = seconds.get(timed[2], 0.0) + float(timed[1])
    skipped = tuple((found[1], found[2], found[3]) for line in lines if (found := SKIPPED.match(line)))
    return Outcome(summary, packages, seconds, skipped, failed, whole)


def report(results: dict[str, Outcome], today: str) -> str:
    """Return the report as Markdown."""
    lines = [f"# Other versions of LeRobot, {today}", "", "    make test-versions", ""]
    machine = f"Machine: {os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}. No GPU is used."
    lines += [machine, "", "| LeRobot | tests marked `real` |", "|---|---|"]
    lines += [f"| {version} | {found.summary} |" for version, found in results.items()]
    for version, found in results.items():
        lines += ["", f"## LeRobot {version}", "", *_details(found)]
    return "\n".join(lines) + "\n"


def _details(found: Outcome) -> Iterator[str]:
    yield ", ".join(f"{name} {version}" for name, version in found.packages.items()) + "."
    yield ""
    yield from ("| seconds | test |", "|---|---|")
    for test, seconds in sorted(found.seconds.items(), key=lambda one: -one[1]):
        yield f"| {seconds:.0f} | `{test}` |"
    yield from ("", "Skipped:" if found.skipped else "Nothing was skipped.")
    yield from (f"- {number} of `{file}`: {why}" for number, file, why in found.skipped)
    if found.failed:
        yield from ("", "Failed:", *(f"- {test}" for test in found.failed))


def main() -> int:
    """Try each version and write the report; 1 if a test failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=str(__doc__).splitlines()[0])
    parser.add_argument("versions", nargs="*", default=list(VERSIONS))
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    today = datetime.date.today().isoformat()
    parser.add_argument("--report", type=Path, default=ROOT / "benchmarks" / f"{today}-versions.md")
    options = parser.parse_args()
    results = {}
    for version in options.versions:
        print(f"LeRobot {version} …", flush=True)
        results[version] = try_version(version, keep=options.keep)
        options.report.write_text(report(results, today))
        print(results[version].summary, flush=True)
    return 1 if any(found.failed or "passed" not in found.summary for found in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

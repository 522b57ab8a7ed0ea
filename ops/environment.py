"""Makes the environments of `make demo`, `make test` and `make bench`; any Python 3.9 with nothing installed runs it.

    python3 ops/environment.py DIRECTORY EXTRA,EXTRA…

LeRobot 0.6.1 (pi0) needs Python 3.12 or newer. It is looked for on PATH, among uv's, pyenv's and conda's; if there is
none, the newest from 3.10 on is taken with LeRobot 0.4.4 (ACT and friends), and that is said.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Newest first, below those that LeRobot's dependencies have no wheels for yet.
VERSIONS = ((3, 12), (3, 13), (3, 11), (3, 10))
PROBE = "import sys, venv, ssl; print(*sys.version_info[:2])"
#: What pip may show while it fetches 5 GB.
QUIET = ("--quiet",)


def candidates() -> list[str]:
    """Interpreters worth trying; a pyenv shim may refuse, so each is run before it is believed."""
    home = Path.home()
    names = [f"python{major}.{minor}" for major, minor in VERSIONS]
    found = [path for name in names if (path := shutil.which(name))]
    for pattern in (
        ".pyenv/versions/*/bin/python",
        ".local/share/uv/python/*/bin/python3",
        "miniconda3/bin/python",
        "miniconda3/envs/*/bin/python",
        "anaconda3/bin/python",
        "miniforge3/bin/python",
    ):
        found += map(str, sorted(home.glob(pattern), reverse=True))
    return [*found, sys.executable]


def version(python: str) -> tuple[int, int] | None:
    """The version of an interpreter that works; None for one that does not."""
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    major, minor = done.stdout.split()
    return int(major), int(minor)


def choose() -> str:
    """The interpreter to build upon. Exits with a sentence where there is none."""
    found: dict[tuple[int, int], str] = {}
    for python in candidates():
        if (seen := version(python)) in VERSIONS:
            found.setdefault(seen, python)
    for wanted in VERSIONS:
        if wanted in found:
            if wanted < (3, 12):
                print(f"No Python 3.12 or newer found: taking {found[wanted]} with LeRobot 0.4.4, which has no pi0.")
            return found[wanted]
    sys.exit("pi0q needs Python 3.10 or newer (3.12 for pi0); none was found. Install one and run this again.")


def installer(python: Path) -> list[str]:
    """uv where it can be had, since it installs LeRobot in a minute; else pip."""
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", str(python)]
    subprocess.run([str(python), "-m", "pip", "install", *QUIET, "uv"], check=False)
    if (python.parent / "uv").exists():
        return [str(python.parent / "uv"), "pip", "install", "--python", str(python)]
    return [str(python), "-m", "pip", "install"]


def main() -> None:
    directory, extras = Path(sys.argv[1]), sys.argv[2]
    python = directory / "bin" / "python"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    files = sorted(str(path) for room in ("jobs", "queue", "workers", "ops") for path in (ROOT / room).rglob("*"))
    # A strict editable install does not see a file that came later.
    shown = hashlib.sha256("\n".join(name for name in files if "__pycache__" not in name).encode()).hexdigest()
    stamp, content = directory / "pi0q.stamp", f"{extras} {wanted} {shown}\n"
    if stamp.is_file() and stamp.read_text() == content and version(str(python)):
        return
    if not version(str(python)):
        chosen = choose()
        print(f"Making {directory} with {chosen} …", flush=True)
        subprocess.run([chosen, "-m", "venv", "--clear", str(directory)], check=True)
    size = "; the first time this fetches about 3 GB" if "train" in extras.split(",") else ""
    print(f"Installing pi0q[{extras}] into {directory}{size} …", flush=True)
    env = {**os.environ, "UV_LINK_MODE": os.environ.get("UV_LINK_MODE", "hardlink")}
    subprocess.run([*installer(python), *QUIET, "-e", f"{ROOT}[{extras}]"], check=True, env=env)
    stamp.write_text(content)


if __name__ == "__main__":
    main()

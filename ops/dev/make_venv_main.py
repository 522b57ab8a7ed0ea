"""Build the environments of `make demo`, `make test` and `make bench`; any Python 3.9 with nothing installed runs it.

    python3 ops/dev/make_venv_main.py DIRECTORY EXTRA,EXTRA…

LeRobot 0.6.1 (pi0) needs Python 3.12 or newer. The script looks for one on PATH and among uv's, pyenv's and conda's
interpreters and lets uv fetch one; without one it takes the newest from 3.10 on with LeRobot 0.4.4 (ACT and others)
and says so.

The installation tries uv, then uv with the system's certificates (a proxy that intercepts TLS is known only there),
then pip. A failure prints two sentences and the installer's last lines.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Newest first, below those that LeRobot's dependencies have no wheels for yet.
VERSIONS = ((3, 12), (3, 13), (3, 11), (3, 10))
PROBE = "import sys, venv, ssl; print(*sys.version_info[:2])"
#: Keeps pip and uv from printing each of some hundred packages.
QUIET = ("--quiet",)
#: Seconds that uv may take to fetch an interpreter.
FETCH_SECONDS = 300.0
#: Lines of a failed installer's output that are shown.
LAST_LINES = 15


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


def best() -> tuple[tuple[int, int], str]:
    """Return the version and path of the best interpreter of this machine; (0, 0) and "" if none will do."""
    found: dict[tuple[int, int], str] = {}
    for python in candidates():
        if (seen := version(python)) in VERSIONS:
            found.setdefault(seen, python)
    return next(((wanted, found[wanted]) for wanted in VERSIONS if wanted in found), ((0, 0), ""))


def fetch() -> None:
    """Let uv fetch Python 3.12 to where `candidates` looks, if uv is there and has a network."""
    if uv := shutil.which("uv"):
        print("No Python 3.12 or newer found: uv tries to fetch one …", flush=True)
        command = [uv, "python", "install", "3.12"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, check=False, capture_output=True, timeout=FETCH_SECONDS)


def choose() -> str:
    """Return the interpreter to build upon. Exits with a sentence where there is none."""
    seen, python = best()
    if seen < (3, 12):
        fetch()
        seen, python = best()
    if not python:
        sys.exit("pi0q needs Python 3.10 or newer (3.12 for pi0); none was found. Fix: apt-get install python3-venv")
    if seen < (3, 12):
        print(
            f"No Python 3.12 or newer found: taking {python} with LeRobot 0.4.4, which has no pi0.\n"
            "For pi0 install Python 3.12 (uv python install 3.12; conda create -n py312 python=3.12), then: make clean",
            flush=True,
        )
    return python


def uv_of(python: Path) -> str | None:
    """Return the path of uv: the one on PATH, else one installed into the environment; None if it cannot be had."""
    if uv := shutil.which("uv"):
        return uv
    command = [str(python), "-m", "pip", "install", *QUIET, "uv"]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    own = python.parent / "uv"
    return str(own) if own.exists() else None


def ways(python: Path) -> list[tuple[list[str], dict[str, str]]]:
    """Return the installers to try in turn: command and additional environment variables.

    uv comes first because it installs LeRobot in a minute. Byte code is compiled at once: the start of every command
    of the environment takes less than half the time then (pip compiles by itself).
    """
    found: list[tuple[list[str], dict[str, str]]] = []
    if uv := uv_of(python):
        command = [uv, "pip", "install", "--compile-bytecode", "--python", str(python)]
        # uv before 0.10 reads the second name.
        found = [(command, {}), (command, {"UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true"})]
    return [*found, ([str(python), "-m", "pip", "install"], {})]


def install(python: Path, packages: Sequence[str]) -> None:
    """Install packages by the first way that works. Exits with the last installer's last lines if none does."""
    output = ""
    for command, variables in ways(python):
        env = {"UV_LINK_MODE": "hardlink", **os.environ, **variables}
        done = subprocess.run(
            [*command, *QUIET, *packages], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        output = done.stdout.decode(errors="replace")
        if done.returncode == 0:
            return
        print(f"{Path(command[0]).name} could not install the packages; trying the next way.", flush=True)
    last = "\n".join(f"  {line}" for line in output.strip().splitlines()[-LAST_LINES:])
    sys.exit(
        f"The packages of pi0q could not be installed into {python.parents[1]}, by uv or by pip. "
        f"The last installer said:\n{last}\n"
        "Fix: check the network, https_proxy and the index (pip config list), then run the same command again."
    )


def compile_own(python: Path) -> None:
    """Compile pi0q's own modules as those of the packages are: `pi0q worker` needs 0.5 s less of CPU at each start.

    A shell with PYTHONDONTWRITEBYTECODE compiles them at each start otherwise. What fails here fails where it is used.
    """
    tree = ROOT / "build"
    subprocess.run([str(python), "-m", "compileall", "-q", str(tree)], check=False, stdout=subprocess.DEVNULL)


def make(directory: Path) -> None:
    """Create the virtual environment. Exits with a sentence where the interpreter cannot."""
    chosen = choose()
    print(f"Making {directory} with {chosen} …", flush=True)
    done = subprocess.run(
        [chosen, "-m", "venv", "--clear", str(directory)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        last = "\n".join(f"  {line}" for line in done.stdout.decode(errors="replace").splitlines()[-LAST_LINES:])
        sys.exit(
            f"{chosen} could not make the environment {directory}. It said:\n{last}\n"
            "Fix: install Python's venv module (Debian: apt-get install python3-venv), then run the same command again."
        )


def main() -> None:
    """Build or refresh the environment named on the command line."""
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
        make(directory)
    size = "; the first time this fetches about 3 GB" if "train" in extras.split(",") else ""
    print(f"Installing pi0q[{extras}] into {directory}{size} …", flush=True)
    install(python, ["-e", f"{ROOT}[{extras}]"])
    compile_own(python)
    stamp.write_text(content)


if __name__ == "__main__":
    main()

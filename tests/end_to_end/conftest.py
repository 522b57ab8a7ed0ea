"""A house for each story: a queue on a real server, boxes that are real `pi0q worker` processes, a user."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import yaml

from pi0q.jobs.record import Record
from pi0q.jobs.spec import parse
from pi0q.jobs.state import ENDED, State
from pi0q.ops import server as servers
from pi0q.queue.store import Store, heard
from pi0q.queue.verbs.submit import put

HERE = Path(__file__).parent
#: Seconds before a wait is given up; a wait ends with its event, so a slow machine only fails later.
PATIENCE = 40.0
SMALL_DISK = "10MiB"


@dataclass
class Server:
    """A real server that can be killed and started again on its data."""

    data: Path
    port: int
    running: servers.Server

    @classmethod
    def start(cls, data: Path) -> Server:
        port = servers.choose_port(0, default=0, option="--port")
        return cls(data=data, port=port, running=servers.start(data, port=port, log=data.with_suffix(".log")))

    @property
    def url(self) -> str:
        return self.running.url

    def kill(self) -> None:
        self.running.process.kill()
        self.running.process.wait()

    def restart(self) -> None:
        self.running.process.wait()
        self.running = servers.start(self.data, port=self.port, log=self.data.with_suffix(".log"))


@dataclass
class Box:
    """A machine: a home of its own and a worker that can be killed and started again."""

    name: str
    home: Path
    env: dict[str, str]
    argv: list[str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> str:
        return (self.home / "worker.out").read_text(errors="replace")

    @property
    def worker(self) -> subprocess.Popen[bytes]:
        return self.started[-1]

    def start(self) -> Box:
        with (self.home / "worker.out").open("ab") as out:
            command = [sys.executable, "-m", "pi0q.queue.cli", "worker", *self.argv]
            self.started.append(
                subprocess.Popen(command, env=self.env, cwd=self.home, stdout=out, stderr=out, start_new_session=True)
            )
        return self

    def kill(self) -> None:
        self.worker.kill()
        self.worker.wait()

    def stop(self) -> int:
        self.worker.terminate()
        return self.worker.wait(PATIENCE)

    def says(self, text: str) -> None:
        """Waits for these words in the worker's log."""
        wait(lambda: text in self.log, repr(text), lambda: self.log)

    def run_dir(self, job: str) -> Path:
        return self.home / "runs" / job

    def runner(self, job: str) -> int:
        """The pid on the runner's name tag."""
        return int(json.loads((self.run_dir(job) / "runner.json").read_text())["pid"])

    def lives(self, job: str) -> list[dict[str, Any]]:
        """What the witness wrote of each trainer of the job."""
        return lines(self.home / "lives" / f"{job}.jsonl")

    def events(self, job: str, kind: str | None = None) -> list[dict[str, Any]]:
        return [event for event in lines(self.run_dir(job) / "events.jsonl") if kind in (None, event["event"])]

    def trainer_log(self, job: str) -> str:
        return (self.run_dir(job) / "trainer.log").read_text()

    def checkpoint(self, job: str, step: int) -> Path:
        return self.run_dir(job) / "output" / "checkpoints" / f"{step:06d}"

    def steps(self, job: str, step: int, *, lives: int = 1) -> None:
        """Waits until the job's trainer, the `lives`-th of them, has done this step."""
        wait(
            lambda: len(self.lives(job)) >= lives and any(e["step"] >= step for e in self.events(job, "step")),
            f"step {step} of {job}",
            lambda: self.log,
        )

    def ended(self, job: str) -> None:
        """Waits until a trainer of the job has come to its last step."""
        wait(lambda: self.events(job, "end"), f"the end of {job}", lambda: self.log)

    def says_in_log(self, job: str, text: str) -> None:
        """Waits for these words in the job's log on the box."""
        wait(lambda: text in self.trainer_log(job), repr(text), lambda: self.trainer_log(job))

    def sealed(self, job: str, step: int) -> Path:
        """Waits for the manifest of a checkpoint."""
        place = self.checkpoint(job, step)
        wait((place / "pi0q.manifest.json").exists, f"checkpoint {step} of {job}", lambda: self.log)
        return place

    def trainers_came_one_by_one(self, job: str) -> list[dict[str, Any]]:
        """Never two at once: by the witness's lock, by what lived, and by the steps between two starts."""
        lives = self.lives(job)
        assert [(life["alone"], life["others"]) for life in lives] == [(True, [])] * len(lives)
        expected = None
        for event in self.events(job):
            if event["event"] == "ready":
                expected = event["step"]
            elif event["event"] == "step":
                assert expected is not None and event["step"] == expected + 1, "two trainers' steps are mixed"
                expected = event["step"]
        starts = [event["pid"] for event in self.events(job, "start")]
        assert starts == [life["pid"] for life in lives]
        return lives

    def kill_everything(self) -> None:
        """Every process with this home, as the end of a container does."""
        while living := [process for process in self.processes() if not gone(process.pid)]:
            for process in living:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(living, timeout=0.1)
        for started in self.started:
            started.wait()

    def processes(self, job: str | None = None) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                env = process.environ()
                if env.get("PI0Q_HOME") == str(self.home) and job in (None, env.get("PI0Q_JOB")):
                    found.append(process)
        return found


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may be growing."""
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def wait(true: Callable[[], object], what: str, told: Callable[[], str] = str, seconds: float = PATIENCE) -> None:
    """Looks at what no channel tells of until it is so."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {seconds:.0f} s\n{told()[-4000:]}")
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class House:
    """One queue, its boxes and its user."""

    def __init__(self, place: Path, server: Server) -> None:
        self.place, self.server = place, server
        self.prefix = f"t{secrets.token_hex(4)}:"
        self.store = Store(redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=5), self.prefix)
        self.boxes: list[Box] = []

    def env(self, home: Path, **more: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PI0Q_", "FAKE_"))}
        paths = [str(HERE / "witness"), str(HERE.parent / "fake_lerobot"), clean.get("PYTHONPATH", "")]
        return clean | {
            "HOME": str(self.place),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PI0Q_REDIS_URL": self.server.url,
            "PI0Q_PREFIX": self.prefix,
            "PI0Q_HOME": str(home),
            "PI0Q_TRAINER_PYTHON": sys.executable,
            "PI0Q_SYSTEM_DISK_RESERVE_MIB": "0",
            "PI0Q_FAKE_GPUS": "[]",
            "FAKE_STEP_SECONDS": "0.03",
            **more,
        }

    def box(self, name: str = "box-a", *, slots: int = 1, gpus: list[float] | None = None, **env: str) -> Box:
        """Starts a box; `gpus` are the GiB of its simulated cards."""
        home = self.place / name
        (home / "datasets" / "grab_box" / "meta").mkdir(parents=True, exist_ok=True)
        (home / "datasets" / "grab_box" / "meta" / "info.json").write_text("{}")
        cards = json.dumps([{"name": "simulated", "total_gib": gib} for gib in gpus or []])
        argv = ["--name", name, "--slots", str(slots)]
        box = Box(name=name, home=home, env=self.env(home, PI0Q_FAKE_GPUS=cards, **env), argv=argv)
        self.boxes.append(box)
        return box.start()

    def submit(
        self, name: str = "grab_box", *, steps: int = 40, save_freq: int = 10, gib: float = 0, **more: Any
    ) -> str:
        """Queues a job: of one GPU with this many GiB, or of none."""
        resources = {"gpus": more.pop("cards", 1), "vram": f"{gib}GiB"} if gib else {"gpus": 0}
        resources |= {"disk": more.pop("disk", SMALL_DISK)}
        dataset = {"repo_id": "local/grab_box", "root": "datasets/grab_box"}
        if more.pop("from_hub", False):
            dataset.pop("root")
        train = {
            "dataset": dataset,
            "policy": {"type": "act", "device": "cuda" if gib else "cpu", "push_to_hub": False},
            "steps": steps,
            "save_freq": save_freq,
            "batch_size": 2,
            "wandb": {"enable": True, "mode": "offline", "project": "trials"},
            **more.pop("flags", {}),
        }
        text = yaml.safe_dump({"name": name, "resources": resources, "train": train, **more})
        return str(put(self.store, parse(text, filename="job.yaml"))["id"])

    def until(self, job: str, wanted: Callable[[Record], object], *, seconds: float = PATIENCE) -> Record:
        """Waits for a change of the job after which it is as wanted; a server that is away is waited for too."""
        deadline, listening = time.monotonic() + seconds, None
        while True:
            with contextlib.suppress(redis.RedisError):
                listening = listening or self.store.subscribe("changes")
                record = self.store.get(job)
                if wanted(record):
                    return record
            if time.monotonic() > deadline:
                logs = "".join(box.log[-3000:] for box in self.boxes)
                raise AssertionError(f"it did not come to that\n{record}\n{logs}")
            try:
                list(heard(listening, 0.5) if listening else ())
            except redis.RedisError:
                time.sleep(0.05)

    def comes_to(self, job: str, state: State) -> Record:
        record = self.until(job, lambda record: record.state is state or record.state in ENDED)
        assert record.state is state, f"{record}\n{''.join(box.log[-3000:] for box in self.boxes)}"
        return record

    def ends(self, job: str) -> Record:
        return self.until(job, lambda record: record.state in ENDED)

    def sweeps(self, wanted: Callable[[Record], object]) -> Callable[[Record], object]:
        """The same condition, with a sweep at each look; boxes sweep twice a minute."""

        def swept(record: Record) -> object:
            self.store.client.delete(self.prefix + "swept")
            self.store.sweep()
            return wanted(record)

        return swept

    def refused(self, job: str, box: str = "box-a") -> str:
        """Waits until a box says why it does not take the job; its words."""
        said: dict[str, str] = {}

        def told() -> bool:
            for known in self.store.boxes():
                if known["name"] == box:
                    said.update(json.loads(known.get("refusals") or "{}"))
            return job in said

        wait(told, f"a refusal of {job}", lambda: "".join(b.log for b in self.boxes))
        return said[job]

    def pi0q(self, *args: str) -> subprocess.CompletedProcess[str]:
        """A command of the user's on his own machine."""
        return subprocess.run(
            [sys.executable, "-m", "pi0q.queue.cli", *args],
            env=self.env(self.place / "laptop"),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def promised(self) -> int:
        """MiB of VRAM and disk that are promised to anyone."""
        keys = list(self.store.client.scan_iter(f"{self.prefix}promises:*"))
        return sum(int(mib) for key in keys for job, mib in self.store.client.hgetall(key).items() if job != "#")

    def close(self) -> None:
        for box in self.boxes:
            box.kill_everything()
        with contextlib.suppress(redis.RedisError):
            for key in self.store.client.scan_iter(f"{self.prefix}*"):
                self.store.client.delete(key)
        self.store.client.close()


@pytest.fixture(scope="session")
def queue_server(server: servers.Server) -> Server:
    """The server of all stories but those in which it dies; each story has its own prefix on it."""
    return Server(data=Path(), port=server.port, running=server)


@pytest.fixture
def house(queue_server: Server, tmp_path: Path) -> Iterator[House]:
    """A house of one's own."""
    opened = House(tmp_path, queue_server)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def street(queue_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house for all stories of a module that leave its boxes as they were."""
    opened = House(tmp_path_factory.mktemp("street"), queue_server)
    yield opened
    opened.close()


@pytest.fixture
def frail(tmp_path: Path) -> Iterator[House]:
    """A house whose server may be killed."""
    server = Server.start(tmp_path / "server" / "data")
    opened = House(tmp_path, server)
    yield opened
    opened.close()
    server.running.stop()

"""A cluster for each story: a queue on a real server, boxes that are real `pi0q worker` processes, a user."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
import yaml

from pi0q.jobs.record import Record
from pi0q.jobs.spec import parse
from pi0q.jobs.state import ENDED, State
from pi0q.ops.server.roles import Role
from pi0q.queue.box_status import reasons
from pi0q.queue.store import Store, heard
from pi0q.queue.submission import new_fields, put
from tests.rig import clock as clocks
from tests.rig import machine, roles, signed
from tests.rig.link import Link
from tests.rig.machine import Container
from tests.rig.server import Server

TESTS = Path(__file__).parents[1]
#: Directory whose sitecustomize.py the processes of the scenarios import first.
WITNESS = TESTS / "scenarios" / "end_to_end" / "witness"
#: Seconds before a wait is given up; a wait ends with its event, so a slow machine only fails later.
PATIENCE = 120.0
SMALL_DISK = "10MiB"


@dataclass
class Box:
    """A machine: a home of its own and a worker that can be killed and started again.

    Pids that the box itself wrote down (name tag, witness, events) are those of its container; `pid` gives ours.
    """

    name: str
    home: Path
    env: dict[str, str]
    argv: list[str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    #: Its line to the server, if it has one of its own.
    link: Link | None = None
    #: Its container, if it lives in one.
    container: Container | None = None

    @property
    def log(self) -> str:
        return (self.home / "worker.out").read_text(errors="replace")

    @property
    def worker(self) -> subprocess.Popen[bytes]:
        """Who ends with the worker, and with its exit code: the worker itself or, before a container, its door."""
        return self.started[-1]

    def start(self) -> Box:
        """A new worker; boots the container if that is down."""
        command = [sys.executable, "-m", "pi0q.queue.cli", "worker", *self.argv]
        if self.container:
            if not self.container.up:
                self.container.boot()
            command = self.container.enter(command, self.home)
        with (self.home / "worker.out").open("ab") as out:
            self.started.append(
                subprocess.Popen(command, env=self.env, cwd=self.home, stdout=out, stderr=out, start_new_session=True)
            )
        return self

    def set_clock(self, by: str) -> None:
        """How wrong its clock is from the next start on: "+2h", "-2h", "" for right."""
        for name in ("LD_PRELOAD", "FAKETIME", "DONT_FAKE_MONOTONIC"):
            self.env.pop(name, None)
        self.env |= clocks.shifted(by) if by else {}

    # -- its processes ----------------------------------------------------------------------------

    def pid(self, inner: int) -> int:
        """Our pid of a process that the box knows by this one; 0 if it is gone."""
        return self.container.pids().get(inner, 0) if self.container else inner

    @property
    def worker_pid(self) -> int:
        """The worker's pid; 0 if it is gone."""
        if self.worker.poll() is not None:
            return 0
        if not self.container:
            return self.worker.pid
        with contextlib.suppress(psutil.Error):
            return next((child.pid for child in psutil.Process(self.worker.pid).children()), 0)
        return 0

    def runner(self, job: str) -> int:
        """The pid of the runner on the job's name tag; 0 if it is gone."""
        return self.pid(int(json.loads((self.run_dir(job) / "runner.json").read_text())["pid"]))

    def trainer(self, job: str) -> int:
        """The pid of the job's newest trainer; 0 if it is gone."""
        return self.pid(self.lives(job)[-1]["pid"])

    def spare_runner(self) -> int:
        """The pid of the runner that waits for an order; 0 if there is none."""
        running = {int(json.loads(tag.read_text())["pid"]) for tag in self.home.glob("runs/*/runner.json")}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                inner = int(_nspid(process.pid)) if self.container else process.pid
                if "pi0q.workers.runner.runner_main" in process.cmdline() and inner not in running:
                    return process.pid
        return 0

    def kill(self) -> None:
        """SIGKILL to the worker alone."""
        send(signal.SIGKILL, self.worker_pid)
        self.worker.wait()

    def stop(self) -> int:
        """SIGTERM to the worker; its exit code."""
        send(signal.SIGTERM, self.worker_pid)
        return self.worker.wait(PATIENCE)

    def crash(self) -> None:
        """Every process of the box ends with no grace; in a container the next start has a new boot id."""
        if self.container:
            self.container.crash()
            for door in self.started:
                door.wait()
        else:
            self.kill_everything()

    def freeze(self) -> list[int]:
        """SIGSTOP to every process of the box, as a paused machine; their pids."""
        frozen: list[int] = []
        while fresh := [process.pid for process in self.processes() if process.pid not in frozen]:
            send(signal.SIGSTOP, *fresh)
            frozen += fresh
        return frozen

    def thaw(self) -> None:
        """SIGCONT to every process of the box."""
        for process in self.processes():
            resume(process.pid)

    def kill_everything(self) -> None:
        """Every process with this home, as the end of a container does."""
        if self.container:
            self.crash()
            return
        while living := [process for process in self.processes() if not gone(process.pid)]:
            for process in living:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(living, timeout=0.1)
        for started in self.started:
            started.wait()

    def processes(self, job: str | None = None) -> list[psutil.Process]:
        """The box's processes, or those that bear a job's mark; in a container also those that bear none."""
        found = []
        inside = set(self.container.pids().values()) if self.container else None
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if inside is not None and job is None:
                    if process.pid in inside:
                        found.append(process)
                    continue
                # A door has the box's environment and is none of its processes.
                if inside is not None and process.pid not in inside:
                    continue
                env = process.environ()
                if env.get("PI0Q_HOME") == str(self.home) and job in (None, env.get("PI0Q_JOB")):
                    found.append(process)
        return found

    # -- what it wrote ----------------------------------------------------------------------------

    def says(self, text: str) -> None:
        """Waits for these words in the worker's log."""
        wait(lambda: text in self.log, repr(text), lambda: self.log)

    def run_dir(self, job: str) -> Path:
        return self.home / "runs" / job

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


def send(sig: int, *pids: int) -> None:
    """Signals processes; one that is gone, 0 among them, is no fault. The kernel takes 0 for our own process group."""
    for pid in filter(None, pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)


def resume(pid: int) -> None:
    send(signal.SIGCONT, pid)


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """The process stands still meanwhile."""
    assert pid, "it is gone already"
    os.kill(pid, signal.SIGSTOP)
    yield
    os.kill(pid, signal.SIGCONT)


def _nspid(pid: int) -> str:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in status if line.startswith("NSpid:")).split()[-1]


class Cluster:
    """One queue, its boxes and its user."""

    def __init__(
        self, place: Path, server: Server, *, witness: Path = WITNESS, is_signed: bool = signed.ON, prefix: str = ""
    ) -> None:
        """`witness`: the directory whose sitecustomize.py every Python of the cluster imports first."""
        self.place, self.server, self.witness = place, server, witness
        self.prefix = prefix or f"t{secrets.token_hex(4)}:"
        #: Settings of every machine of it: the user's key, and the keys that its boxes trust.
        self.config = signed.Config(place / "config") if is_signed else None
        self.store = self._connect()
        self.boxes: list[Box] = []

    def _connect(self) -> Store:
        return Store(self.server.client(), self.prefix)

    def follow(self, server: Server) -> None:
        """Another server is the cluster's from now on: the user and every box with a line of its own turn to it."""
        self.server = server
        self.store.client.close()
        self.store = self._connect()
        for box in self.boxes:
            if box.link:
                box.link.retarget(server.port)

    def env(self, home: Path, **more: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PI0Q_", "FAKE_"))}
        paths = [str(self.witness), str(TESTS / "fake_lerobot"), clean.get("PYTHONPATH", "")]
        return clean | {
            "HOME": str(self.place),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PI0Q_REDIS_URL": roles.url(self.server.url, Role.WORKER),
            **roles.tls(self.server.url, Role.WORKER),
            "PI0Q_PREFIX": self.prefix,
            **(self.config.env if self.config else {}),
            "PI0Q_HOME": str(home),
            "PI0Q_TRAINER_PYTHON": sys.executable,
            "PI0Q_SYSTEM_DISK_RESERVE_MIB": "0",
            # The fake trainer loads none, and no test asks the real place.
            "PI0Q_TORCH_WEIGHTS": "off",
            "PI0Q_ROADS": "mirror,turbo,hub",
            "PI0Q_TENSORBOARD_DIR": "off",
            "PI0Q_FAKE_GPUS": "[]",
            "FAKE_STEP_SECONDS": "0.03",
            "FAKE_SLOWLY": str(self._slowly),
            **more,
        }

    def box(
        self,
        name: str = "box-a",
        *,
        slots: int = 1,
        gpus: list[float] | None = None,
        linked: bool = False,
        contained: bool | Container = False,
        clock: str = "",
        cards: Path | None = None,
        **env: str,
    ) -> Box:
        """Starts a box.

        Args:
            gpus: GiB of each of its simulated cards.
            linked: Over a line of its own to the server (`box.link`).
            contained: In this container, or in a new one where this machine allows one; else `box.container` stays
                None and `machine.refusal()` says why.
            clock: How wrong its clock is, "+2h".
            cards: File of its cards as NVML shows them, see tests/rig/cards.
            env: More of its environment.
        """
        home = self.place / name
        (home / "datasets" / "grab_box" / "meta").mkdir(parents=True, exist_ok=True)
        (home / "datasets" / "grab_box" / "meta" / "info.json").write_text("{}")
        simulated = json.dumps([{"name": "simulated", "total_gib": gib} for gib in gpus or []])
        argv = ["--name", name, "--slots", str(slots)]
        link = Link(roles.url(self.server.url, Role.WORKER)) if linked else None
        url = {"PI0Q_REDIS_URL": link.url} if link else {}
        made = Container() if contained and not machine.refusal() else None
        box = Box(
            name=name,
            home=home,
            env=self.env(home, PI0Q_FAKE_GPUS=simulated, **url, **env),
            argv=argv,
            link=link,
            container=contained if isinstance(contained, Container) else made,
        )
        if cards:
            del box.env["PI0Q_FAKE_GPUS"]
            box.env["PI0Q_TEST_CARDS"] = str(cards)
            box.env["PYTHONPATH"] = os.pathsep.join([str(TESTS / "rig" / "cards"), box.env["PYTHONPATH"]])
        box.set_clock(clock)
        self.boxes.append(box)
        if self.config:
            self.config.trust_box(home, name)
        return box.start()

    def submit(
        self, name: str = "grab_box", *, steps: int = 40, save_freq: int = 10, gib: float = 0, **more: Any
    ) -> str:
        """Queues a job: of one GPU with this many GiB, or of none."""
        resources = {"gpus": more.pop("cards", 1), "vram": f"{gib}GiB"} if gib else {"gpus": 0}
        resources |= {"disk": more.pop("disk", SMALL_DISK), "share": more.pop("share", False)}
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
        # What a story tells is told of the run itself.
        more.setdefault("preflight", {"rehearse": "never"})
        text = yaml.safe_dump({"name": name, "resources": resources, "train": train, **more})
        return self.submit_file(text)

    def submit_file(self, text: str) -> str:
        """Queues the job of this file, signed as its user's jobs are."""
        with self.config.used() if self.config else contextlib.nullcontext():
            return str(put(self.store, new_fields(parse(text, filename="job.yaml")))["id"])

    @property
    def _slowly(self) -> Path:
        return self.place / "slowly"

    def slow_down(self, step: int) -> None:
        """From this step on trainers take their time, until `speed_up`: what is done in the middle of a training comes
        before its end, on a busy machine as well."""
        self._slowly.write_text(str(step))

    def speed_up(self) -> None:
        self._slowly.unlink(missing_ok=True)

    def let_lease_run_out(self, job: str) -> None:
        """As if its box, which says nothing any more, had been silent for all of it."""
        self.store.client.zadd(f"{self.prefix}leases", {job: self.store.now_ms() - 1})
        self.store.client.delete(f"{self.prefix}swept")
        self.store.sweep()

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
        """Waits until a box that has looked at its trainer says why it does not take the job; its words."""
        said: dict[str, str] = {}

        def told() -> bool:
            record = self.store.get(job)
            for known in self.store.boxes(about=job):
                if known["name"] == box:
                    said[job] = "; ".join(map(str, reasons(known, record)))
            # Whether it may run here at all is looked at first, and is not what a story waits for.
            return said.get(job, "") != "" and "environment is being inspected" not in said[job]

        wait(told, f"a refusal of {job}", lambda: "".join(b.log for b in self.boxes))
        return said[job]

    def pi0q(self, *args: str, role: Role | None = None) -> subprocess.CompletedProcess[str]:
        """A command on the user's own machine, as the user of the server that its verb needs, or of this role."""
        role = role or roles.of_verb(args)
        as_user = {"PI0Q_REDIS_URL": roles.url(self.server.url, role), **roles.tls(self.server.url, role)}
        return subprocess.run(
            [sys.executable, "-m", "pi0q.queue.cli", *args],
            env=self.env(self.place / "laptop", **as_user),
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
            if box.link:
                box.link.close()
        with contextlib.suppress(redis.RedisError):
            for key in self.store.client.scan_iter(f"{self.prefix}*"):
                self.store.client.delete(key)
        self.store.client.close()

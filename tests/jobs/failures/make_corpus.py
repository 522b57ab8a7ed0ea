"""Makes the corpus of failures again: real runs of this interpreter's LeRobot, on the CPU, that go wrong.

    python -m tests.jobs.failures.make_corpus [CASE…]      all cases, or some; `--list` names them

LeRobot is imported once; each run is a fork of that. It wants root (small disks, memory groups) and some minutes. What
it writes beside this file is read by test_corpus.py: a header (what was done, how it ended, what the hook said), then
the log. Directories are renamed, nothing else is changed.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).with_name("corpus")
LIMIT_SECONDS = 150.0
MEMORY = Path("/sys/fs/cgroup/memory")
ACT = [
    "--policy.type=act", "--policy.device=cpu", "--policy.push_to_hub=false", "--policy.dim_model=64",
    "--policy.n_heads=2", "--policy.dim_feedforward=128", "--policy.n_encoder_layers=1",
    "--policy.n_vae_encoder_layers=1", "--policy.chunk_size=8", "--policy.n_action_steps=8",
    "--policy.pretrained_backbone_weights=null",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run that fails."""

    #: The class that pi0q is to give it.
    reason: str
    #: What was done, for the header.
    done: str
    #: Flags after the usual ones: a later one wins.
    flags: tuple[str, ...] = ()
    #: Of the usual flags, those to leave out.
    without: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    #: Called in the run's process before LeRobot's main.
    before: Callable[[], None] | None = None
    #: Called here with its pid once it reported this step.
    at: tuple[int, Callable[[int], None]] | None = None
    #: A memory group of so many MiB.
    memory_mib: int = 0
    #: What pi0q heard from outside that ended it.
    heard: str = ""
    #: More of its log is kept.
    whole: bool = False
    #: LeRobot versions, by their beginning; all if empty.
    only: str = ""


class Place:
    """Where it all happens."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dataset = root / "datasets" / "grab_box"

    def copy(self, name: str) -> Path:
        """A copy of the good dataset, to be spoiled."""
        copied = self.root / "datasets" / name
        if not copied.exists():
            shutil.copytree(self.dataset, copied)
        return copied

    def with_info(self, name: str, **changes: Any) -> Path:
        copied = self.copy(name)
        info = copied / "meta" / "info.json"
        info.write_text(json.dumps(json.loads(info.read_text()) | changes))
        return copied


def lerobot() -> str:
    return importlib.metadata.version("lerobot")


def usual(place: Place, output: Path) -> list[str]:
    eval_freq = "env_eval_freq" if lerobot() >= "0.6" else "eval_freq"
    return [
        "--dataset.repo_id=local/grab_box", f"--dataset.root={place.dataset}", f"--output_dir={output}", *ACT,
        "--batch_size=2", "--steps=6", "--save_freq=2", "--log_freq=1", "--num_workers=0", f"--{eval_freq}=0",
        "--wandb.enable=false", "--job_name=grab_box",
    ]  # fmt: skip


def mount_small(path: Path, options: str) -> Callable[[], None]:
    """A small RAM disk at `path`, seen by the run alone."""

    def mount() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(0x00020000) == 0, os.strerror(ctypes.get_errno())
        assert libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) == 0
        path.mkdir(parents=True, exist_ok=True)
        assert libc.mount(b"tmpfs", str(path).encode(), b"tmpfs", 0, options.encode()) == 0

    return mount


def limited(what: int, amount: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (amount, amount))


def workers_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ours = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid
            if ours and b"resource_tracker import" not in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def kill(number: int) -> Callable[[int], None]:
    return lambda pid: os.kill(pid, number)


def kill_worker(number: int) -> Callable[[int], None]:
    def kill_one(pid: int) -> None:
        for worker in workers_of(pid)[:1]:
            os.kill(worker, number)

    return kill_one


def stop_worker_and_ask(pid: int) -> None:
    """Data loaders that stand still; then what pi0q does: stacks, and the end."""
    for worker in workers_of(pid):
        os.kill(worker, signal.SIGSTOP)
    time.sleep(3)
    os.kill(pid, signal.SIGUSR2)
    time.sleep(1)
    os.kill(pid, signal.SIGKILL)
    for worker in workers_of(pid):
        os.kill(worker, signal.SIGKILL)


class Maker:
    """Runs cases and writes them down."""

    def __init__(self, place: Place, hub: str, hook: Any) -> None:
        self.place, self.hub, self.hook = place, hub, hook

    def make(self, name: str, case: Case) -> None:
        work = self.place.root / "runs" / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        taken = {flag.partition("=")[0] for flag in (*case.flags, *case.without)}
        flags = [flag for flag in usual(self.place, work / "output") if flag.partition("=")[0] not in taken]
        argv = [*flags, *(flag.replace("OUTPUT", str(work / "output")) for flag in case.flags)]
        group = self._group(name, case.memory_mib)
        before = _memory(group)
        pid = os.fork()
        if pid == 0:
            self._run(argv, work, case, group)
        status = self._wait(pid, work / "events.jsonl", case)
        after = _memory(group)
        if group:
            group.rmdir()
        code = os.waitstatus_to_exitcode(status)
        self._write(name, case, argv, work, code, {k: after[k] - before.get(k, 0) for k in after if k != "limit"})
        print(f"{name}: exit {code}", flush=True)

    def _group(self, name: str, mib: int) -> Path | None:
        if not mib:
            return None
        group = MEMORY / f"pi0q-corpus-{os.getpid()}-{name}"
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(mib << 20))
        return group

    def _run(self, argv: list[str], work: Path, case: Case, group: Path | None) -> None:
        try:
            os.setsid()
            log = os.open(work / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(work)
            os.environ.update({"PI0Q_EVENTS": str(work / "events.jsonl"), **case.env})
            if group:
                (group / "cgroup.procs").write_text(str(os.getpid()))
            if case.before:
                case.before()
            sys.argv = ["lerobot-train", *argv]
            self.hook.main()
            sys.stdout.flush()
            os._exit(0)
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
        except KeyboardInterrupt:
            traceback.print_exc()
            sys.stderr.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os._exit(99)

    def _wait(self, pid: int, events: Path, case: Case) -> int:
        give_up, struck = time.monotonic() + LIMIT_SECONDS, False
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return status
            if case.at and not struck and any(e.get("step") == case.at[0] for e in _events(events, "step")):
                struck = True
                case.at[1](pid)
            if time.monotonic() > give_up:
                print(f"killed after {LIMIT_SECONDS:.0f} s")
                for worker in [*workers_of(pid), pid]:
                    os.kill(worker, signal.SIGKILL)
                give_up += 60
            time.sleep(0.05)

    def _write(self, name: str, case: Case, argv: list[str], work: Path, code: int, memory: Mapping[str, int]) -> None:
        errors = _events(work / "events.jsonl", "error") + _events(work / "events.jsonl", "nonfinite")
        causes = _events(work / "events.jsonl", "cause")
        steps = _events(work / "events.jsonl", "step")
        head = {
            "reason": case.reason, "lerobot": lerobot(), "source": f"a real run on a CPU: {case.done}", "exit": code,
            "error": _told(errors[-1]) if errors and "type" in errors[-1] else None,
            "step": steps[-1]["step"] if steps else 0, "memory": dict(memory) or None, "argv": " ".join(argv),
        }  # fmt: skip
        if errors and errors[-1]["event"] == "nonfinite":
            head["error"] = ["NonFiniteLoss", f"the {errors[-1]['what']} became {errors[-1]['value']}"]
        if case.heard:
            head["heard"] = case.heard
        if causes:
            head["causes"] = [_told(cause) for cause in causes]
        lines = [
            f"# {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items() if value is not None
        ]
        text = (work / "log").read_text(errors="replace")
        text = re.sub(r"\nExtension modules: [^\n]*", "", text)
        text = "\n".join(line.rpartition("\r")[2] for line in text.split("\n"))
        if not case.whole:
            text = re.sub(r"\[start of libtorchcodec.*\[end of libtorchcodec[^\n]*", "[…]", text, flags=re.S)
        first, last = (15000, 15000) if case.whole else (300, 2600)
        if len(text) > first + last:
            text = text[:first] + "\n[…]\n" + text[-last:]
        whole = self._renamed("\n".join([*lines, "", text.strip(), ""]))
        (CORPUS / f"{name}-{lerobot()}.log").write_text(whole)

    def _renamed(self, text: str) -> str:
        text = text.replace(str(self.place.root), "/data/pi0q").replace(sys.prefix, "/opt/trainer")
        text = text.replace(str(Path(str(self.hook.__file__)).parents[3]), "/opt/pi0q")
        text = text.replace(str(Path(str(self.hook.__file__)).resolve().parents[3]), "/opt/pi0q")
        return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8080", text).replace(self.hub, "http://127.0.0.1:8080")


def _memory(group: Path | None) -> dict[str, int]:
    """oom_kill and failcnt of a memory group."""
    if group is None:
        return {}
    told = dict(line.split() for line in (group / "memory.oom_control").read_text().splitlines())
    return {"oom_kill": int(told["oom_kill"]), "failcnt": int((group / "memory.failcnt").read_text())}


def _told(event: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in ("event", "t")}


def _events(file: Path, kind: str) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    return [event for event in lines if event["event"] == kind]


def main() -> None:
    from tests.jobs.failures.corpus_cases import cases, spoil
    from tests.standin_hub import StandInHub

    wanted = set(sys.argv[1:])
    CORPUS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pi0q-corpus-") as temporary, StandInHub() as hub:
        place = Place(Path(temporary))
        os.environ.update({
            "HF_HOME": f"{temporary}/hf", "HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline",
            "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        })  # fmt: skip
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
            os.environ.pop(name, None)
        standins = Path(importlib.import_module("pi0q.ops.local.standins_main").__file__ or "")
        subprocess.run([sys.executable, str(standins), "dataset", str(place.dataset)], check=True)
        found = {name: case for name, case in cases(place, hub).items() if lerobot().startswith(case.only)}
        if "--list" in wanted:
            print(*found)
            return
        spoil(place, hub)
        hook = importlib.import_module("pi0q.workers.trainer.pi0q_trainer.main")
        for module in (hook.TRAIN, "lerobot.policies.act.modeling_act", "transformers"):
            try:
                importlib.import_module(module)
            except ImportError as error:
                print(module, error)
        for name, case in found.items():
            if not wanted or name in wanted:
                Maker(place, hub.url, hook).make(name, case)


if __name__ == "__main__":
    main()

"""Imported first by every Python of a nemesis round: writes down what it does, one JSON line each.

Times are CLOCK_MONOTONIC in seconds, the same in all processes of the machine. A call of the store is written
before it is made and after it was answered, so one that was never answered is known to be a maybe. A trainer's
steps and saves are written by the fake LeRobot (FAKE_RECORD). A job named `oom@3` gets FAKE_FAULT=oom@3.
"""

import contextlib
import importlib.abc
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

FAULT = re.compile(r"(oom|error|nan)@\d+")
#: Acts of the store that the checker reads, and which of their arguments: job, epoch, box, more.
ACTS = {"claim", "move", "report", "restore", "sweep", "wish"}
RECORD = os.environ.get("FAKE_RECORD", "")


def write(**fields: Any) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, json.dumps(fields).encode() + b"\n")
        os.close(handle)


def shown(script: str, args: tuple[Any, ...]) -> list[str]:
    """The arguments, without logs and specs."""
    return [str(arg) if len(str(arg)) < 300 else str(arg)[:40] + "…" for arg in args]


def watch_store(module: Any) -> None:
    run, count = module.Store._run, [0]

    def watched(self: Any, script: str, *args: Any) -> Any:
        if script not in ACTS:
            return run(self, script, *args)
        count[0] += 1
        call = {"pid": os.getpid(), "n": count[0], "script": script}
        write(e="call", t=time.monotonic(), args=shown(script, args), **call)
        try:
            answer = run(self, script, *args)
        except Exception as error:
            write(e="fault", t=time.monotonic(), error=type(error).__name__, **call)
            raise
        write(e="answer", t=time.monotonic(), answer=answer, **call)
        return answer

    module.Store._run = watched


class After(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets `watch` see a module once it was imported."""

    def __init__(self, name: str, watch: Any) -> None:
        self.name, self.watch, self.busy = name, watch, False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name or self.busy:
            return None
        self.busy = True
        self.spec = importlib.util.find_spec(name)
        assert self.spec is not None and self.spec.loader is not None
        return importlib.util.spec_from_file_location(name, self.spec.origin, loader=self)

    def create_module(self, spec: Any) -> Any:
        return None

    def exec_module(self, module: Any) -> None:
        assert self.spec is not None and self.spec.loader is not None
        self.spec.loader.exec_module(module)
        self.watch(module)


def watch_manifests() -> None:
    replace = pathlib.Path.replace

    def watched(self: pathlib.Path, target: Any) -> Any:
        done = replace(self, target)
        if pathlib.Path(target).name == "pi0q.manifest.json":
            write(e="manifest", t=time.monotonic(), pid=os.getpid(), path=str(target))
        return done

    pathlib.Path.replace = watched  # type: ignore[method-assign]


def stray() -> None:
    """A grandchild that leaves session and group, clears its environment and ignores what can be ignored."""
    deaf = "import os, signal, time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]\n"
    deaf += "os.fork() and os._exit(0); time.sleep(600)"
    subprocess.Popen([sys.executable, "-I", "-S", "-c", deaf, "pi0q-stray"], start_new_session=True, env={})


def trainer(job: str) -> None:
    write(e="begin", t=time.monotonic(), pid=os.getpid(), job=job, epoch=int(os.environ["PI0Q_EPOCH"]))
    name = next((flag[11:].strip('"') for flag in sys.orig_argv if flag.startswith("--job_name=")), "")
    if FAULT.fullmatch(name):
        os.environ["FAKE_FAULT"] = name
    if name == "stray":
        stray()


if RECORD:
    if "PI0Q_JOB" in os.environ and any(part.endswith("workers/trainer/pi0q_trainer") for part in sys.orig_argv):
        trainer(os.environ["PI0Q_JOB"])
    elif any(part in ("pi0q.queue.cli", "pi0q.workers.runner.runner_main") for part in sys.orig_argv):
        sys.meta_path.insert(0, After("pi0q.queue.store", watch_store))
        watch_manifests()

"""Entry of the trainer: signals, the hook, LeRobot's `main`."""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import importlib.metadata
import os
import platform
import signal
import traceback
from typing import Any

from . import checks
from .events import Events
from .exits import INTERRUPTED, WANDB_END_S, leave
from .hook import Hook
from .lease import Lease

TRAIN = "lerobot.scripts.lerobot_train"


def version(package: str) -> str | None:
    return next((found.version for found in importlib.metadata.distributions(name=package)), None)


def load(hook: Hook) -> tuple[Any, bool]:
    """Return LeRobot's `main`, and whether it is hooked."""
    try:
        train = importlib.import_module(TRAIN)
        if hook.install(train):
            return train.main, True
    except ModuleNotFoundError as error:
        if error.name not in (TRAIN, "lerobot.scripts"):
            raise
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="lerobot-train")
    return script.load(), False


def main() -> None:
    if parent := os.environ.get("PI0Q_PARENT"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):  # it died before that line
            os._exit(INTERRUPTED)
    faulthandler.enable()  # a crash in a library says where it was
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    events = Events(os.environ.get("PI0Q_EVENTS"))
    hook = Hook(events)
    signal.signal(signal.SIGUSR1, hook.on_usr1)
    signal.signal(signal.SIGTERM, hook.on_term)
    # Now: past its fence it sends SIGTERM at once.
    hook.lease = Lease(os.environ.get("PI0Q_LEASE"))
    try:
        run, hooked = load(hook)
        versions = {name: version(name) for name in ("lerobot", "torch")}
        events.send("start", **versions, python=platform.python_version(), pid=os.getpid(), hooked=hooked)
        run()
    except SystemExit as error:
        if error.code not in (None, 0):
            events.send("error", type="SystemExit", message=str(error.code))
        raise
    except Exception as error:
        traceback.print_exc()
        for cause in checks.causes(error):
            events.send("cause", **checks.describe(cause))
        events.send("error", **checks.describe(error))
        leave(1)
    events.send("end", step=hook.cfg.steps if hook.cfg else None)
    if hook.cfg and hook.cfg.wandb.enable:
        # Its own end waits for a network that is away, with the GPU.
        leave(0, wandb_s=WANDB_END_S)

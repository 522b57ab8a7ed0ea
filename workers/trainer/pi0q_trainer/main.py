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
from .exits import INTERRUPTED, PEER_GONE, WANDB_END_S, at_leave, leave
from .hook import Hook
from .lease import Lease
from .rank_hook import RankHook
from .ranks import Ranks

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
    if hook.ranks.count > 1:
        raise RuntimeError("this LeRobot can't be hooked, so its ranks would not save and stop together")
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
    ranks = Ranks()
    events = Events(os.environ.get("PI0Q_EVENTS"), ranks.rank)
    hook = RankHook(events, ranks) if ranks.rank else Hook(events, ranks)
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
        if ranks.peer_gone():
            leave(PEER_GONE)  # what another rank's end did to this one is not why the run ends
        for cause in checks.causes(error):
            events.send("cause", **checks.describe(cause))
        events.send("error", **checks.describe(error))
        leave(1)
    if ranks.rank:
        leave(0)  # the run ends with rank 0: no library here is to fail at its end
    events.send("end", step=hook.cfg.steps if hook.cfg else None)
    if hook.cfg and (hook.cfg.wandb.enable or at_leave):
        # WandB's own end waits for a network that is away, with the GPU.
        leave(0, wandb_s=WANDB_END_S)

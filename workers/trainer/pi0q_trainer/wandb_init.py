"""WandB, which may neither stop nor delay a training: the job's one run, or a new one, or one that is kept here."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

#: how long an online run may take to begin: WandB's own limit is 90 s, and it has none where nobody answers, seconds
BEGIN_S = 30.0
#: what WandB says of an id whose run a user removed
DELETED = "previously created and deleted"
#: how often this trainer was begun anew for WandB's sake
TRIES, MOST_TRIES = "PI0Q_WANDB_TRIES", 3
#: as this process was started: LeRobot refuses to start with what accelerate adds
ENVIRONMENT = dict(os.environ)


def begin(make: Callable[[Any], Any], cfg: Any) -> Any:
    """LeRobot's logger. Where WandB fails, this process begins anew (it has trained nothing yet): once an online
    `init` hangs, an offline one in the same process hangs as well."""
    if cfg.wandb.run_id:
        resume_or_create()
    if cfg.wandb.mode not in (None, "online"):
        return make(cfg)
    made, failed = list[Any](), list[str]()

    def online() -> None:
        try:
            made.append(make(cfg))
        except BaseException as error:
            failed.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=online, name="wandb.init", daemon=True)
    thread.start()
    thread.join(float(os.environ.get("PI0Q_WANDB_BEGIN_S") or BEGIN_S))
    if made:
        return made[0]
    begin_anew(failed[0] if failed else "it did not answer in time", str(cfg.wandb.run_id or ""))


def begin_anew(why: str, run_id: str) -> NoReturn:
    """Put this program in its own place, with other flags for WandB."""
    tries = int(os.environ.get(TRIES) or 0) + 1
    flags = changed(sys.orig_argv[1:], why, run_id, tries)
    said = " ".join(why.split())[:300]
    print(f"pi0q: WandB failed ({said}); the trainer restarts with {' '.join(flags[-2:])}", flush=True)
    os.execve(sys.executable, [sys.executable, *flags], {**ENVIRONMENT, TRIES: str(tries)})


def changed(argv: Sequence[str], why: str, run_id: str, tries: int) -> list[str]:
    """The command line with which WandB may do better: another run where its own was deleted, offline, or none."""
    names = ("--wandb.mode=", "--wandb.run_id=", "--wandb.enable=")
    kept = [flag for flag in argv if not flag.startswith(names)]
    if tries >= MOST_TRIES:
        return [*kept, "--wandb.enable=false"]
    if DELETED in why and run_id:
        return [*kept, "--wandb.enable=true", "--wandb.mode=online", f"--wandb.run_id={following(run_id)}"]
    return [*kept, "--wandb.enable=true", *([f"--wandb.run_id={run_id}"] if run_id else []), "--wandb.mode=offline"]


def following(run_id: str) -> str:
    """The id of the run after this one: `pi0q-a1`, `pi0q-a1.2`, `pi0q-a1.3`."""
    match = re.fullmatch(r"(.+)\.(\d+)", run_id)
    return f"{match[1]}.{int(match[2]) + 1}" if match else f"{run_id}.2"


def resume_or_create() -> None:
    """LeRobot resumes a run that "must" exist, which ends a training whose run was never synced; and a first attempt
    anew would write over what the run has already."""
    with contextlib.suppress(ImportError):
        wandb: Any = importlib.import_module("wandb")
        init = wandb.init
        wandb.init = lambda *args, **kwargs: init(*args, **{**kwargs, "resume": "allow"})

"""`pi0q box setup`: makes a machine a box, lists what is missing for that, or takes it back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.ops import boot, keeper, steps, stored
from pi0q.ops.checks import disks, trainer
from pi0q.ops.checks.finding import Finding, Patient, Status
from pi0q.ops.machine import AUTODL_DATA, Machine, room, size_mib
from pi0q.queue import settings as all_settings
from pi0q.queue.settings import READERS, Settings
from pi0q.workers import interpreter
from pi0q.workers.run.directory import live_runs

#: Where the guide puts the Hub's cache; what it has fetched is not fetched again.
GUIDE_HF_HOME = f"{AUTODL_DATA}/huggingface_cache"
NEXT = "Done: this machine takes jobs. See it with `pi0q boxes`, and how it is with `pi0q doctor`."
NOT_YET = "Set up, but it takes no jobs until what is broken is mended; then run this command again."


@dataclass(frozen=True, kw_only=True)
class Done:
    """What became of one step."""

    name: str
    #: "ok" (was in place), "done", "missing" (only looked at), "removed" or "failed".
    status: str
    detail: str


def require() -> None:
    """Raises UsageError where the worker that is set up could not start."""
    if find_spec("celery") is None:
        raise UsageError(
            "What `pi0q worker` needs is not installed here; nothing was done.\n"
            f"Install it with: {sys.executable} -m pip install 'pi0q[worker]'"
        )


def plan(machine: Machine, *, removing: bool = False) -> steps.Plan:
    """What this machine would be as a box, or is where it is taken back.

    Raises UsageError where nothing says where the queue is, or home is no place for a box.
    """
    settings, kept = _known(machine)
    settings = replace(settings, hf_home=_hf_home(machine, settings))
    if removing:
        return steps.Plan(machine=machine, settings=settings, values=kept)
    if "redis_url" not in settings.sources:
        raise UsageError(
            "Nothing says where the queue is; nothing was done.\n"
            "Run it as: PI0Q_REDIS_URL='rediss://USER:PASSWORD@HOST:PORT/0' pi0q box setup"
        )
    chosen = "" if settings.trainer_python and "trainer_python" not in kept else _python(machine, settings)
    values = kept | _to_store(machine, settings, chosen)
    if machine.autodl and not machine.on_data_disk(settings.home):
        raise UsageError(
            f"PI0Q_HOME is {settings.home}, which is not on AutoDL's data disk; nothing was done.\n"
            "Unset it, or choose a directory below /root/autodl-tmp."
        )
    return steps.Plan(machine=machine, settings=replace(settings, trainer_python=values.get("trainer_python", "")),
                      values=values)  # fmt: skip


def _known(machine: Machine) -> tuple[Settings, dict[str, str]]:
    """The settings, and those of them that an earlier setup has stored.

    A system reset takes away the link to the file, and the data disk keeps it.
    """
    link = all_settings.config_path(machine.env)
    file = link if link.is_file() else all_settings.load(machine.env).home / "config.toml"
    return all_settings.load(machine.env, config=file), stored.ours(stored.read(file))


def _to_store(machine: Machine, settings: Settings, trainer_python: str) -> dict[str, str]:
    """The settings that the box must find when it starts by itself: those of this shell, and where things lie."""
    given = {name: machine.env[f"PI0Q_{name.upper()}"] for name in READERS if machine.env.get(f"PI0Q_{name.upper()}")}
    places = {"home": str(settings.home), "hf_home": str(settings.hf_home)}
    chosen = {"trainer_python": trainer_python} if trainer_python else {}
    return chosen | given | places


def _hf_home(machine: Machine, settings: Settings) -> Path:
    """Where the Hub's cache goes: what was chosen, unless that is AutoDL's system disk; else the guide's if it is
    there already; else below home."""
    guide = machine.at(GUIDE_HF_HOME)
    chosen = "hf_home" in settings.sources or machine.env.get("HF_HOME")
    if chosen and (not machine.autodl or machine.on_data_disk(settings.hf_home)):
        return settings.hf_home
    return guide if machine.autodl and guide.is_dir() else settings.home / "huggingface"


def _python(machine: Machine, settings: Settings) -> str:
    """The Python that has LeRobot, "" if none has; one that an earlier setup chose may have gone."""
    for asked in dict.fromkeys((settings.trainer_python, "")):
        found = interpreter.find(replace(settings, trainer_python=asked), machine.env)
        if isinstance(found, interpreter.Trainer):
            return found.python
    return ""


def steps_of(made: steps.Plan) -> list[steps.Step]:
    """In the order in which they are done; they are undone in the other."""
    return [
        steps.Folders(made),
        steps.StoredSettings(made),
        steps.Secrets(made),
        steps.Token(made),
        steps.PipCache(made),
        steps.Command(made),
        boot.at_boot(made),
        boot.Worker(made),
    ]


def prepare(made: steps.Plan) -> Iterator[Done]:
    """Puts in place what is not. One step's failure keeps the others from nothing."""
    for step in steps_of(made):
        try:
            lacking = step.missing()
            text = step.do()
        except (OSError, Pi0qError) as error:
            yield Done(name=step.name, status="failed", detail=_told(error))
            continue
        yield Done(name=step.name, status="done" if lacking else "ok", detail=text)


def check(made: steps.Plan) -> Iterator[Done]:
    """What is missing; nothing is changed."""
    for step in steps_of(made):
        lacking = step.missing()
        yield Done(name=step.name, status="missing" if lacking else "ok", detail=lacking)


def remove(made: steps.Plan) -> Iterator[Done]:
    """Takes all of it back; runs, checkpoints and caches stay."""
    running = live_runs(made.settings.runs)
    for step in reversed(steps_of(made)):
        try:
            if text := step.undo():
                yield Done(name=step.name, status="removed", detail=text)
        except OSError as error:
            yield Done(name=step.name, status="failed", detail=_told(error))
    for job in running:
        yield Done(name="training", status="ok", detail=f"{job} goes on to its end")
    if made.home.is_dir():
        left = f"{made.home} with its runs and caches ({size_mib(made.home) / 1024:.1f} GiB); to be rid of it: rm -r"
        yield Done(name="kept", status="ok", detail=left)


def judge(made: steps.Plan) -> list[Finding]:
    """What setup can't put right itself: card, memory, the trainer's environment, room on the disks."""
    one = Patient(machine=made.machine, settings=made.settings, box=True)
    found = [*trainer.check(one), disks.data(made.machine, made.home), disks.system(one)]
    return [finding for finding in found if finding.status in (Status.WARNING, Status.BROKEN)]


def state(machine: Machine, settings: Settings) -> dict[str, object]:
    """How this machine is as a box, for `pi0q box status`."""
    home = settings.home
    living, working = keeper.keeper(home), keeper.worker(home)
    return {
        "home": str(home),
        "free_gib": round(room(home).free_mib / 1024, 1),
        "worker": "runs" if keeper.locked(home) else "does not run",
        "worker_pid": working.pid if working else None,
        "keeper_pid": living.pid if living else None,
        "starts_with": boot.starts_by_itself(machine, home) or None,
        "runs": sorted(path.name for path in settings.runs.glob("*") if path.is_dir()),
        "log": str(keeper.log_of(home)),
    }


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

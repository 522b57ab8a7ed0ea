"""`pi0q box setup`: make a machine a box, list what is missing for that, or undo it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.ops import file_edits
from pi0q.ops.box import autostart, control, idle, steps, tunnel
from pi0q.ops.box.plan import Beyond, Plan, Step
from pi0q.ops.box.worker_state import worker_state
from pi0q.ops.checks import disks, own_box, trainer
from pi0q.ops.checks.finding import CheckTarget, Finding, Status
from pi0q.ops.machine import AUTODL_DATA, Machine, directory_mib, disk_space
from pi0q.queue import settings as all_settings
from pi0q.queue.setting_readers import READERS
from pi0q.queue.settings import Settings
from pi0q.workers.host import gpu_mode
from pi0q.workers.runs.run_directory import live_runs
from pi0q.workers.trainer import interpreter

#: Where the guide puts the Hub's cache; what is in it is not downloaded again.
GUIDE_HF_HOME = f"{AUTODL_DATA}/huggingface_cache"
NEXT = "Done: this machine takes jobs. List it with `pi0q boxes`, check it with `pi0q doctor`."
NOT_YET = "Set up, but it takes no jobs yet. Fix what is broken, then run this command again."


@dataclass(frozen=True, kw_only=True)
class Done:
    """Result of one step."""

    name: str
    #: "ok" (was in place), "done", "missing" (only checked), "removed", "failed", or "none": a person has to do it.
    status: str
    detail: str


def require() -> None:
    """Raise UsageError where the worker could not start for want of a package."""
    if find_spec("celery") is None:
        raise UsageError(
            "What `pi0q worker` needs is not installed here; nothing was done.\n"
            f"Install it with: {sys.executable} -m pip install 'pi0q[worker]'"
        )


def plan(machine: Machine, *, removing: bool = False) -> Plan:
    """Return the plan of this machine as a box; `removing`: of what an earlier setup made.

    Raises UsageError where the queue's address is unknown, or home is on AutoDL's system disk.
    """
    settings, kept = _known(machine)
    settings = replace(settings, hf_home=_hf_home(machine, settings))
    if removing:
        return Plan(machine=machine, settings=settings, values=kept)
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
    return Plan(machine=machine, settings=replace(settings, trainer_python=values.get("trainer_python", "")),
                      values=values)  # fmt: skip


def _known(machine: Machine) -> tuple[Settings, dict[str, str]]:
    """Return the settings, and the values that an earlier setup has stored.

    A system reset removes the link to the file; the data disk keeps the file.
    """
    link = all_settings.config_path(machine.env)
    file = link if link.is_file() else all_settings.load(machine.env).home / "config.toml"
    return all_settings.load(machine.env, config=file), file_edits.ours(file_edits.read(file))


def _to_store(machine: Machine, settings: Settings, trainer_python: str) -> dict[str, str]:
    """Return the settings that a booting box needs: those of this shell, and its directories."""
    given = {name: machine.env[f"PI0Q_{name.upper()}"] for name in READERS if machine.env.get(f"PI0Q_{name.upper()}")}
    places = {"home": str(settings.home), "hf_home": str(settings.hf_home)}
    chosen = {"trainer_python": trainer_python} if trainer_python else {}
    return chosen | given | places


def _hf_home(machine: Machine, settings: Settings) -> Path:
    """Return the Hub's cache directory: the chosen one unless it is on AutoDL's system disk, else the guide's if it
    exists, else one below home."""
    guide = machine.at(GUIDE_HF_HOME)
    chosen = "hf_home" in settings.sources or machine.env.get("HF_HOME")
    if chosen and (not machine.autodl or machine.on_data_disk(settings.hf_home)):
        return settings.hf_home
    return guide if machine.autodl and guide.is_dir() else settings.home / "huggingface"


def _python(machine: Machine, settings: Settings) -> str:
    """Return the Python that has LeRobot, "" if none has; the one that an earlier setup chose may be gone."""
    for asked in dict.fromkeys((settings.trainer_python, "")):
        found = interpreter.find(replace(settings, trainer_python=asked), machine.env)
        if isinstance(found, interpreter.TrainerPython):
            return found.python
    return ""


def steps_of(made: Plan) -> list[Step]:
    """Return the steps in the order of doing; undoing runs in reverse."""
    return [
        steps.Folders(made),
        steps.StoredSettings(made),
        steps.Secrets(made),
        steps.Token(made),
        steps.PipCache(made),
        steps.Command(made),
        autostart.at_boot(made),
        *([tunnel.KeptTunnel(made)] if made.tunnel or (made.home / tunnel.FILE).exists() else []),
        steps.Worker(made),
    ]


def prepare(made: Plan) -> Iterator[Done]:
    """Do every step; one that fails does not prevent the others."""
    for step in steps_of(made):
        try:
            lacking = step.missing()
            text = step.do()
        except (OSError, Pi0qError) as error:
            yield Done(name=step.name, status="failed", detail=_one_line(error))
            continue
        yield Done(name=step.name, status="done" if lacking else "none" if _beyond(step) else "ok", detail=text)


def check(made: Plan) -> Iterator[Done]:
    """Check every step; change nothing."""
    for step in steps_of(made):
        lacking, beyond = step.missing(), _beyond(step)
        yield Done(
            name=step.name, status="missing" if lacking else "none" if beyond else "ok", detail=lacking or beyond
        )


def _beyond(step: Step) -> str:
    return step.beyond() if isinstance(step, Beyond) else ""


def remove(made: Plan) -> Iterator[Done]:
    """Undo every step; runs, checkpoints and caches stay."""
    running = live_runs(made.settings.runs)
    for step in reversed(steps_of(made)):
        try:
            if text := step.undo():
                yield Done(name=step.name, status="removed", detail=text)
        except OSError as error:
            yield Done(name=step.name, status="failed", detail=_one_line(error))
    for job in running:
        yield Done(name="training", status="ok", detail=f"{job} continues to its end")
    if made.home.is_dir():
        left = f"{made.home} with its runs and caches ({directory_mib(made.home) / 1024:.1f} GiB). Delete: rm -r"
        yield Done(name="kept", status="ok", detail=left)


def unrepairable(made: Plan) -> list[Finding]:
    """Return the faults that setup can't repair: GPU, memory, the trainer's environment, disk space."""
    target = CheckTarget(machine=made.machine, settings=made.settings, box=True)
    findings = [
        *filter(None, [idle.check(made.settings)]),
        *trainer.check(target),
        disks.data(made.machine, made.home),
        disks.system(target),
    ]
    return [finding for finding in findings if finding.status in (Status.WARNING, Status.BROKEN)]


def state(machine: Machine, settings: Settings) -> dict[str, object]:
    """Return the state of this machine as a box, for `pi0q box status`."""
    home = settings.home
    supervisor, worker = control.supervisor(home), control.worker(home)
    return {
        "home": str(home),
        "free_gib": round(disk_space(home).free_mib / 1024, 1),
        "cards": _cards(machine, settings),
        "worker": "runs" if control.worker_locked(home) else "does not run",
        "worker_state": worker_state(machine, home).value,
        "takes_jobs": _takes_jobs(settings),
        "worker_pid": worker.pid if worker else None,
        "keeper_pid": supervisor.pid if supervisor else None,
        "starts_with": autostart.starts_by_itself(machine, home) or None,
        "power_off": idle.status(settings, now=time.time()),
        "runs": sorted(path.name for path in settings.runs.glob("*") if path.is_dir()),
        "log": str(control.worker_log(home)),
    }


def _cards(machine: Machine, settings: Settings) -> str:
    """Return what this machine shows of cards, and what a worker does without any."""
    found, _ = own_box.cards(settings)
    mode = trainer.mode(CheckTarget(machine=machine, settings=settings, box=True), len(found))
    if (without := gpu_mode.without_cards(mode, settings.staging)) is not None:
        return str(without)
    simulated = " (simulated)" if found and all(card.simulated for card in found) else ""
    return f"{len(found)}{simulated}" if found else "none"


def _takes_jobs(settings: Settings) -> str:
    """Return whether the queue's boxes count this one among those that take jobs, and why not."""
    try:
        own = own_box.ask(settings)
    except own_box.UNREACHABLE:
        return "unknown: the queue's server does not answer; pi0q doctor"
    if own is None:
        return "no: the queue hears no worker of this machine"
    told, cure = own_box.refuses(own)
    return f"no: {told}; {cure}" if told else "yes"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

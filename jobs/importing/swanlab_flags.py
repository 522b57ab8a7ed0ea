"""The flags `--swanlab.*` that forks of LeRobot have, as the keys `tracking` and `swanlab` of a job file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pi0q.jobs.importing.report import Report
from pi0q.jobs.importing.variables import Word

SECTION = "swanlab"
_TRUE = ("true", "1", "yes", "on")
#: SwanLab's modes -> the job file's; `local` and `offline` both keep the run on the box.
_MODES = {"cloud": "online", "online": "online", "offline": "offline", "local": "offline"}
_KEYS = {"project": "project", "workspace": "workspace", "entity": "workspace"}
_DONE_BY_PI0Q = {
    "run_id": "the job has one run for its whole life",
    "resume": "the job has one run for its whole life",
    "experiment_name": "the job's name is the run's",
    "log_dir": "the run lies in the job's directory on the box",
    "logdir": "the run lies in the job's directory on the box",
}


def is_one(name: str) -> bool:
    """Return whether a flag is SwanLab's."""
    return name.partition(".")[0] == SECTION


def keys(given: Mapping[str, Word], *, wandb: bool, report: Report) -> dict[str, Any]:
    """Return the keys of the job file that say the same; {} where SwanLab is off or not named.

    Args:
        given: Flags of the command, some of them SwanLab's.
        wandb: Whether the command reports to WandB as well.
    """
    ours = {name.partition(".")[2]: value for name, value in given.items() if is_one(name)}
    if not ours:
        return {}
    mode = ours["mode"].text.lower() if "mode" in ours else "online"
    on = (ours["enable"].text.lower() in _TRUE if "enable" in ours else False) and mode != "disabled"
    if not on:
        line = min(value.line for value in ours.values())
        report.note(line, "left out --swanlab.*: it is not turned on there")
        return {}
    said = dict(_said(ours, report))
    return {"tracking": ["wandb", SECTION] if wandb else SECTION, **({SECTION: said} if said else {})}


def _said(ours: Mapping[str, Word], report: Report) -> Iterator[tuple[str, str]]:
    report.note(ours["enable"].line, "took --swanlab.enable over as `tracking`: pi0q reports to SwanLab itself")
    for name, value in ours.items():
        if name == "enable":
            continue
        if value.unknown and name in (*_KEYS, "mode"):
            report.fault(value.line, f"--swanlab.{name} is {value.unknown[0].source}, {value.unknown[0].why}: write it")
            report.unset |= {part.unset: None for part in value.unknown if part.unset}
        elif name == "mode":
            if value.text.lower() not in _MODES:
                report.fault(value.line, f"--swanlab.mode must be one of {', '.join(_MODES)}, not `{value.text[:40]}`")
            elif _MODES[value.text.lower()] == "offline":
                yield "mode", "offline"
        elif name in _KEYS and value.text not in ("", "null", "None"):
            yield _KEYS[name], value.text
        elif name not in _KEYS:
            report.note(value.line, f"left out --swanlab.{name}: {_DONE_BY_PI0Q.get(name, 'pi0q sets it')}")

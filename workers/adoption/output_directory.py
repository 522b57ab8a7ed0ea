"""An output directory of `lerobot-train` that was begun by hand: its newest whole checkpoint, and who writes to it.

Everything in it is data that somebody else wrote: links are not followed, sizes are bounded, nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pi0q.jobs.checkpoint import CONFIG, missing, step_of
from pi0q.workers.checkpoints import local_store
from pi0q.workers.host.own_files import open_for_reading

#: Largest JSON file that is read, in bytes; real ones have some kB.
MOST_JSON = 1024 * 1024
#: Largest header of a safetensors file, in bytes: the format's own bound.
MOST_HEADER = 100 * 1024 * 1024
#: Most files of one checkpoint; LeRobot writes a dozen.
MOST_FILES = 1000
#: The only files of training_state that LeRobot reads; others could be pickles.
STATE_SUFFIXES = frozenset({".json", ".safetensors"})


class NotWhole(ValueError):
    """A checkpoint that can't be continued; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The checkpoint to go on from."""

    step: int
    path: Path
    #: The text of its train_config.json.
    config: str
    #: Processes that it was trained with; None where LeRobot did not write it down.
    processes: int | None
    #: Later checkpoints that are not whole: name and why.
    passed_over: Mapping[str, str]


def newest(directory: Path) -> Found:
    """The newest whole checkpoint below an output directory. Raises NotWhole where there is none, OSError."""
    checkpoints = directory / "checkpoints" if (directory / "checkpoints").is_dir() else directory
    steps = local_store.step_directories(checkpoints)
    if not steps:
        raise NotWhole(f"there is no checkpoint in {checkpoints}")
    last = _last(checkpoints)
    passed_over = dict[str, str]()
    for step, path in reversed(steps.items()):
        try:
            if last is not None and step > last:
                raise NotWhole(f"its save did not end: `last` points to step {last}")
            return _read(step, path, passed_over)
        except NotWhole as error:
            passed_over[path.name] = str(error)
    told = "; ".join(f"{name}: {why}" for name, why in passed_over.items())
    raise NotWhole(f"none of its checkpoints is whole ({told})")


def _last(checkpoints: Path) -> int | None:
    """The step that LeRobot's `last` points to; None where there is no such link."""
    link = checkpoints / "last"
    return step_of(link.readlink().name) if link.is_symlink() else None


def _read(step: int, path: Path, passed_over: Mapping[str, str]) -> Found:
    names = dict(files(path))
    if lacking := missing(names):
        raise NotWhole(f"it lacks {', '.join(lacking)}")
    for name in names:
        if name.endswith(".safetensors"):
            _check_tensors(path / name, names[name])
        elif name.startswith("training_state/") and Path(name).suffix not in STATE_SUFFIXES:
            raise NotWhole(f"{name} is no file that LeRobot saves: it may run code when it is read")
    state = _json(path / "training_state/training_step.json")
    if state.get("step") != step:
        raise NotWhole(f"it is named after step {step}, and its training_step.json says {state.get('step')}")
    _json(path / CONFIG)
    processes = state.get("num_processes")
    return Found(
        step=step,
        path=path,
        config=_text(path / CONFIG),
        processes=processes if isinstance(processes, int) else None,
        passed_over=passed_over,
    )


def files(directory: Path) -> Iterator[tuple[str, int]]:
    """The files of a checkpoint with their sizes. Raises NotWhole for a link, a device, or too many."""
    count = 0
    for folder, folders, names in os.walk(directory):
        for name in [*folders, *names]:
            path = Path(folder) / name
            info = path.lstat()
            count += 1
            if count > MOST_FILES:
                raise NotWhole(f"it holds more than {MOST_FILES} files")
            if stat.S_ISREG(info.st_mode):
                yield str(path.relative_to(directory)), info.st_size
            elif not stat.S_ISDIR(info.st_mode):
                raise NotWhole(f"{path.relative_to(directory)} is a link or a device, no file")


def _check_tensors(path: Path, size: int) -> None:
    """Compare a safetensors file with what its header says. Raises NotWhole."""
    with open_for_reading(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MOST_HEADER, max(size - 8, 0)):
            raise NotWhole(f"{path.name} is cut off or no safetensors file")
        header = file.read(length)
    try:
        entries = json.loads(header)
        ends = [int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise NotWhole(f"{path.name} is damaged: its header can't be read") from None
    wanted = 8 + length + max(ends, default=0)
    if wanted != size:
        raise NotWhole(f"{path.name} has {size} bytes instead of {wanted}")


def _text(path: Path) -> str:
    with open_for_reading(path) as file:
        raw = file.read(MOST_JSON + 1)
    if len(raw) > MOST_JSON:
        raise NotWhole(f"{path.name} is over {MOST_JSON // 1024} KiB")
    return raw.decode("utf-8", "replace")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError):
        raise NotWhole(f"{path.name} is damaged: it is no JSON") from None
    if not isinstance(content, dict):
        raise NotWhole(f"{path.name} is damaged: it is no JSON object")
    return content


def writer(directory: Path) -> int | None:
    """The pid of a process that still trains into this directory; None where none is seen."""
    real = directory.resolve()
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with suppress(psutil.Error, OSError, ValueError):
            if any(Path(file.path).is_relative_to(real) for file in process.open_files()):
                return process.pid
            if _names(process.cmdline(), Path(process.cwd()), real):
                return process.pid
    return None


def _names(arguments: list[str], working: Path, real: Path) -> bool:
    """Whether the command line of a training names this directory as its output."""
    for flag in ("--output_dir=", "--config_path="):
        for argument in arguments:
            if argument.startswith(flag):
                return (working / argument.removeprefix(flag)).resolve().is_relative_to(real)
    return False

"""What starts `lerobot-train`: itself, Python, `accelerate launch`, `torchrun`, a container, a scheduler …"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pi0q.jobs.importing import accelerate_config
from pi0q.jobs.importing.report import Report
from pi0q.jobs.importing.shell import Command
from pi0q.jobs.importing.variables import Word

_MODULES = frozenset({"lerobot.scripts.lerobot_train", "lerobot.scripts.train", "lerobot_train"})
_SCRIPT = re.compile(r"(.*/)?lerobot_train\.py")
_OLD_SCRIPT = re.compile(r"(.*/)?train\.py")
#: Flags by which a `train.py` is LeRobot's.
_LEROBOT_FLAG = re.compile(r"--(dataset\.repo_id|policy\.(type|path)|config_path)(=.*)?", re.DOTALL)
#: Programs that start another one and change nothing about a training.
_WRAPPERS = re.compile(
    "accelerate|accelerate-launch|apptainer|bash|caffeinate|chrt|command|conda|docker|docker-compose|env|exec|ionice|kubectl|"
    "mamba|micromamba|nerdctl|nice|nohup|numactl|pdm|pixi|podman|poetry|proxychains|proxychains4|python|"
    "runuser|sbatch|screen|script|setsid|sg|sh|singularity|srun|ssh|stdbuf|su|sudo|systemd-run|taskset|time|"
    "timeout|tini|tmux|torchrun|tsp|unbuffer|uv|watch|xvfb-run|zsh"
)
#: Programs that take a whole command line as one word.
_TAKES_SCRIPT = re.compile(
    "bash|sh|zsh|dash|ssh|tmux|screen|docker|docker-compose|podman|nerdctl|sbatch|srun|su|sudo|nohup|script|"
    "watch|conda|apptainer|singularity|kubectl|sg|runuser|setsid|timeout|env|xvfb-run|tsp"
)
_PYTHON = re.compile(r"(.*/)?python[0-9.]*(\.exe)?")
_TORCHRUN_MODULES = frozenset({"torch.distributed.run", "torch.distributed.launch"})
_MENTION = re.compile(r"lerobot[-_]train|lerobot/scripts/train\.py|lerobot\.scripts\.train\b")

#: Options of a launcher that say where processes run or how they find one another.
_NO_MATTER = re.compile(
    "multi_gpu|standalone|master_port|master_addr|main_process_port|main_process_ip|machine_rank|node_rank|"
    "rdzv_backend|rdzv_endpoint|rdzv_id|rdzv_conf|max_restarts|monitor_interval|start_method|log_dir|tee|"
    "redirects|local_addr|gpu_ids|num_cpu_threads_per_process|role|run_path|no_python|same_network|quiet|"
    "debug|local_ranks_filter|use_env|mpirun_hostfile|rdzv_configs|module|m|no_local_rank"
)
#: Options of `accelerate launch` that change nothing at the value given here.
_NO_MATTER_AT = {
    "num_machines": "1",
    "nnodes": "1",
    "dynamo_backend": "no",
    "gradient_accumulation_steps": "1",
    "dynamo_mode": "default",
}
_PRECISIONS = ("bf16", "fp16")


@dataclass
class Launch:
    """How one command starts the trainer."""

    command: Command
    #: The trainer's own words, behind its name.
    words: list[Word]
    #: Processes of the training, one a GPU.
    processes: int = 1
    #: accelerate's mixed precision: bf16 or fp16; "" for none.
    precision: str = ""
    #: The file of `accelerate launch --config_file`, which `take_config` reads.
    config_file: Word | None = None
    #: accelerate's own options that win over that file.
    given: set[str] = field(default_factory=set)
    #: What the launcher says of the environment, as `-e NAME=VALUE`.
    environment: dict[str, Word] = field(default_factory=dict)
    #: What the launcher leaves out or has wrong; told only if this command is the one that is imported.
    report: Report = field(default_factory=Report)


def mentions(text: str) -> bool:
    """Whether a text names LeRobot's trainer."""
    return bool(_MENTION.search(text))


def script_within(command: Command) -> Word | None:
    """The word of `bash -c`, `tmux`, `ssh` … that is itself a script with the trainer; None where there is none."""
    if not _TAKES_SCRIPT.fullmatch(_name(command.words[0])) or _trainer_at(command.words) is not None:
        return None
    for word in command.words[1:]:
        option = re.match(r"--[\w-]+=", word.text)
        inner = word.text[option.end() :] if option else word.text
        if mentions(inner) and re.search(r"\s", inner.strip()):
            return replace(word, text=inner)
    return None


def launch(command: Command) -> Launch | None:
    """How this command starts LeRobot's trainer; None if it doesn't."""
    at = _trainer_at(command.words)
    if at is None:
        return None
    start, before = at
    if before and not _starts_programs(before[0]):
        return None
    found = Launch(command, command.words[start:])
    _read_environment(found, before)
    names = [_name(word) for word in before]
    modules = {word.text for word, previous in zip(before[1:], before, strict=False) if previous.text == "-m"}
    if bool({"accelerate", "accelerate-launch"} & set(names)) or any(
        module.startswith("accelerate.") for module in modules
    ):
        after = next((at + 1 for at, name in enumerate(names) if name.startswith("accelerate")), 0)
        _accelerate(found, before[after:])
    elif "torchrun" in names or modules & _TORCHRUN_MODULES:
        after = names.index("torchrun") + 1 if "torchrun" in names else 0
        _torchrun(found, before[after:])
    elif "deepspeed" in names or "mpirun" in names or "mpiexec" in names:
        found.report.fault(command.line, "`deepspeed` and `mpirun` are not taken: start it with torchrun or accelerate")
    if "timeout" in names:
        found.report.note(command.line, "left out timeout: a job runs to its last step; `pi0q cancel` ends it sooner")
    return found


def _trainer_at(words: Sequence[Word]) -> tuple[int, list[Word]] | None:
    """Where the trainer's own words begin, and the words before its name."""
    for at, word in enumerate(words):
        text = word.text
        if text.startswith("--") and "=" in text:
            # A flag of the launcher; of the trainer there is none before its name.
            continue
        if re.fullmatch(r"(.*/)?lerobot-train(\.exe)?", text):
            return at + 1, list(words[:at])
        if text in _MODULES and at and words[at - 1].text in ("-m", "--module"):
            return at + 1, list(words[:at])
        if _SCRIPT.fullmatch(text) or (
            _OLD_SCRIPT.fullmatch(text) and any(_LEROBOT_FLAG.fullmatch(w.text) for w in words)
        ):
            return at + 1, list(words[:at])
    return None


def _name(word: Word) -> str:
    return word.text.rpartition("/")[2]


def _starts_programs(word: Word) -> bool:
    name = _name(word)
    return (
        bool(_WRAPPERS.fullmatch(name))
        or name in ("deepspeed", "mpirun", "mpiexec")
        or bool(_PYTHON.fullmatch(word.text))
    )


def _read_environment(found: Launch, before: Sequence[Word]) -> None:
    """`env NAME=VALUE`, `docker … -e NAME=VALUE`."""
    for previous, word in zip([None, *before], before, strict=False):
        set_here = re.fullmatch(r"(?:--env=|-e)?([A-Za-z_]\w*)=(.*)", word.text, re.DOTALL)
        takes = word.text.startswith("--env=") or (previous is not None and previous.text in ("-e", "--env", "-E"))
        inside_env = any(_name(other) == "env" for other in before[: before.index(word)])
        if set_here and (takes or inside_env):
            found.environment[set_here[1]] = Word(set_here[2], word.line, word.unknown)


def _options(words: Sequence[Word]) -> list[tuple[str, Word]]:
    """A launcher's options: name with underscores, value ("" for a bare one)."""
    found, rest = list[tuple[str, Word]](), list(words)
    while rest:
        word = rest.pop(0)
        if not word.text.startswith("-"):
            continue
        name, equals, value = word.text.lstrip("-").partition("=")
        given = Word(value, word.line, word.unknown)
        if not equals and rest and not rest[0].text.startswith("-") and name not in _BARE:
            given = rest.pop(0)
        if name not in ("m", "module"):
            found.append((name.replace("-", "_"), given))
    return found


_BARE = frozenset({"multi_gpu", "multi-gpu", "standalone", "cpu", "use_fsdp", "use_deepspeed", "m", "module", "tpu"})


def _accelerate(found: Launch, words: Sequence[Word]) -> None:
    options = _options(words)
    line = found.command.line
    count = dict(options).get("num_processes") or dict(options).get("num_processes_per_node")
    for name, value in options:
        if name in ("num_processes", "num_processes_per_node", "n"):
            count = value
        elif name == "mixed_precision":
            _precision(found, value)
        elif name == "config_file":
            found.config_file = value
        else:
            _other(found, "accelerate", name, value)
        found.given.add(name)
    if count is None and found.config_file:
        return
    found.given.add("num_processes")
    if count is None:
        _processes_of_devices(
            found, line, "accelerate launch without --num_processes starts one for each GPU that it sees"
        )
    else:
        _processes(found, "--num_processes", count)


def take_config(found: Launch, beside: Callable[[str], str | None]) -> None:
    """Take over what the file of `--config_file` says; `beside` reads a file that lies beside the script."""
    named, report = found.config_file, found.report
    if named is None:
        return
    if not named.known:
        part = named.unknown[0]
        report.fault(named.line, f"--config_file is {part.source}, {part.why}: write the file's name")
        return
    text = beside(named.text)
    if text is None:
        report.note(
            named.line,
            f"{named.text} of --config_file is not here, so what it says was not read: took {found.processes} GPU and "
            f"mixed precision {found.precision or 'no'}; if it says otherwise, put it beside the script, import again",
        )
        return
    try:
        said = accelerate_config.read(text)
    except ValueError as error:
        report.fault(named.line, f"--config_file={named.text} {error}")
        return
    for fault in said.faults:
        report.fault(named.line, f"{named.text}: {fault}")
    if "num_processes" not in found.given:
        if said.processes:
            _processes(found, f"num_processes of {named.text}", Word(said.processes, named.line))
        else:
            _processes_of_devices(found, named.line, f"{named.text} says no num_processes")
    if "mixed_precision" not in found.given and said.precision:
        _precision(found, Word(said.precision, named.line))
    report.note(named.line, f"read --config_file={named.text}: its num_processes and mixed_precision are taken over")


def _torchrun(found: Launch, words: Sequence[Word]) -> None:
    for name, value in _options(words):
        if name in ("nproc_per_node", "nproc"):
            if value.text in ("gpu", "auto"):
                _processes_of_devices(found, value.line, f"--nproc_per_node={value.text} is as many as the machine has")
            else:
                _processes(found, "--nproc_per_node", value)
        else:
            _other(found, "torchrun", name, value)


def _precision(found: Launch, value: Word) -> None:
    if value.known and value.text in _PRECISIONS:
        found.precision = value.text
    elif value.text != "no":
        found.report.fault(value.line, f"--mixed_precision={value.text} is not taken: bf16, fp16 or no")


def _processes(found: Launch, option: str, value: Word) -> None:
    if not value.known:
        found.report.fault(
            value.line, f"{option} is {value.unknown[0].source}, {value.unknown[0].why}: write the number"
        )
    elif not value.text.isdigit() or not 1 <= int(value.text) <= 64:
        found.report.fault(value.line, f"{option} must be a number of processes, not `{value.text}`")
    else:
        found.processes = int(value.text)


def _processes_of_devices(found: Launch, line: int, why: str) -> None:
    """As many processes as CUDA_VISIBLE_DEVICES names GPUs; a fault where it isn't given."""
    devices = (found.command.environment | found.environment).get("CUDA_VISIBLE_DEVICES")
    if devices and devices.known and re.fullmatch(r"\d+(,\d+)*", devices.text):
        found.processes = devices.text.count(",") + 1
    else:
        found.report.fault(line, f"{why}: write how many, like --num_processes=2")


def _other(found: Launch, launcher: str, name: str, value: Word) -> None:
    """An option that says nothing about the training, or one that can't be carried over."""
    shown = f"--{name}" + (f"={value.text}" if value.text else "")
    if (
        _NO_MATTER.fullmatch(name)
        or _NO_MATTER_AT.get(name) == value.text
        or (name == "nnodes" and value.text == "1:1")
    ):
        found.report.note(value.line, f"left out {launcher}'s {shown}: pi0q starts the processes itself")
    elif name in ("num_machines", "nnodes"):
        found.report.fault(value.line, f"{launcher}'s {shown}: one job runs on one box; write 1 or leave it out")
    else:
        found.report.fault(value.line, f"{launcher}'s {shown} changes the training and has no place in a job file yet")

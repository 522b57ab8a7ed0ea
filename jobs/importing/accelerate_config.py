"""The file of `accelerate launch --config_file`: what of it a job file carries, by its keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

#: Keys that say where processes run, how they find one another, or what is off by default.
_NO_MATTER = frozenset(
    {
        *("compute_environment", "debug", "downcast_bf16", "enable_cpu_affinity", "gpu_ids", "machine_rank"),
        *("main_process_ip", "main_process_port", "main_training_function", "num_machines", "rdzv_backend"),
        *("same_network", "tpu_env", "tpu_use_cluster", "tpu_use_sudo", "commands", "command_file", "mpirun_config"),
    }
)
#: Ways to share a training among GPUs that leave it the same.
_PLAIN = ("NO", "MULTI_GPU")


class Read(NamedTuple):
    """What the file says."""

    #: Processes of the training, as text; "" where it does not say.
    processes: str
    #: bf16, fp16 or no; "" where it does not say.
    precision: str
    #: What changes the training and has no place in a job file, as clauses.
    faults: tuple[str, ...]


def read(text: str) -> Read:
    """Read the file of a YAML mapping. Raises ValueError where it is none; the text says why."""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise ValueError("is no YAML that can be read") from None
    if not isinstance(content, dict):
        raise ValueError("holds no settings")
    processes, precision = content.get("num_processes"), content.get("mixed_precision")
    return Read(
        processes="" if processes is None else str(processes),
        # YAML 1.1 reads `no` as false.
        precision="" if precision is None else "no" if precision is False else str(precision),
        faults=tuple(_faults(content)),
    )


def _faults(content: dict[Any, Any]) -> Iterator[str]:
    for key, value in content.items():
        if key == "distributed_type":
            if value not in (*_PLAIN, False):
                yield f"distributed_type: {value} changes the training and has no place in a job file yet"
        elif key == "num_machines":
            if value != 1:
                yield f"num_machines: {value}: one job runs on one box; write 1"
        elif key == "use_cpu":
            if value:
                yield "use_cpu: true: write --policy.device=cpu instead"
        elif key == "dynamo_config":
            backend = value.get("dynamo_backend") if isinstance(value, dict) else None
            if backend not in (None, False, "NO", "no"):
                yield f"dynamo_config: {backend} changes the training and has no place in a job file yet"
        elif key not in _NO_MATTER and key not in ("num_processes", "mixed_precision") and value not in (None, {}, []):
            yield f"{key} changes the training and has no place in a job file yet"

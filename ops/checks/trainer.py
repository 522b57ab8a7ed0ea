"""The trainer's environment and the GPUs: whether LeRobot can train pi0 here, and on which GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pi0q.ops.checks import own_box
from pi0q.ops.checks.finding import CheckTarget, Finding, broken, ok, skipped, warning
from pi0q.ops.machine import Machine
from pi0q.workers.host import cgroup_memory, probe
from pi0q.workers.host.gpu_mode import Mode, ModeReader
from pi0q.workers.trainer import health_findings, interpreter
from pi0q.workers.trainer.health_check import inspect_trainer
from pi0q.workers.trainer.health_findings import Need


def check(target: CheckTarget) -> Iterator[Finding]:
    """Yield the findings on GPUs, memory and the trainer's environment."""
    if not target.box:
        return
    gpus, fault = own_box.cards(target.settings)
    if mode(target, len(gpus)) is Mode.NO_GPU_MODE:
        yield from without_gpu(target)
        return
    yield gpu(gpus, fault, autodl=target.machine.autodl)
    yield memory(target)
    found = interpreter.find(target.settings, target.machine.env)
    if isinstance(found, interpreter.NoTrainer):
        yield broken("trainer", found.why, health_findings.CREATE_ENVIRONMENT)
        return
    real = [gpu for gpu in gpus if not gpu.simulated]
    yield from environment(inspect_trainer(found.python, target.machine.env), python=found.python, gpus=len(real))


def environment(seen: Mapping[str, Any], *, python: str, gpus: int) -> Iterator[Finding]:
    """Yield the findings on an inspected environment. Pure.

    Args:
        seen: What `inspect_trainer` returned.
        gpus: How many GPUs the driver shows.
    """
    faults = list(health_findings.environment(seen, python))
    summary = python
    if seen.get("lerobot"):
        summary = f"LeRobot {seen['lerobot']} on Python {seen.get('python')}, torch {seen.get('torch')} ({python})"
    if not any(fault.subject == "trainer" for fault in faults):
        yield ok("trainer", summary)
    for fault in faults:
        yield _reported(fault, f"{summary}: " if fault.subject == "trainer" else "")
    if any(fault.prevents is Need.TRAINER for fault in faults):
        return
    if bad_decoder := health_findings.decoder(seen):
        yield _reported(bad_decoder)
    if gpus:
        bad_cuda = health_findings.cuda(seen, python)
        usable = f"torch with CUDA {seen.get('built')} uses {len(seen.get('cards', ()))} GPU"
        yield _reported(bad_cuda) if bad_cuda else ok("cuda", usable)


def mode(target: CheckTarget, cards: int) -> Mode:
    """Return whether this container has its cards; `cards`: how many it shows."""
    limit_mib = _limit_mib(target.machine)
    return ModeReader(limit_mib=lambda: limit_mib, simulated=target.settings.fake_gpus is not None).mode(cards)


def without_gpu(target: CheckTarget) -> Iterator[Finding]:
    """Yield what holds for a container that was started without its GPU: it works, and can't train."""
    fetches = target.settings.staging != "off"
    does = "fetches inputs of waiting jobs, claims nothing" if fetches else "claims nothing (PI0Q_STAGING=off)"
    yield warning("gpu", f"no-GPU mode (无卡模式): {does}", health_findings.MISSING_GPU_FIX)
    yield ok("memory", f"limited to {(_limit_mib(target.machine) or 0) / 1024:.1f} GiB: enough to fetch inputs")
    yield skipped("trainer", "LeRobot's imports take more memory than this; check again once the container has its GPU")


def gpu(gpus: tuple[probe.Gpu, ...], fault: str, *, autodl: bool) -> Finding:
    """Return what the driver shows. Jobs are matched by free memory, never by a GPU's name."""
    if not gpus:
        fix = health_findings.MISSING_GPU_FIX if autodl else "nvidia-smi (it prints the reason)"
        if "not installed" in fault:
            fix = "pip install 'pi0q[worker]'"
        reason = f" ({fault})" if fault else ""
        return broken("gpu", f"no GPU found{reason}: this box takes no GPU job", fix)
    return ok("gpu", ", ".join(map(_free, gpus)))


def memory(target: CheckTarget) -> Finding:
    """Return what this container's memory limit allows; /proc/meminfo shows the host's memory."""
    limit_mib = _limit_mib(target.machine)
    if fault := next(health_findings.memory(limit_mib), None):
        return _reported(fault)
    if limit_mib is None:
        return ok("memory", "no limit below the machine's")
    return ok("memory", f"limited to {limit_mib / 1024:.0f} GiB")


def _limit_mib(machine: Machine) -> int | None:
    held = cgroup_memory.groups(machine.at("/sys/fs/cgroup"), machine.at("/proc/self/cgroup"))
    return cgroup_memory.container_limit_mib(held)


def _free(gpu: probe.Gpu) -> str:
    simulated = " (simulated)" if gpu.simulated else ""
    return f"{gpu.name} {gpu.free_mib / 1024:.1f} of {gpu.total_mib / 1024:.1f} GiB free{simulated}"


def _reported(fault: health_findings.Finding, before: str = "") -> Finding:
    """Return the doctor's line: broken where the fault stops every job or every GPU job, else a warning."""
    report = broken if fault.prevents in (Need.TRAINER, Need.GPU) else warning
    return report(fault.subject, before + fault.detail, fault.fix)

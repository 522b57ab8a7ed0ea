"""The trainer's environment and the GPUs: whether LeRobot can train pi0 here, and on which card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pi0q.ops.checks.finding import Finding, Patient, broken, ok, warning
from pi0q.workers import interpreter, probe
from pi0q.workers.soundness import NO_CARD_MIB, look

#: How a right environment is made; conda keeps it out of pi0q's own way.
MAKE = (
    "conda create -y -n lerobot python=3.12 && "
    "conda run -n lerobot pip install 'lerobot[training,pi]==0.6.1' 'wandb>=0.20,<1'"
)
MEND = "pip install 'lerobot[training,pi]==0.6.1' 'wandb>=0.20,<1'"
#: The wheels of torch 2.7 and newer know every card up to Blackwell (sm_120).
TORCH = "pip install --force-reinstall 'torch>=2.7,<2.12' torchvision"
#: Base and optimizer state pass through memory.
MEMORY_MIB = 24 * 1024


def check(patient: Patient) -> Iterator[Finding]:
    """The environment, and each card."""
    if not patient.box:
        return
    gpus, fault = probe.fake_gpus(patient.settings.fake_gpus, "here"), ""
    if patient.settings.fake_gpus is None:
        gpus, fault = probe.nvml_gpus()
    yield cards(gpus, fault, autodl=patient.machine.autodl)
    yield memory(patient)
    found = interpreter.find(patient.settings, patient.machine.env)
    if isinstance(found, interpreter.NoTrainer):
        yield broken("trainer", found.why, MAKE)
        return
    real = [gpu for gpu in gpus if not gpu.simulated]
    yield from judge(look(found.python, patient.machine.env), python=found.python, gpus=len(real))


def judge(seen: Mapping[str, Any], *, python: str, gpus: int) -> Iterator[Finding]:
    """What to think of an environment. Pure.

    Args:
        seen: What `look` gave.
        gpus: How many cards the driver shows.
    """
    here = f"{python} -m {MEND}"
    if seen.get("error"):
        yield broken("trainer", f"{python}: {seen['error']}", MAKE)
        return
    told = f"LeRobot {seen.get('lerobot')} on Python {seen.get('python')}, torch {seen.get('torch')} ({python})"
    unmet = list(seen.get("unmet") or ())
    if not seen.get("lerobot"):
        yield broken("trainer", f"{python} has no LeRobot", MAKE)
        return
    if not seen.get("torch"):
        yield broken("trainer", f"{told}: torch can't be imported ({seen.get('torch_error')})", here)
        return
    if seen.get("train_error"):
        why = "; ".join([str(seen["train_error"]), *unmet])
        yield broken("trainer", f"{told}: its train script can't be imported: {why}", here)
        return
    if unmet:
        yield warning("trainer", f"{told}: {'; '.join(unmet)}", here)
    else:
        yield ok("trainer", told)
    if seen.get("pi0_error"):
        why = f"this environment trains ACT and friends, but not pi0: {seen['pi0_error']}"
        yield warning("pi0", why, here if _new(seen) else MAKE)
    if not seen.get("wandb"):
        yield warning("wandb package", "not in the trainer's environment: jobs with wandb.enable fail", f"{python} -m "
                      "pip install 'wandb>=0.20,<1'")  # fmt: skip
    if broken_one := (seen.get("decoders") or {}).get(""):
        cure = "conda install -c conda-forge 'ffmpeg<8', or train.dataset.video_backend: pyav in the job file"
        yield warning("decoder", f"LeRobot's video decoder gives no frame: {broken_one[:160]}", cure)
    yield from cuda(seen, python=python, gpus=gpus)


def _new(seen: Mapping[str, Any]) -> bool:
    """Whether its Python can have a LeRobot with pi0."""
    return tuple(int(part) for part in str(seen.get("python", "0")).split(".")[:2]) >= (3, 12)


def cuda(seen: Mapping[str, Any], *, python: str, gpus: int) -> Iterator[Finding]:
    """Whether torch can use the cards that the driver shows."""
    if not gpus:
        return
    cure = f"{python} -m {TORCH}"
    if not seen.get("cuda"):
        why = seen.get("cuda_error") or "it sees no GPU"
        built = f"built for CUDA {seen['built']}" if seen.get("built") else "built without CUDA"
        yield broken("cuda", f"torch {seen.get('torch')} ({built}) can't use the GPU: {why}", cure)
        return
    odd = [f"{card['name']} ({card['arch']})" for card in seen.get("cards", ()) if not card["fits"]]
    if odd:
        yield broken("cuda", f"torch {seen.get('torch')} has no kernels for {', '.join(odd)}", cure)
    else:
        yield ok("cuda", f"torch with CUDA {seen.get('built')} uses {len(seen.get('cards', ()))} GPU")


def cards(gpus: tuple[probe.Gpu, ...], fault: str, *, autodl: bool) -> Finding:
    """What the driver shows. Cards are matched by free memory, never by name."""
    if not gpus:
        cure = "start the container with its GPU in AutoDL's console" if autodl else "nvidia-smi (it says why)"
        if "not installed" in fault:
            cure = "pip install 'pi0q[worker]'"
        return broken("gpu", f"no GPU to be seen{f' ({fault})' if fault else ''}: this box takes no GPU job", cure)
    told = ", ".join(
        f"{gpu.name} {gpu.free_mib / 1024:.1f} of {gpu.total_mib / 1024:.1f} GiB free" + " (simulated)" * gpu.simulated
        for gpu in gpus
    )
    return ok("gpu", told)


def memory(patient: Patient) -> Finding:
    """What this container may use; /proc/meminfo shows the host's."""
    most = patient.machine.number("/sys/fs/cgroup/memory.max")
    if most is None:
        return ok("memory", "no limit below the machine's")
    mib = most // 2**20
    if mib <= NO_CARD_MIB:
        told = f"{mib / 1024:.1f} GiB: this container was started without its GPU (无卡模式)"
        return broken("memory", told, "start it with its GPU in AutoDL's console")
    if mib < MEMORY_MIB:
        told = f"limited to {mib / 1024:.0f} GiB; loading the base of pi0 takes about 14"
        return warning("memory", told, "rent a container with more memory")
    return ok("memory", f"limited to {mib / 1024:.0f} GiB")

"""Disks: that what is big lies on the data disk, and that there is room on both."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pi0q.ops.checks.finding import Finding, Patient, broken, ok, skipped, warning
from pi0q.ops.machine import AUTODL_DATA, AUTODL_FILES, Machine, existing, room, same_disk, size_mib, there
from pi0q.workers import clutter
from pi0q.workers.run import environment

#: Base and dataset of pi0, and three checkpoints of 22 GB each.
DATA_MIB = 80 * 1024
#: Files that a run makes, caches included, are some thousands.
FEW_FILES = 20_000
#: Directories on the system disk that fill it, below the user's home, and what empties each.
HOGS: dict[str, str] = {
    **clutter.CACHES,
    ".cache/huggingface": "pi0q box setup, and then rm -r ~/.cache/huggingface/hub",
    ".cache/torch": "rm -r ~/.cache/torch",
    ".cache/wandb": "wandb artifact cache cleanup 1GB",
    "output_lerobot_train": "mv ~/output_lerobot_train /root/autodl-tmp/",
    ".local/share/Trash": "rm -r ~/.local/share/Trash",
}
#: Of those, what can be fetched again and nobody will miss.
DISPOSABLE = ("pip cache purge", "conda clean --all -y")
#: MiB from which on one of them is worth a word.
HOG_MIB = 200
#: Seconds that one of them may take to be emptied.
CLEAN_SECONDS = 300.0
#: A data loader's workers hand each other batches through it.
SHM_MIB = 1024


def check(patient: Patient) -> Iterator[Finding]:
    """The two disks, AutoDL's file storage, the caches and shared memory."""
    if not patient.box:
        return
    machine, home = patient.machine, patient.settings.home
    yield data(machine, home)
    yield system(patient)
    yield from files(machine)
    yield caches(patient)
    yield shm(machine)


def data(machine: Machine, home: Path) -> Finding:
    """Where runs, caches and checkpoints go."""
    left = room(home)
    told = f"{home}: {left.free_mib / 1024:.0f} of {left.total_mib / 1024:.0f} GiB free"
    if machine.autodl and not machine.on_data_disk(home):
        cure = f"export PI0Q_HOME={AUTODL_DATA}/pi0q; pi0q box setup"
        return broken("data disk", f"{home} is not on AutoDL's data disk {AUTODL_DATA}: 30 GB are soon full", cure)
    if left.free_files is not None and left.free_files < FEW_FILES:
        return broken("data disk", f"{told}, but only {left.free_files} more files", f"df -i {home}; pi0q cache ls")
    if left.free_mib < DATA_MIB:
        cure = "pi0q cache ls, or a bigger data disk in the console; jobs that fit are taken"
        return warning("data disk", f"{told}; a full fine-tune of pi0 asks for {DATA_MIB // 1024} GiB or more", cure)
    return ok("data disk", told)


def system(patient: Patient) -> Finding:
    """Where the operating system is: a box with too little left takes no job."""
    machine, reserve = patient.machine, patient.settings.system_disk_reserve_mib
    left = room(machine.at("/"))
    told = f"{left.free_mib / 1024:.1f} of {left.total_mib / 1024:.0f} GiB free"
    low = left.free_mib < reserve
    if not low and left.free_mib > 2 * reserve:
        return ok("system disk", told)
    biggest = hogs(machine)
    if biggest:
        told += "; on it " + ", ".join(f"{path} {size / 1024:.1f} GiB" for path, size, _ in biggest)
    cures = list(dict.fromkeys(cure for _, _, cure in biggest)) or ["du -xh --max-depth=2 / | sort -h | tail"]
    fix = (lambda: clean(machine)) if any(cure in DISPOSABLE for cure in cures) else None
    if low:
        told = f"{told}: below the {reserve / 1024:.1f} GiB that must stay free, so this box takes no job"
        return broken("system disk", told, "; ".join(cures), fix)
    return warning("system disk", f"{told}: little", "; ".join(cures), fix)


def hogs(machine: Machine) -> list[tuple[str, int, str]]:
    """What fills the system disk: path, MiB, and what empties it; the biggest first."""
    found = []
    for name, cure in HOGS.items():
        path = machine.user_home / name
        if path.is_dir() and not path.is_symlink() and same_disk(path, machine.at("/")):
            found.append((f"~/{name}", size_mib(path), cure))
    return sorted((hog for hog in found if hog[1] >= HOG_MIB), key=lambda hog: -hog[1])


def clean(machine: Machine) -> str:
    """Empties pip's and conda's caches: both are fetched again when they are needed."""
    before, done = room(machine.at("/")).free_mib, []
    for command in dict.fromkeys(cure for _, _, cure in hogs(machine) if cure in DISPOSABLE):
        name, *rest = command.split()
        # AutoDL's conda is on PATH in a login shell only.
        places = [str(machine.user_home / base / "bin") for base in ("miniconda3", "anaconda3", "miniforge3")]
        tool = shutil.which(name, path=machine.env.get("PATH")) or shutil.which(name, path=":".join(places))
        if tool is None:
            continue
        subprocess.run([tool, *rest], env=dict(machine.env), capture_output=True, timeout=CLEAN_SECONDS, check=False)
        done.append(command)
    freed = room(machine.at("/")).free_mib - before
    return f"{' and '.join(done) or 'nothing could be run'}: {max(freed, 0) / 1024:.1f} GiB came free"


def files(machine: Machine) -> Iterator[Finding]:
    """AutoDL's file storage: its cap on files is met long before that on bytes."""
    if not there(machine.at(AUTODL_FILES)):
        return
    left = room(machine.at(AUTODL_FILES))
    if left.free_files is not None and left.free_files < FEW_FILES:
        told = f"{AUTODL_FILES} takes only {left.free_files} more files ({left.free_mib / 1024:.0f} GiB are free)"
        yield warning("file storage", told, f"df -i {AUTODL_FILES}; remove small files there")
    else:
        yield ok("file storage", f"{AUTODL_FILES}: {left.free_mib / 1024:.0f} GiB free")


def caches(patient: Patient) -> Finding:
    """Every cache of a run, and the one a shell's HF_HOME names."""
    machine, chosen = patient.machine, patient.settings
    if not machine.autodl:
        return ok("caches", f"Hub, WandB, kernels and temporary files go below {chosen.home}; HF_HOME {chosen.hf_home}")
    astray = {
        name: value
        for name, value in environment.caches(chosen).items()
        if name != "HF_TOKEN_PATH" and not machine.on_data_disk(Path(value))
    }
    if astray:
        told = ", ".join(f"{name}={value}" for name, value in astray.items())
        return broken("caches", f"on the system disk, which 14 GB of pi0 would fill: {told}", "pi0q box setup")
    return ok("caches", f"all on the data disk; HF_HOME {chosen.hf_home}")


def shm(machine: Machine) -> Finding:
    """Shared memory."""
    place = machine.at("/dev/shm")
    if not place.is_dir():
        return skipped("shared memory", "there is no /dev/shm")
    left = room(existing(place))
    told = f"/dev/shm has {left.free_mib / 1024:.1f} of {left.total_mib / 1024:.1f} GiB free"
    if left.total_mib < SHM_MIB:
        return warning("shared memory", f"{told}: data loaders may die of it", "train.num_workers: 0 in the job file")
    return ok("shared memory", told)

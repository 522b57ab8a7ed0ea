"""Disks: space on data disk and system disk, and large directories that belong on the data disk."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pi0q.jobs.estimates import disk
from pi0q.jobs.spec import Spec
from pi0q.ops.checks.finding import CheckTarget, Finding, broken, ok, skipped, warning
from pi0q.ops.machine import AUTODL_DATA, AUTODL_FILES, Machine, directory_mib, disk_space, same_disk, there
from pi0q.workers.host import cache_paths
from pi0q.workers.storage import tool_caches

#: The job that the data disk is measured by: a full fine-tune of pi0 in bfloat16.
FULL_FINE_TUNE = Spec(
    name="pi0",
    train={
        "dataset.repo_id": "you/dataset",
        "policy.type": "pi0",
        "policy.pretrained_path": "lerobot/pi0",
        "policy.dtype": "bfloat16",
        "policy.compile_model": True,
    },
)
#: A run creates some thousands of files, caches included.
FEW_FILES = 20_000
#: Directories below the user's home that fill the system disk, and the command that empties each.
HOGS: dict[str, str] = {
    **tool_caches.CACHES,
    ".cache/huggingface": "pi0q box setup, and then rm -r ~/.cache/huggingface/hub",
    ".cache/torch": "rm -r ~/.cache/torch",
    ".cache/wandb": "wandb artifact cache cleanup 1GB",
    "output_lerobot_train": "mv ~/output_lerobot_train /root/autodl-tmp/",
    ".local/share/Trash": "rm -r ~/.local/share/Trash",
}
#: Those commands that remove only what can be downloaded again.
DISPOSABLE = ("pip cache purge", "conda clean --all -y")
#: Directories of this many MiB or more are reported.
HOG_MIB = 200
#: Seconds that one of the commands may take.
CLEAN_SECONDS = 300.0
#: Data loader processes pass batches through shared memory. MiB.
SHM_MIB = 1024


def check(target: CheckTarget) -> Iterator[Finding]:
    """Yield the findings on both disks, AutoDL's file storage, the caches and shared memory."""
    if not target.box:
        return
    machine, home = target.machine, target.settings.home
    yield data(machine, home)
    yield system(target)
    yield from files(machine)
    yield caches(target)
    yield shm(machine)


def data(machine: Machine, home: Path) -> Finding:
    """Return the finding on the disk of runs, caches and checkpoints."""
    left = disk_space(home)
    told = f"{home}: {left.free_mib / 1024:.0f} of {left.total_mib / 1024:.0f} GiB free"
    if machine.autodl and not machine.on_data_disk(home):
        cure = f"export PI0Q_HOME={AUTODL_DATA}/pi0q; pi0q box setup"
        return broken(
            "data disk", f"{home} is not on AutoDL's data disk {AUTODL_DATA}: the system disk has 30 GB", cure
        )
    if left.free_files is not None and left.free_files < FEW_FILES:
        return broken("data disk", f"{told}, but only {left.free_files} more files", f"df -i {home}; pi0q cache ls")
    needed_mib = disk.plan(FULL_FINE_TUNE).mib
    if left.free_mib < needed_mib:
        cure = "pi0q cache ls, or a bigger data disk in the console; jobs that fit are taken"
        return warning("data disk", f"{told}; a full fine-tune of pi0 needs {disk.gib(needed_mib)}", cure)
    return ok("data disk", told)


def system(target: CheckTarget) -> Finding:
    """Return the finding on the system disk: a box with too little space on it takes no job."""
    machine, reserve = target.machine, target.settings.system_disk_reserve_mib
    left = disk_space(machine.at("/"))
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
    """Return what fills the system disk, largest first: path, MiB, and the command that empties it."""
    found = []
    for name, cure in HOGS.items():
        path = machine.user_home / name
        if path.is_dir() and not path.is_symlink() and same_disk(path, machine.at("/")):
            found.append((f"~/{name}", directory_mib(path), cure))
    return sorted((hog for hog in found if hog[1] >= HOG_MIB), key=lambda hog: -hog[1])


def clean(machine: Machine) -> str:
    """Empty pip's and conda's caches: both are downloaded again when they are needed."""
    before, done = disk_space(machine.at("/")).free_mib, []
    for command in dict.fromkeys(cure for _, _, cure in hogs(machine) if cure in DISPOSABLE):
        name, *rest = command.split()
        # AutoDL's conda is on PATH in a login shell only.
        places = [str(machine.user_home / base / "bin") for base in ("miniconda3", "anaconda3", "miniforge3")]
        tool = shutil.which(name, path=machine.env.get("PATH")) or shutil.which(name, path=":".join(places))
        if tool is None:
            continue
        subprocess.run([tool, *rest], env=dict(machine.env), capture_output=True, timeout=CLEAN_SECONDS, check=False)
        done.append(command)
    freed = disk_space(machine.at("/")).free_mib - before
    return f"{' and '.join(done) or 'nothing could be run'}: {max(freed, 0) / 1024:.1f} GiB freed"


def files(machine: Machine) -> Iterator[Finding]:
    """Yield the finding on AutoDL's file storage: its limit on files is reached long before that on bytes."""
    if not there(machine.at(AUTODL_FILES)):
        return
    left = disk_space(machine.at(AUTODL_FILES))
    if left.free_files is not None and left.free_files < FEW_FILES:
        told = f"{AUTODL_FILES} takes only {left.free_files} more files ({left.free_mib / 1024:.0f} GiB are free)"
        yield warning("file storage", told, f"df -i {AUTODL_FILES}; remove small files there")
    else:
        yield ok("file storage", f"{AUTODL_FILES}: {left.free_mib / 1024:.0f} GiB free")


def caches(target: CheckTarget) -> Finding:
    """Return the finding on the caches of a run, and on the HF_HOME of the shell."""
    machine, chosen = target.machine, target.settings
    if not machine.autodl:
        return ok("caches", f"Hub, WandB, kernels and temporary files go below {chosen.home}; HF_HOME {chosen.hf_home}")
    astray = {
        name: value
        for name, value in cache_paths.caches(chosen).items()
        if name != "HF_TOKEN_PATH" and not machine.on_data_disk(Path(value))
    }
    if astray:
        told = ", ".join(f"{name}={value}" for name, value in astray.items())
        return broken("caches", f"on the system disk, which 14 GB of pi0 would fill: {told}", "pi0q box setup")
    return ok("caches", f"all on the data disk; HF_HOME {chosen.hf_home}")


def shm(machine: Machine) -> Finding:
    """Return the finding on shared memory."""
    place = machine.at("/dev/shm")
    if not place.is_dir():
        return skipped("shared memory", "there is no /dev/shm")
    left = disk_space(place)
    told = f"/dev/shm has {left.free_mib / 1024:.1f} of {left.total_mib / 1024:.1f} GiB free"
    if left.total_mib < SHM_MIB:
        return warning("shared memory", f"{told}: data loaders may crash", "train.num_workers: 0 in the job file")
    return ok("shared memory", told)

"""Which directories of this box a job file may name, for weights to read and for copies to write.

The box's owner may list them (PI0Q_WEIGHTS_ROOTS, PI0Q_COPY_ROOTS). Where nothing is listed, a directory is taken
unless it belongs to the system, to somebody's settings (a hidden one, a home directory itself), to pi0q, or to another
user.
Links on the way are followed first: what counts is where they lead.
"""

from __future__ import annotations

import functools
import grp
import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path

#: Trees of the system. A mount below one of the second kind (/run/media, /var/lib/…) is none of the system's.
_SYSTEM = tuple(
    map(Path, ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr"])
)
_MOUNTED_BELOW = tuple(map(Path, ["/opt", "/run", "/snap", "/srv", "/var"]))
#: /dev/shm is memory that a user may fill, not a device.
_NOT_SYSTEM = (Path("/dev/shm"),)
#: Files by which a directory is known to be a PI0Q_HOME, or a server's data.
_PI0Q_FILES = ("box.id", "up.json", "server.conf", "keeper.json")


def refusal(place: Path, roots: Iterable[Path], *, setting: str, also: Iterable[Path] = ()) -> str:
    """Why a job may not name this directory, with the cure; "" if it may. It need not exist yet.

    `roots` is the owner's list, `setting` the variable that holds it; `also` are trees allowed where it is empty.
    """
    try:
        real = place.resolve()
    except (OSError, RuntimeError) as error:
        return f"{place} can't be looked at: {error}"
    allowed = [root.resolve() for root in roots]
    if allowed:
        if any(real.is_relative_to(root) for root in allowed):
            return ""
        return (
            f"{place} is outside of what this box allows ({':'.join(map(str, allowed))}; its owner may set {setting})"
        )
    known = any(real.is_relative_to(tree.resolve()) for tree in also)
    why = ("" if known else _not_for_jobs(real)) or _of_another_user(real)
    return f"{place} {why}: name a directory of your own; the box's owner may list others in {setting}" if why else ""


def others_can_write(info: os.stat_result) -> str:
    """Why a file or directory is not this user's alone to write; "" if it is."""
    if info.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user (uid {info.st_uid})"
    # With the sticky bit others may add names to a directory, and change none of ours.
    if stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX:
        return ""
    by_group = info.st_mode & stat.S_IWGRP and not _is_own_group(info.st_gid)
    if by_group or info.st_mode & stat.S_IWOTH:
        return f"can be written by other users (mode {stat.S_IMODE(info.st_mode):o})"
    return ""


@functools.cache
def _is_own_group(gid: int) -> bool:
    """Whether this user is alone in the group, as Debian and its kin give each user one."""
    me = os.geteuid()
    try:
        members = {pwd.getpwnam(name).pw_uid for name in grp.getgrgid(gid).gr_mem}
    except KeyError:
        return False
    members |= {user.pw_uid for user in pwd.getpwall() if user.pw_gid == gid}
    return members <= {me, 0}


def _not_for_jobs(real: Path) -> str:
    if any(real.is_relative_to(tree) for tree in _NOT_SYSTEM):
        return ""
    if real == Path("/") or any(real.is_relative_to(tree) for tree in _SYSTEM):
        return "belongs to the system"
    if any(real.is_relative_to(tree) for tree in _MOUNTED_BELOW) and not _on_a_mount(real):
        return "belongs to the system"
    if any(part.startswith(".") for part in real.parts):
        return "is a hidden directory, or lies in one"
    if real in (Path("/root"), Path("/home"), Path.home().resolve()) or real.parent == Path("/home"):
        return "is a home directory"
    for folder in (real, *real.parents):
        if any(_exists(folder / name) for name in _PI0Q_FILES):
            return f"belongs to pi0q ({folder})"
    return ""


def _of_another_user(real: Path) -> str:
    """Judges the directory itself, or the one in which it would be made."""
    for folder in (real, *real.parents):
        try:
            return others_can_write(folder.stat())
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"can't be looked at ({error.strerror})"
    return ""


def _on_a_mount(real: Path) -> bool:
    """Whether it lies on another disk than the system."""
    for folder in (real, *real.parents):
        if _exists(folder):
            return folder.stat().st_dev != Path("/").stat().st_dev
    return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False

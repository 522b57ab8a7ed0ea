"""An imitation of AutoDL's container, as its users have measured it: two disks, a boot script, no systemd.

Its root is a directory of its own: a small tmpfs for the system disk, another one at /root/autodl-tmp, a third with few
inodes at /root/autodl-fs; what programs need is bound in from this machine. The disks outlive a restart; processes,
shared memory and /proc do not. Where this machine allows no namespaces, `refusal()` says why.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.rig import namespaces
from tests.rig.cluster import TESTS, wait

ROOT = TESTS.parent
#: Where this machine's things are not to be seen.
OWN = {"root", "etc", "proc", "tmp", "init", "autodl-fs", "run", "lost+found", ".dockerenv"}
SYSTEM_MIB, DATA_MIB = 96, 256
TURBO = """\
export no_proxy=localhost,127.0.0.1,modelscope.com,aliyuncs.com,tencentyun.com,wisemodel.cn
export http_proxy=http://127.0.0.1:9 && export https_proxy=http://127.0.0.1:9
export REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt ; export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
"""
#: PID 1. What runs /etc/autodl.sh is supervisord's `customer-cmd` there.
BOOT = """\
trap '' CHLD
mount -t tmpfs -o size=64m shm /dev/shm
[ -f /etc/autodl.sh ] && setsid bash /etc/autodl.sh >/tmp/autodl.sh.log 2>&1 </dev/null &
echo up
exec sleep infinity
"""
BUILD = """\
set -e
mount -t tmpfs -o size={system}m system "$R"
for place in $BIND; do
    if [ -L "$place" ]; then cp -a "$place" "$R$place"; continue; fi
    mkdir -p "$R$place"; mount --rbind "$place" "$R$place"
done
# What is installed there must not end up on this machine.
mkdir -p "$R/init/upper" "$R/init/work"
over="lowerdir=/usr/local/bin,upperdir=$R/init/upper,workdir=$R/init/work"
mount -t overlay -o "$over" local "$R/usr/local/bin"
cp -a /etc "$R/etc"
rm -f "$R/etc/autodl.sh"
mkdir -p "$R"/proc "$R"/tmp "$R"/run "$R"/init/boot "$R"/root/autodl-tmp "$R"/autodl-fs/data
chmod 1777 "$R/tmp"
mount -t tmpfs -o size={data}m data "$R/root/autodl-tmp"
mount -t tmpfs -o size=16m,nr_inodes=400 files "$R/autodl-fs/data"
ln -s /autodl-fs/data "$R/root/autodl-fs"
for place in $DEEP; do
    mkdir -p "$R$place"; mount --rbind "$place" "$R$place"
done
echo up
exec sleep infinity
"""


@cache
def refusal() -> str:
    """Why no container can be imitated here; "" if one can."""
    if os.getuid() != 0:
        return "only root may mount disks"
    argv = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "mount",
        "-t",
        "tmpfs",
        "x",
        "/mnt",
    ]
    try:
        tried = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if tried.returncode == 0 else tried.stderr.strip() or "unshare failed"


@dataclass
class AutoDL:
    """One container and its disks."""

    place: Path
    #: What every process in it finds in its environment.
    env: dict[str, str]
    #: Holds the disks.
    disks: subprocess.Popen[str] | None = None
    machine: subprocess.Popen[str] | None = None
    #: PID 1 as this machine sees it.
    init: int = 0
    doors: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.place / "root").mkdir(parents=True)
        self.base = {
            "PATH": f"/usr/local/bin:{os.environ['PATH']}",
            "HOME": "/root",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **self.env,
        }
        tops = [f"/{path.name}" for path in sorted(Path("/").iterdir()) if path.is_dir() and path.name not in OWN]
        needed = {sys.prefix, sys.base_prefix, str(ROOT), *filter(None, self.base["PYTHONPATH"].split(":"))}
        deep = sorted(path for path in needed if path.split("/")[1] in OWN)
        script = BUILD.format(system=SYSTEM_MIB, data=DATA_MIB)
        self.disks = namespaces.hold(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", script],
            {"R": str(self.root), "BIND": " ".join(tops), "DEEP": " ".join(deep), "PATH": os.environ["PATH"]},
        )
        self.write("/etc/network_turbo", TURBO)
        self.write("/init/boot/boot.sh", BOOT)

    @property
    def root(self) -> Path:
        return self.place / "root"

    def at(self, path: str) -> Path:
        """A file of the container, also while it is down."""
        assert self.disks is not None
        return Path(f"/proc/{self.disks.pid}/root{self.root}{path}")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_text(text)
        self.at(path).chmod(mode)

    def boot(self) -> None:
        """Switches it on."""
        assert self.disks is not None
        inside = ["nsenter", "-t", str(self.disks.pid), "-m", "--"]
        own = ["unshare", "--pid", "--fork", "--kill-child", f"--mount-proc={self.root}/proc"]
        script = ["chroot", str(self.root), "bash", "/init/boot/boot.sh"]
        self.machine = namespaces.hold([*inside, *own, *script], self.base)
        self.init = namespaces.first(self.machine)

    def crash(self) -> None:
        """Switches it off: every process ends at this moment."""
        if self.machine is None or not self.init:
            return
        namespaces.end(self.machine, self.init)
        self.machine = None

    def run(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A command in a login shell of the container's, to its end."""
        shell = ["nsenter", "-t", str(self.init), "-m", "-p", "-r", "--", "env", "--chdir=/root", *argv]
        return subprocess.run(
            shell,
            env=self.base | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def pi0q(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "pi0q.queue.cli", *args, **env)

    def processes(self, word: str) -> list[int]:
        """The pids, inside, of those whose command line has this word."""
        listed = self.run("ps", "-e", "-o", "pid=,ppid=,args=").stdout.splitlines()
        words = (line.split() for line in listed if word in line and " ps " not in line)
        found = {int(pid): int(parent) for pid, parent, *_ in words}
        # A child has its parent's command line until it has become what it was made for.
        return [pid for pid, parent in found.items() if parent not in found]

    def tree(self, *places: str) -> dict[str, tuple[object, ...]]:
        """Every file below these places: kind, mode, content or target, time of the last change."""
        found: dict[str, tuple[object, ...]] = {}
        # What is bound in from this machine is another file system.
        disks = {self.at(disk).stat().st_dev for disk in ("/", "/root/autodl-tmp", "/autodl-fs/data")}
        for place in places:
            for folder, folders, names in os.walk(self.at(place)):
                folders[:] = [name for name in folders if _disk(Path(folder, name)) in disks]
                for name in [*folders, *names]:
                    path = Path(folder, name)
                    # A worker that lives makes and removes files meanwhile.
                    with contextlib.suppress(FileNotFoundError):
                        found[str(path).removeprefix(str(self.at("")))] = _look(path)
        return found

    def close(self) -> None:
        self.crash()
        if self.disks is not None:
            namespaces.end(self.disks, self.disks.pid)

    def until_gone(self, word: str) -> None:
        wait(lambda: not self.processes(word), f"the end of {word}")


def _disk(path: Path) -> int:
    """Its file system; 0 if it has gone meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_dev
    return 0


def _look(path: Path) -> tuple[object, ...]:
    stat = path.lstat()
    what: object = path.readlink() if path.is_symlink() else "folder"
    if path.is_file() and not path.is_symlink():
        what = path.read_bytes()
    return oct(stat.st_mode), what, None if what == "folder" else stat.st_mtime_ns

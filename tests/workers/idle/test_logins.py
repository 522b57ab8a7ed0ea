"""Who is logged in: by lists of processes as machines have them, and a real terminal on this one."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import sys
import termios

import pytest

from pi0q.workers.idle import logins
from pi0q.workers.idle.logins import Process


def process(pid: int, parent: int, command: str, terminal: str = "") -> Process:
    return Process(pid=pid, parent=parent, command=command, terminal=terminal)


AUTODL = [
    process(1, 0, "bash /init/boot/boot.sh", "/dev/pts/0"),
    process(20, 1, "/usr/bin/python3 /init/supervisor/supervisord -n", "/dev/pts/0"),
    process(21, 20, "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", "/dev/pts/0"),
    process(22, 20, "/root/miniconda3/bin/python /root/miniconda3/bin/jupyter-lab --allow-root"),
    process(90, 1, "/root/miniconda3/bin/python -m pi0q.queue.cli worker"),
]


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ([], []),
        # Someone tries passwords.
        ([process(30, 21, "sshd: unknown [priv]"), process(31, 21, "sshd: root [priv]")], []),
        (
            [
                process(30, 21, "sshd: root@pts/1"),
                process(31, 30, "-bash", "/dev/pts/1"),
                process(32, 31, "vim", "/dev/pts/1"),
            ],
            ["pts/1"],
        ),
        ([process(30, 21, "sshd-session: me@pts/1")], ["pts/1"]),
        # A tunnel to the queue forwards ports and runs nothing.
        ([process(30, 21, "sshd: root@notty")], []),
        ([process(30, 21, "sshd: root@notty"), process(31, 30, "/usr/lib/sftp-server")], ["ssh without a terminal"]),
        ([process(30, 22, "python -m ipykernel_launcher -f k.json")], ["a Jupyter kernel (process 30)"]),
        # A terminal of Jupyter, a `docker exec -it`, a tmux that was left.
        ([process(30, 22, "/bin/bash -l", "/dev/pts/4")], ["pts/4"]),
        # A console that nobody has logged in on.
        ([process(30, 1, "/sbin/agetty -o -p -- \\u --noclear tty1 linux", "/dev/tty1")], []),
    ],
)
def test_who_is_logged_in(more: list[Process], found: list[str]) -> None:
    assert logins.places([*AUTODL, *more], own={90}) == found


def test_the_worker_s_own_terminal_is_nobody_s_until_someone_sits_at_it() -> None:
    tmux = [
        process(30, 1, "tmux"),
        process(31, 30, "-bash", "/dev/pts/2"),
        process(32, 31, "pi0q worker", "/dev/pts/2"),
    ]
    assert logins.places([*AUTODL, *tmux], own={32, 31, 30}) == []
    attached = [process(40, 21, "sshd: root@pts/3"), process(41, 40, "tmux attach", "/dev/pts/3")]
    assert logins.places([*AUTODL, *tmux, *attached], own={32, 31, 30}) == ["pts/3"]
    by_ssh = process(50, 21, "sshd: root@pts/2")
    assert logins.places([*AUTODL, *tmux, by_ssh], own={32, 31, 30}) == ["pts/2"]


def test_a_desktop_is_a_person_s_and_a_greeter_s_is_not() -> None:
    assert logins.desktop("UID=1000\nTYPE=wayland\nCLASS=user\nSTATE=active\n")
    assert not logins.desktop("UID=120\nTYPE=wayland\nCLASS=greeter\n")
    assert not logins.desktop("UID=0\nTYPE=unspecified\nCLASS=background\n")
    assert not logins.desktop("nonsense")


def test_a_real_terminal_on_this_machine_is_seen_while_it_is_there() -> None:
    leader, follower = pty.openpty()
    name = os.ttyname(follower).removeprefix("/dev/")

    def take() -> None:
        os.setsid()
        fcntl.ioctl(follower, termios.TIOCSCTTY, 0)

    code = "import sys; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=take,
    ) as one:
        assert one.stdout and one.stdin
        assert one.stdout.readline() == b"up\n"
        assert name in logins.read()
        one.stdin.close()
    os.close(leader)
    os.close(follower)
    assert name not in logins.read()

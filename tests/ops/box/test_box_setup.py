"""`pi0q box setup` on machines imitated below a directory: AutoDL's, one with systemd, one with neither."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.ops import file_edits
from pi0q.ops import machine as machines
from pi0q.ops.box import autostart, control, pidfile, setup, steps, supervisor_main
from pi0q.ops.box.plan import Plan
from pi0q.ops.machine import Machine
from pi0q.workers.host import identity
from tests.conftest import PATIENCE, Command
from tests.rig.cluster import wait

URL = "redis://:aSecretOfTheQueue@127.0.0.1:1/0"
USERS = "#!/bin/bash\nset -e\npython /root/server.py\nexit 0\n"


def machine(root: Path, *, autodl: bool = True, **env: str) -> Machine:
    """AutoDL's directories below `root`, and a shell there."""
    (root / "root" / ("autodl-tmp" if autodl else "data")).mkdir(parents=True, exist_ok=True)
    (root / "etc").mkdir(exist_ok=True)
    (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
    path = f"{root}/usr/local/bin:{root}/bin:/usr/bin:/bin"
    shell = {"HOME": str(root / "root"), "PATH": path, "PI0Q_REDIS_URL": URL,
             "PI0Q_HOME": str(root / "root" / ("autodl-tmp" if autodl else "data") / "pi0q"),
             "PI0Q_TRAINER_PYTHON": "/bin/false", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}  # fmt: skip
    return Machine(root=root, env={name: value for name, value in (shell | env).items() if value})


#: The step that there is only where pi0q is installed and has a command that a shell may not find.
COMMAND = {"command"} if (Path(sys.executable).parent / "pi0q").is_file() else set()


def prepared(one: Machine) -> Plan:
    """All of it but the worker."""
    made = setup.plan(one)
    for step in setup.steps_of(made)[:-1]:
        step.do()
    return made


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Every file: its mode and content or target."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        what: object = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        found[str(path.relative_to(root))] = (oct(path.lstat().st_mode), what)
    return found


# -- edits that can be taken back ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#!/bin/bash\n",
        USERS,
        "echo no shebang\n",
        "#!/bin/sh\r\necho dos\r\n",
        "echo no newline at the end",
        "\n\n",
    ],
)
def test_our_line_in_a_boot_script_can_be_taken_back(text: str) -> None:
    with_ours = file_edits.with_hook(text, "bash /data/boot.sh")
    assert with_ours.count("bash /data/boot.sh || true") == 1
    assert file_edits.with_hook(with_ours, "bash /data/boot.sh") == with_ours, "twice is once"
    assert file_edits.without_hook(with_ours) == (text or "#!/bin/bash\n")
    moved = file_edits.with_hook(with_ours, "bash /elsewhere/boot.sh")
    assert "/data/" not in moved and file_edits.without_hook(moved) == (text or "#!/bin/bash\n")


def test_our_line_comes_first_so_that_nothing_of_the_users_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "autodl.sh"
    file.write_text(file_edits.with_hook(f"#!/bin/bash\nset -e\nfalse\necho not reached >> {tmp_path}/out\n",
                                     f"echo ours >> {tmp_path}/out; false"))  # fmt: skip
    subprocess.run(["bash", str(file)], check=False)
    assert (tmp_path / "out").read_text() == "ours\n"


@pytest.mark.parametrize(
    "text", ["", 'redis_url = "redis://old/0"\n', "# a comment\nlease_seconds = 300\n\n[[fake_gpus]]\ntotal_gib = 80\n"]
)
def test_our_settings_can_be_taken_back(text: str) -> None:
    ours = file_edits.with_settings(text, {"redis_url": URL, "box": 'a"b\\c'})
    assert file_edits.ours(ours) == {"redis_url": URL, "box": 'a"b\\c'}
    assert file_edits.with_settings(ours, {"redis_url": URL, "box": 'a"b\\c'}) == ours
    assert file_edits.without_settings(ours) == text
    if sys.version_info >= (3, 11):
        import tomllib

        read = tomllib.loads(ours)
        assert (read["redis_url"], read["box"]) == (URL, 'a"b\\c')
        assert ("fake_gpus" in text) == ("fake_gpus" in read)


def test_a_line_of_ours_that_its_owner_changed_is_read_as_it_is() -> None:
    changed = f"redis_url = 'redis://mine/0'{file_edits.MARK}\nlease_seconds = 300{file_edits.MARK}\n"
    assert file_edits.ours(changed) == {"redis_url": "redis://mine/0", "lease_seconds": "300"}


def test_a_write_that_fails_leaves_what_was_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "config.toml"
    file.write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        file_edits.write(file, "after")
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_what_others_left_under_its_name_is_not_written_to(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("")
    (tmp_path / f".token.{os.getpid()}.part").symlink_to(theirs)
    file_edits.write(tmp_path / "token", "hf_secret", 0o600)
    assert (tmp_path / "token").read_text() == "hf_secret" and theirs.read_text() == ""
    assert not (tmp_path / "token").is_symlink()


# -- AutoDL -------------------------------------------------------------------------------------------


def test_check_changes_nothing(tmp_path: Path) -> None:
    made = setup.plan(machine(tmp_path))
    before = tree(tmp_path)
    told = {one.name: one.status for one in setup.check(made)}
    assert {*told.values()} <= {"missing", "ok", "none"} and told["token"] == "none"
    assert told["worker"] == told["start at boot"] == "missing"
    assert tree(tmp_path) == before


def test_all_is_in_place_afterwards_and_twice_is_once(tmp_path: Path) -> None:
    one = machine(tmp_path)
    (tmp_path / "etc/autodl.sh").write_text(USERS)
    made = prepared(one)
    first = tree(tmp_path)
    assert {done.name for done in setup.check(made) if done.status == "missing"} == {"worker"}
    prepared(one)
    assert tree(tmp_path) == first
    settings = setup.plan(machine(tmp_path, PI0Q_REDIS_URL="")).settings
    assert settings.redis_url == URL, "a later shell need not know it"


def test_a_system_reset_is_put_right_by_the_same_command(tmp_path: Path) -> None:
    prepared(machine(tmp_path))
    (tmp_path / "etc/autodl.sh").unlink()
    (tmp_path / "root/.config/pi0q/config.toml").unlink()
    bare = machine(tmp_path, PI0Q_REDIS_URL="")
    missing = {done.name: done.detail for done in setup.check(setup.plan(bare)) if done.status == "missing"}
    assert set(missing) == {"settings", "start at boot", "worker"}
    assert "system reset" in missing["start at boot"]
    prepared(bare)
    assert "redis_url" in (tmp_path / "root/.config/pi0q/config.toml").read_text()
    assert "boot.sh" in (tmp_path / "etc/autodl.sh").read_text()


def test_remove_leaves_what_was_there(tmp_path: Path) -> None:
    one = machine(tmp_path, HF_TOKEN="hf_ofTheShell")
    (tmp_path / "etc/autodl.sh").write_text(USERS)
    config = tmp_path / "root/.config/pi0q/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('redis_url = "redis://mine:6379/0"\nlease_seconds = 300\n')
    config.chmod(0o600)
    (tmp_path / "root/.cache").mkdir()
    before = tree(tmp_path)
    made = prepared(one)
    assert (made.settings.hf_home / "token").read_text() == "hf_ofTheShell"
    removed = {done.name for done in setup.remove(made) if done.status == "removed"}
    assert removed == {"settings", "environment", "token", "pip cache", "start at boot"} | COMMAND
    assert tree(tmp_path) == before
    assert [done for done in setup.remove(setup.plan(one)) if done.status == "removed"] == []


def test_it_is_taken_back_also_where_nothing_says_any_more_where_the_queue_is(tmp_path: Path) -> None:
    made = prepared(machine(tmp_path))
    made.config.unlink()
    (made.home / "config.toml").unlink()
    bare = machine(tmp_path, PI0Q_REDIS_URL="")
    removed = {done.name for done in setup.remove(setup.plan(bare, removing=True)) if done.status == "removed"}
    assert removed == {"environment", "pip cache", "start at boot"} | COMMAND
    assert not (tmp_path / "etc/autodl.sh").exists()


def test_a_boot_script_that_is_not_utf_8_is_kept_to_the_byte(tmp_path: Path) -> None:
    hook, users = tmp_path / "etc/autodl.sh", "#!/bin/bash\n# 开机启动\nexit 0\n".encode("gbk")
    one = machine(tmp_path)
    hook.write_bytes(users)
    made = prepared(one)
    assert hook.read_bytes().endswith(users.partition(b"\n")[2]) and b"boot.sh" in hook.read_bytes()
    list(setup.remove(made))
    assert hook.read_bytes() == users


def test_a_pip_cache_that_leads_elsewhere_on_the_system_disk_leads_to_the_data_disk(tmp_path: Path) -> None:
    made = setup.plan(machine(tmp_path))
    step, elsewhere = steps.PipCache(made), tmp_path / "root/wheels"
    elsewhere.mkdir()
    step.place.parent.mkdir()
    step.place.symlink_to(elsewhere)
    assert step.missing()
    step.do()
    assert step.place.resolve() == made.home / "cache/pip" and elsewhere.is_dir() and not step.missing()


def test_without_the_right_to_the_systems_commands_it_is_among_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = setup.plan(machine(tmp_path))
    script = tmp_path / "venv/bin/pi0q"
    script.parent.mkdir(parents=True)
    script.touch()
    monkeypatch.setattr(sys, "executable", str(script.with_name("python")))
    assert steps.Command(made).place == tmp_path / "usr/local/bin/pi0q"
    (tmp_path / "usr/local/bin").rmdir()
    step = steps.Command(made)
    assert step.missing() and step.do() and not step.missing()
    assert (tmp_path / "root/.local/bin/pi0q").resolve() == script
    assert step.undo() and not step.place.is_symlink()


def test_a_boot_whose_logs_were_removed_starts_the_box(tmp_path: Path) -> None:
    made = prepared(machine(tmp_path))
    (made.home / "logs").rmdir()
    subprocess.run(["bash", str(made.home / "boot.sh")], env={"PATH": os.environ["PATH"]}, check=True)
    log = made.home / "logs/boot.log"
    wait(lambda: log.exists() and "supervisor: process" in log.read_text(), "the start", lambda: file_edits.read(log))
    control.stop(made.home)


def test_without_an_address_nothing_is_done(tmp_path: Path) -> None:
    one = machine(tmp_path, PI0Q_REDIS_URL="")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="Nothing says where the queue is"):
        setup.plan(one)
    assert tree(tmp_path) == before


def test_a_home_on_the_system_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not on AutoDL's data disk"):
        setup.plan(machine(tmp_path, PI0Q_HOME=str(tmp_path / "root/pi0q")))


def test_a_shells_hf_home_on_the_system_disk_is_not_taken_over(tmp_path: Path) -> None:
    made = setup.plan(machine(tmp_path, HF_HOME=str(tmp_path / "root/.cache/huggingface")))
    assert made.settings.hf_home == made.home / "huggingface"
    there = tmp_path / "root/autodl-tmp/mine"
    assert setup.plan(machine(tmp_path, HF_HOME=str(there))).settings.hf_home == there


def test_settings_of_the_shell_are_stored_and_change_with_it(tmp_path: Path) -> None:
    made = prepared(machine(tmp_path, PI0Q_BOX="a-box", PI0Q_LEASE_SECONDS="300"))
    text = made.config.read_text()
    assert 'box = "a-box"' in text and 'lease_seconds = "300"' in text
    assert made.config.resolve() == made.home / "config.toml" and made.config.stat().st_mode & 0o777 == 0o600
    again = prepared(machine(tmp_path, PI0Q_BOX="another"))
    assert 'box = "another"' in again.config.read_text() and 'lease_seconds = "300"' in again.config.read_text()


class TestToken:
    """Where the Hub's token ends up."""

    @pytest.fixture
    def login(self, tmp_path: Path) -> Path:
        file = machine(tmp_path).user_home / ".cache" / "huggingface" / "token"
        file.parent.mkdir(parents=True)
        file.write_text("hf_login")
        return file

    @staticmethod
    def put(tmp_path: Path) -> Path:
        made = setup.plan(machine(tmp_path))
        step = steps.Token(made)
        step.do()
        assert step.missing() == ""
        return made.settings.hf_home / "token"

    def test_a_login_is_moved_and_leads_there(self, tmp_path: Path, login: Path) -> None:
        here = self.put(tmp_path)
        assert here.read_text() == "hf_login" and here.stat().st_mode & 0o777 == 0o600
        assert login.readlink() == here
        # `hf auth login` in a shell without HF_HOME writes through it.
        login.write_text("hf_newer")
        assert here.read_text() == "hf_newer"

    def test_a_later_login_wins(self, tmp_path: Path, login: Path) -> None:
        here = self.put(tmp_path)
        login.unlink()
        login.write_text("hf_later")
        os.utime(here, (1, 1))
        assert self.put(tmp_path).read_text() == "hf_later"

    def test_an_older_login_does_not(self, tmp_path: Path, login: Path) -> None:
        here = setup.plan(machine(tmp_path)).settings.hf_home / "token"
        here.parent.mkdir(parents=True)
        here.write_text("hf_there")
        os.utime(login, (1, 1))
        assert self.put(tmp_path).read_text() == "hf_there"
        assert login.read_text() == "hf_there"

    def test_a_cache_that_leads_to_the_data_disk_stays_a_file(self, tmp_path: Path, login: Path) -> None:
        hf_home = setup.plan(machine(tmp_path)).settings.hf_home
        hf_home.parent.mkdir(parents=True)
        login.parent.rename(hf_home)
        login.parent.symlink_to(hf_home)
        here = self.put(tmp_path)
        assert not here.is_symlink() and here.read_text() == login.read_text() == "hf_login"

    def test_none_is_no_fault(self, tmp_path: Path) -> None:
        assert not self.put(tmp_path).exists()


# -- elsewhere ----------------------------------------------------------------------------------------


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a systemctl that is a fake: it writes down what it was asked, and remembers one unit's state."""
    monkeypatch.setattr(machines, "SYSTEMD_SECONDS", PATIENCE)
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    fake = tmp_path / "bin" / "systemctl"
    fake.parent.mkdir()
    fake.write_text(
        "#!/bin/bash\n"
        f'cd {tmp_path}; echo "$*" >> said\n'
        'case "$2" in\n'
        "enable) touch enabled;; disable) rm -f enabled active;; restart|start) touch active;; stop) rm -f active;;\n"
        "is-enabled) [ -e enabled ];; is-active) [ -e active ];;\n"
        "esac\n"
    )
    fake.chmod(0o755)
    return tmp_path


def test_with_systemd_it_is_a_unit_of_the_users(systemd: Path) -> None:
    one = machine(systemd, autodl=False)
    made = setup.plan(one)
    assert {done.name for done in setup.check(made) if done.status == "missing"} >= {"start at boot", "worker"}
    done = {one.name: one for one in setup.prepare(made)}
    unit = systemd / "root/.config/systemd/user/pi0q-box.service"
    text = unit.read_text()
    assert (
        "KillMode=process" in text
        and "Restart=always" in text
        and f'"{sys.executable}" -m pi0q.queue.cli worker' in text
    )
    assert done["worker"].status == "done" and "runs" in done["worker"].detail
    assert (systemd / "enabled").exists() and (systemd / "active").exists()
    assert not (made.home / "keeper.json").exists(), "systemd keeps it"
    # A hash over the queue's password, which others could try words on.
    assert (made.home / ".started-with").stat().st_mode & 0o777 == 0o600
    assert [one.name for one in setup.check(made) if one.status == "missing"] == []
    assert autostart.starts_by_itself(one, made.home) == "pi0q-box.service"
    first = tree(systemd)
    assert {step.status for step in setup.prepare(setup.plan(one)) if step.name != "token"} == {"ok"}
    assert {name for name, what in tree(systemd).items() if first.get(name) != what} == {"said"}
    list(setup.remove(made))
    assert not unit.exists() and not (systemd / "enabled").exists() and not (systemd / "active").exists()


def test_what_a_worker_has_in_its_hands_changes_only_with_a_new_life(systemd: Path) -> None:
    list(setup.prepare(setup.plan(machine(systemd, autodl=False))))
    (systemd / "said").unlink()
    list(setup.prepare(setup.plan(machine(systemd, autodl=False, PI0Q_BOX="renamed"))))
    assert "--user restart pi0q-box.service" in (systemd / "said").read_text()


def test_a_newer_pi0q_gets_to_the_worker(systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine(systemd, autodl=False)
    list(setup.prepare(setup.plan(one)))
    (systemd / "said").unlink()
    monkeypatch.setattr(steps, "installation", lambda: "installed later")
    told = {done.name: done.detail for done in setup.check(setup.plan(one)) if done.status == "missing"}
    assert told == {"worker": "running with an old version or old settings; restart needed"}
    list(setup.prepare(setup.plan(one)))
    assert "--user restart pi0q-box.service" in (systemd / "said").read_text()
    assert [done for done in setup.check(setup.plan(one)) if done.status == "missing"] == []


def test_a_systemd_that_refuses_is_told_of(systemd: Path) -> None:
    (systemd / "bin/systemctl").write_text(
        "#!/bin/bash\n[[ $2 = show-environment || $2 = daemon-reload ]] && exit; echo refused by policy >&2; exit 1\n"
    )
    done = {one.name: one for one in setup.prepare(setup.plan(machine(systemd, autodl=False)))}
    for name in ("start at boot", "worker"):
        assert done[name].status == "failed" and "refused by policy" in done[name].detail, done[name]


def test_start_and_stop_are_systemds_where_it_holds_the_worker_up(systemd: Path) -> None:
    one = machine(systemd, autodl=False)
    made = setup.plan(one)
    list(setup.prepare(made))
    assert autostart.stop(one, made.home) and not (systemd / "active").exists()
    assert not autostart.stop(one, made.home)
    assert "pi0q-box.service" in autostart.start(one, made.home) and (systemd / "active").exists()
    assert control.supervisor(made.home) is None
    assert not autostart.by_systemd(one, made.home / "another"), "its unit is of one home"


def test_a_setup_that_was_cut_off_is_finished_by_the_next(systemd: Path) -> None:
    list(setup.prepare(setup.plan(machine(systemd, autodl=False))))
    (systemd / "said").unlink()
    prepared(machine(systemd, autodl=False, PI0Q_BOX="renamed"))
    list(setup.prepare(setup.plan(machine(systemd, autodl=False))))
    assert "--user restart pi0q-box.service" in (systemd / "said").read_text()


@pytest.fixture
def bare(tmp_path: Path, env: dict[str, str]) -> Iterator[Machine]:
    """A machine with neither, and a real queue."""
    one = machine(tmp_path, autodl=False, PI0Q_REDIS_URL=env["PI0Q_REDIS_URL"], PI0Q_PREFIX=env["PI0Q_PREFIX"],
                  PI0Q_FAKE_GPUS="[]", PI0Q_BOX="bare")  # fmt: skip
    yield one
    control.stop(Path(one.env["PI0Q_HOME"]))
    while control._started:
        control._started.pop().wait()


def test_without_autodl_and_systemd_a_supervisor_keeps_the_worker_running(bare: Machine) -> None:
    made = setup.plan(bare)
    done = {one.name: one for one in setup.prepare(made)}
    assert "pi0q box start" in done["start at boot"].detail and "@reboot" in done["start at boot"].detail
    home = made.home
    # Either may be seen first: the lock that it takes, or its name, which its supervisor writes down.
    wait(
        lambda: control.worker_locked(home) and control.worker(home),
        "the worker",
        lambda: control.worker_log(home).read_text(),
    )
    first, held = control.worker(home), control.supervisor(home)
    assert first is not None and held is not None
    assert control.start(home, bare.env) == held, "no second one"
    os.kill(first.pid, signal.SIGKILL)
    wait(
        lambda: control.worker(home) not in (None, first),
        "another worker",
        lambda: control.worker_log(home).read_text(),
    )
    assert "the worker ended with -9. Restarting in 1 s" in control.worker_log(home).read_text()
    second = control.worker(home)
    # A setting that changed reaches it.
    changed = Machine(root=bare.root, env={**bare.env, "PI0Q_BOX": "renamed"})
    told = {one.name: one for one in setup.prepare(setup.plan(changed))}
    assert told["worker"].detail.startswith("restarted")
    wait(
        lambda: control.worker(home) not in (None, second),
        "a new life",
        lambda: control.worker_log(home).read_text(),
    )
    wait(
        lambda: "Box renamed" in control.worker_log(home).read_text(),
        "the new name",
        lambda: control.worker_log(home).read_text(),
    )
    assert control.stop(home) and control.supervisor(home) is None
    # What it was about to start lets go of the lock a moment later.
    wait(lambda: not control.worker_locked(home), "the lock")
    assert not control.stop(home)


def test_three_starts_at_once_are_one(bare: Machine) -> None:
    home = prepared(bare).home
    argv = [sys.executable, "-m", "pi0q.queue.cli", "box", "start"]
    starts = [subprocess.Popen(argv, env=dict(bare.env), stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [start.communicate(timeout=2 * PATIENCE)[0] for start in starts]
    held = control.supervisor(home)
    assert held is not None and all(f"process {held.pid}" in text for text in said), said
    # A start ends as soon as a supervisor answers, also while its own is still on its way to the lock.
    wait(lambda: children_of(home) == [held.pid], "the others' end", lambda: str(children_of(home)))


def children_of(home: Path) -> list[int]:
    """Supervisors of this home, by what they were started with."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            argv, env = ((entry / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
        except OSError:
            continue
        if b"pi0q.ops.box.supervisor_main" in argv and f"PI0Q_HOME={home}".encode() in env:
            found.append(int(entry.name))
    return found


def test_what_a_shell_sourced_does_not_stay_with_the_worker(bare: Machine, tmp_path: Path) -> None:
    turbo = tmp_path / "network_turbo"
    turbo.write_text("export https_proxy=http://10.0.0.1:12798\n")
    more = {"https_proxy": "http://10.0.0.1:12798", "PI0Q_NETWORK_TURBO": str(turbo), "http_proxy": "http://mine:1"}
    one = Machine(root=bare.root, env={**bare.env, **more})
    list(setup.prepare(setup.plan(one)))
    held = control.supervisor(Path(one.env["PI0Q_HOME"]))
    assert held is not None
    env = Path(f"/proc/{held.pid}/environ").read_bytes().split(b"\0")
    assert b"http_proxy=http://mine:1" in env
    assert not any(line.startswith((b"https_proxy=", b"PI0Q_REDIS_URL=")) for line in env)


def test_a_worker_that_was_started_by_hand_is_waited_for(bare: Machine, call: Command) -> None:
    made = prepared(bare)
    with (made.home / "by-hand.log").open("wb") as out:
        by_hand = subprocess.Popen([sys.executable, "-m", "pi0q.queue.cli", "worker"], env=dict(bare.env), stdout=out,
                                   stderr=out, start_new_session=True)  # fmt: skip
    try:
        wait(lambda: control.worker_locked(made.home), "the worker by hand")
        control.start(made.home, bare.env)
        assert control.worker(made.home) is None
    finally:
        by_hand.kill()
        by_hand.wait()


def test_settings_reach_a_worker_that_outlived_its_supervisor(bare: Machine) -> None:
    home = setup.plan(bare).home
    list(setup.prepare(setup.plan(bare)))
    wait(lambda: control.worker(home), "the worker", lambda: control.worker_log(home).read_text())
    held, first = control.supervisor(home), control.worker(home)
    assert held is not None
    os.kill(held.pid, signal.SIGKILL)
    control._started.pop().wait()
    wait(lambda: control.worker_locked(home), "the worker's lock", lambda: control.worker_log(home).read_text())
    told = {one.name: one for one in setup.prepare(setup.plan(bare))}
    assert told["worker"].detail.startswith("restarted")
    wait(
        lambda: control.worker(home) not in (None, first),
        "a new life",
        lambda: control.worker_log(home).read_text(),
    )


@pytest.mark.parametrize("fails", ["the log", "its own file", "the start"])
def test_supervisor_keeps_trying_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    starts, clock = list[float](), [1000.0]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def spawn() -> Any:
        starts.append(clock[0])
        return full() if fails == "the start" else EndsAtOnce()

    def wait(seconds: float) -> signal.Signals | None:
        clock[0] += seconds
        return signal.SIGTERM if len(starts) == 3 else None

    handler = logging.StreamHandler(SimpleNamespace(write=full, flush=full))
    monkeypatch.setattr(logging, "raiseExceptions", False)
    if fails == "the log":
        supervisor_main.log.addHandler(handler)
    if fails == "its own file":
        monkeypatch.setattr(pidfile, "write", lambda _home, worker_pid: full() if worker_pid else None)
    try:
        supervisor_main.WorkerSupervisor(tmp_path, spawn=spawn, wait=wait, clock=lambda: clock[0]).run()
    finally:
        supervisor_main.log.removeHandler(handler)
    assert len(starts) == 3, "it tried again until it was stopped"


class EndsAtOnce:
    """A worker that has ended; no process can have its pid."""

    pid, returncode = 1 << 30, 1

    def poll(self) -> int:
        return self.returncode

    def terminate(self) -> None:
        pass

    def wait(self, _seconds: float) -> int:
        return self.returncode


#: What a supervisor of any version leaves on the disk: the lock, and its name in keeper.json. It ignores SIGHUP, so
#: that only a replacement can bring the new version into memory.
OTHER_VERSION = """
import fcntl, json, os, pathlib, signal, sys
from pi0q.workers.host import identity
home = pathlib.Path(sys.argv[1])
lock = os.open(home / "keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(lock, fcntl.LOCK_EX)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
me = {"pid": os.getpid(), "start": identity.start_time(os.getpid())}
(home / "keeper.json").write_text(json.dumps({"boot": identity.boot(), "keeper": me}))
signal.pause()
"""


def test_setup_replaces_a_supervisor_of_another_version(bare: Machine) -> None:
    home = prepared(bare).home
    other = subprocess.Popen([sys.executable, "-c", OTHER_VERSION, str(home)], env=dict(bare.env))
    try:
        wait(lambda: control.supervisor(home), "the supervisor of another version")
        assert control.start(home, bare.env).pid == other.pid, "a start leaves it alone"
        done = {one.name: one for one in setup.prepare(setup.plan(bare))}
        assert done["worker"].detail.startswith("restarted"), done["worker"]
        assert other.wait(PATIENCE) == -signal.SIGTERM
        assert children_of(home) == [(control.supervisor(home) or pidfile.ProcessRef(pid=0, start=0)).pid]
    finally:
        other.kill()
        other.wait()


def test_a_process_with_the_supervisors_pid_and_another_start_is_not_the_supervisor(tmp_path: Path) -> None:
    told = {"boot": identity.boot(), "keeper": {"pid": os.getpid(), "start": 1}}
    (tmp_path / "keeper.json").write_text(json.dumps(told))
    assert control.supervisor(tmp_path) is None
    assert not control.stop(tmp_path)
    told["keeper"] = {"pid": os.getpid(), "start": identity.start_time(os.getpid())}
    (tmp_path / "keeper.json").write_text(json.dumps({**told, "boot": "another-1"}))
    assert control.supervisor(tmp_path) is None
    (tmp_path / "keeper.json").write_text(json.dumps(told))
    assert control.supervisor(tmp_path) is not None


def test_a_log_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_main, "LOG_BYTES", 10)
    log = control.worker_log(tmp_path)
    log.parent.mkdir()
    with log.open("ab", buffering=0) as worker:
        worker.write(b"first words of it\n")
        supervisor_main.WorkerSupervisor(tmp_path).trim_log()
        worker.write(b"later\n")
    assert log.read_bytes() == b"later\n" and log.with_suffix(".log.1").read_bytes() == b"first words of it\n"


# -- the command --------------------------------------------------------------------------------------


def test_start_on_a_machine_that_is_no_box(call: Command) -> None:
    answer = call("box", "start", PI0Q_REDIS_URL="")
    assert answer.returncode == 1 and "pi0q box setup" in answer.stderr


def test_check_and_status_speak_json(call: Command, tmp_path: Path) -> None:
    answer = call("box", "setup", "--check", "--json", HOME=str(tmp_path), PI0Q_TRAINER_PYTHON="/bin/false")
    assert answer.returncode == 1
    assert {"name": "worker", "status": "missing", "detail": "no supervisor runs"} in json.loads(answer.stdout)["steps"]
    status = json.loads(call("box", "status", "--json").stdout)
    assert status["worker"] == "does not run" and status["starts_with"] is None


def test_stop_where_nothing_runs(call: Command) -> None:
    assert call("box", "stop").stdout == "No worker was running.\n"

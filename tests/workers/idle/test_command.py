"""The command that switches a machine off; a script stands in for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pi0q.workers.idle import command
from pi0q.workers.idle.command import CannotSwitchOff

SYSTEMCTL = "/usr/bin/systemctl"


@pytest.mark.parametrize(
    ("chosen", "autodl", "systemd", "words"),
    [
        (("shutdown",), True, "", ["/usr/bin/shutdown"]),
        (("shutdown",), True, SYSTEMCTL, ["/usr/bin/shutdown"]),
        (("shutdown",), False, SYSTEMCTL, [SYSTEMCTL, "--no-ask-password", "poweroff"]),
        (("/bin/off", "a; b"), True, SYSTEMCTL, ["/bin/off", "a; b"]),
    ],
)
def test_which_command(chosen: tuple[str, ...], autodl: bool, systemd: str, words: list[str]) -> None:
    assert command.words(chosen, autodl=autodl, systemd=systemd) == words


def test_a_machine_without_any_says_what_to_do() -> None:
    with pytest.raises(CannotSwitchOff, match=r"neither systemd nor AutoDL.*Fix: pi0q box setup --idle-do"):
        command.words(("shutdown",), autodl=False, systemd="")


def test_setup_warns_of_a_command_that_will_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "off"
    script.write_text("#!/bin/sh\n")
    assert "no program that this user may run" in str(command.fault([str(script)], root=True))
    script.chmod(0o755)
    assert command.fault([str(script)], root=False) is None
    monkeypatch.setattr(command, "of_this_machine", lambda chosen: [sys.executable, "poweroff"])
    assert command.fault(["shutdown"], root=True) is None
    assert "Fix: pi0q box setup --idle-do" in str(command.fault(["shutdown"], root=False))


def test_its_words_meet_no_shell_and_its_environment_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PI0Q_REDIS_URL", "redis://u:secret@x/0")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    code = "import os, sys; open(sys.argv[1], 'w').write(sys.argv[2] + repr(dict(os.environ)))"
    command.run([sys.executable, "-c", code, str(tmp_path / "out"), "$(id); `id`"], tmp_path)
    said = (tmp_path / "out").read_text()
    assert said.startswith("$(id); `id`{") and "secret" not in said and os.environ["PATH"] in said


def test_a_command_that_fails_or_is_missing_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; print('Interactive authentication\\nrequired.'); sys.exit(1)"
    with pytest.raises(CannotSwitchOff, match=r"ended with exit code 1: Interactive authentication required\."):
        command.run([sys.executable, "-c", code], tmp_path)
    with pytest.raises(CannotSwitchOff, match="/nowhere/off: No such file or directory"):
        command.run(["/nowhere/off"], tmp_path)
    monkeypatch.setattr(command, "PATIENCE", 0.01)
    with pytest.raises(CannotSwitchOff, match="did not come back"):
        command.run([sys.executable, "-c", "import sys; sys.stdin.read(); import time; time.sleep(60)"], tmp_path)

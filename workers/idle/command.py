"""The command that switches this machine off: AutoDL's, systemd's, or the user's own. An argument list, no shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pi0q.queue import settings as all_settings
from pi0q.queue.idle_policy import SHUTDOWN

#: AutoDL's wrapper inside the container; what else it has of that name is refused there.
AUTODL = "/usr/bin/shutdown"
SYSTEMD = Path("/run/systemd/system")
#: Seconds that the command has to come back, and the characters of what it says that are told.
PATIENCE, MOST_SAID = 60.0, 200


OWN = 'pi0q box setup --idle-do \'["/path/of/a/program", "its-argument"]\''


class CannotSwitchOff(Exception):
    """The machine is not switched off; the text says why and, where that is known, what to do."""

    def __init__(self, why: str, *, fix: str = "") -> None:
        self.why, self.fix = why, fix
        super().__init__(f"{why}. Fix: {fix}" if fix else why)


def words(chosen: Sequence[str], *, autodl: bool, systemd: str) -> list[str]:
    """Return the command for what the user chose. `systemd`: the path of systemctl where systemd runs, else "".

    Raises CannotSwitchOff where `shutdown` means nothing on this machine.
    """
    if list(chosen) != [SHUTDOWN]:
        return list(chosen)
    if autodl:
        return [AUTODL]
    if systemd:
        # Without a terminal there is nobody to type a password.
        return [systemd, "--no-ask-password", "poweroff"]
    raise CannotSwitchOff("this machine has neither systemd nor AutoDL's shutdown", fix=OWN)


def of_this_machine(chosen: Sequence[str]) -> list[str]:
    """Return the command for this machine. Raises CannotSwitchOff."""
    systemctl = shutil.which("systemctl") or ""
    return words(
        chosen,
        autodl=os.path.isdir(all_settings.AUTODL_DATA) and Path(AUTODL).exists(),  # noqa: PTH112 - another's home
        systemd=systemctl if SYSTEMD.exists() else "",
    )


def fault(chosen: Sequence[str], *, root: bool) -> CannotSwitchOff | None:
    """Return why the chosen command will probably not work here; None where it may. `root`: its user may do all."""
    try:
        command = of_this_machine(chosen)
    except CannotSwitchOff as error:
        return error
    if not os.access(command[0], os.X_OK):
        return CannotSwitchOff(f"{command[0]} is no program that this user may run", fix=OWN)
    if list(chosen) == [SHUTDOWN] and command[-1] == "poweroff" and not root:
        why = "systemctl poweroff asks for a password from anyone but root, unless polkit has a rule for this user"
        return CannotSwitchOff(why, fix='pi0q box setup --idle-do \'["/usr/bin/sudo", "-n", "/usr/sbin/poweroff"]\'')
    return None


def run(command: Sequence[str], home: Path) -> None:
    """Run the command to its end. Raises CannotSwitchOff where it fails, is missing or does not come back.

    It gets no secret: neither the queue's address nor a token stands in its environment.
    """
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "USER", "LANG", "LC_ALL")}
    try:
        done = subprocess.run(
            list(command), env=env, cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CannotSwitchOff(f"{command[0]} did not come back within {PATIENCE:.0f} s") from None
    except OSError as error:
        raise CannotSwitchOff(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        said = " ".join(done.stdout.decode(errors="replace").split())[:MOST_SAID]
        raise CannotSwitchOff(f"{command[0]} ended with exit code {done.returncode}" + (f": {said}" if said else ""))

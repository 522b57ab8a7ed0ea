"""Kill processes that outlived a dead runner: the kernel makes the worker their parent.

A runner kills its own descendants. If the runner itself is killed, a descendant that left its session and process
group and cleared its environment can only be recognised by its new parent, the worker (child subreaper).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
from collections.abc import Mapping

import psutil

from pi0q.workers.agent.launcher import MODULES, Launcher
from pi0q.workers.host import identity
from pi0q.workers.host.process_tree import PR_SET_CHILD_SUBREAPER

logger = logging.getLogger(__name__)

#: Seconds to wait for the exit of a killed process; one that hangs in its driver takes longer.
REAP_SECONDS = 2.0


def foreign_children() -> dict[int, int]:
    """Return the children that this process has before it has started any: pid -> start time."""
    starts = {child.pid: identity.start_time(child.pid) for child in psutil.Process().children()}
    return {pid: start for pid, start in starts.items() if start is not None}


class Orphans:
    """The orphans of dead runners among this process's children."""

    def __init__(self, launcher: Launcher, foreign_children: Mapping[int, int]) -> None:
        self.launcher, self.foreign_children = launcher, foreign_children
        self._adopting = False
        #: Pids that a SIGKILL did not end; each is logged once.
        self._unkillable: set[int] = set()

    def adopt(self) -> None:
        """Make orphans among this process's descendants its children from now on (Linux only).

        Only for a worker: a process with other children of its own would kill them.
        """
        with contextlib.suppress(AttributeError, OSError):
            self._adopting = ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

    def end(self) -> list[int]:
        """Kill the orphans and reap those that exited; return the pids of those that were killed."""
        killed: list[int] = []
        if not self._adopting:
            return killed
        # A child of a killed orphan is the next orphan.
        while orphans := [child for child in self._children() if child.pid not in {*killed, *self._unkillable}]:
            for orphan in orphans:
                if self._ended(orphan):
                    killed.append(orphan.pid)
                else:
                    self._unkillable.add(orphan.pid)
                    logger.error("process %d of a dead runner can't be killed", orphan.pid)
        if killed:
            logger.info("killed processes of a dead runner: %s", ", ".join(map(str, killed)))
        return killed

    def _ended(self, orphan: psutil.Process) -> bool:
        try:
            orphan.kill()
            orphan.wait(REAP_SECONDS)
        except psutil.TimeoutExpired:
            return False
        except psutil.Error:
            pass
        return True

    def _children(self) -> list[psutil.Process]:
        """Return the orphans among our children; reap those that have exited."""
        orphans = []
        # While none is being started, each runner is recognised by its command line.
        with self.launcher.starting:
            own = self.launcher.pids()
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error, OSError):
                    if child.pid in own:
                        continue
                    if child.status() == psutil.STATUS_ZOMBIE:
                        os.waitpid(child.pid, os.WNOHANG)
                    elif self._orphan(child):
                        orphans.append(child)
        return orphans

    def _orphan(self, child: psutil.Process) -> bool:
        # The first process of a container inherits everyone's orphans.
        if os.getpid() == 1 or self.foreign_children.get(child.pid) == identity.start_time(child.pid):
            return False
        # Short-lived helpers stay in the worker's session; a runner may be of the worker before a restart.
        return os.getsid(child.pid) != os.getsid(0) and not set(MODULES) & set(child.cmdline())

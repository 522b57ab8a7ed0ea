"""Processes that outlived a dead runner: the kernel hands them to the worker, which ends them.

A runner ends its own descendants. If it is killed itself, one that left session and group and cleared its
environment can be known by nothing but this: its new parent is the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
from collections.abc import Mapping

import psutil

from pi0q.workers import identity
from pi0q.workers.launcher import MODULE, Launcher
from pi0q.workers.run.process import PR_SET_CHILD_SUBREAPER

logger = logging.getLogger("pi0q")

#: Seconds that a killed process has to be gone; one that hangs in its driver is not waited for.
BURY_SECONDS = 2.0


def strangers() -> dict[int, int]:
    """The children that this process has before it has started any: pid -> start time."""
    found = {child.pid: identity.start_time(child.pid) for child in psutil.Process().children()}
    return {pid: start for pid, start in found.items() if start is not None}


class Orphans:
    """Ends what dead runners left behind."""

    def __init__(self, launcher: Launcher, strangers: Mapping[int, int]) -> None:
        self.launcher, self.strangers = launcher, strangers
        self._adopting = False
        #: Those that a SIGKILL did not end, told once: pids.
        self._undead: set[int] = set()

    def adopt(self) -> None:
        """From now on orphans among this process's descendants become its children (Linux only).

        Only for a worker: what else has children of its own would see them killed.
        """
        with contextlib.suppress(AttributeError, OSError):
            self._adopting = ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

    def end(self) -> list[int]:
        """Kills the orphans there are and buries those that died; the pids of those that were killed."""
        killed: list[int] = []
        if not self._adopting:
            return killed
        # What one of them had started is an orphan next.
        while orphans := [child for child in self._children() if child.pid not in {*killed, *self._undead}]:
            for orphan in orphans:
                if self._ended(orphan):
                    killed.append(orphan.pid)
                else:
                    self._undead.add(orphan.pid)
                    logger.error("process %d, left behind by a dead runner, can't be killed", orphan.pid)
        if killed:
            logger.info("ended what a dead runner had left behind: %s", ", ".join(map(str, killed)))
        return killed

    def _ended(self, orphan: psutil.Process) -> bool:
        try:
            orphan.kill()
            orphan.wait(BURY_SECONDS)
        except psutil.TimeoutExpired:
            return False
        except psutil.Error:
            pass
        return True

    def _children(self) -> list[psutil.Process]:
        """The orphans among our children; those that have ended are buried on the way."""
        found = []
        # While none is being started, every runner can be told by its command line.
        with self.launcher.starting:
            own = self.launcher.pids()
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error, OSError):
                    if child.pid in own:
                        continue
                    if child.status() == psutil.STATUS_ZOMBIE:
                        os.waitpid(child.pid, os.WNOHANG)
                    elif self._orphan(child):
                        found.append(child)
        return found

    def _orphan(self, child: psutil.Process) -> bool:
        # As a container's first process it is given everyone's orphans.
        if os.getpid() == 1 or self.strangers.get(child.pid) == identity.start_time(child.pid):
            return False
        # What the worker itself starts for a moment stays in its session; a runner of an earlier life is a runner.
        return os.getsid(child.pid) != os.getsid(0) and MODULE not in child.cmdline()

"""What the commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from pi0q.jobs.errors import NotFound, Pi0qError, UsageError
from pi0q.queue import settings
from pi0q.queue.connection import connect, connect_briefly
from pi0q.queue.store_reads import StoreReads

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from pi0q.queue.store import Store


class JobReference(click.types.StringParamType):
    """An id, the beginning of one, or a name; a shell completes it by the jobs that there are."""

    name = "ID"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return names and ids of jobs that begin so; none where the server does not answer."""
        from click.shell_completion import CompletionItem

        try:
            jobs = open_reader().page().jobs
        except Exception:  # a shell shows whatever is raised in the middle of its line
            return []
        words = dict.fromkeys([*(job.name for job in jobs), *(job.id for job in jobs)])
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


#: Type of an argument that names a job.
JOB = JobReference()
#: Exit code that a shell gives for a command that Ctrl-C ended.
INTERRUPTED = 130


def leave_after_interrupt(code: int) -> NoReturn:
    """Exit at once after Ctrl-C.

    The interrupt may have come while a lock of redis-py was held, and its finalizers would wait for that lock for ever
    (seen with `PubSub.__del__`: one interrupt of some hundred).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def open_store() -> Store:
    """Open the store that the settings name, by redis-py: for commands that change something or follow a job."""
    from pi0q.queue.store import Store

    chosen = settings.load()
    return Store(connect(chosen), chosen.prefix)


def resolve_all(store: StoreReads, references: Sequence[str]) -> list[str]:
    """Return the ids of several jobs, each once. Raises UsageError or NotFound that tells all references at fault."""
    ids, faults = dict[str, None](), list[Pi0qError]()
    for reference in references:
        try:
            ids[store.resolve(reference)] = None
        except (NotFound, UsageError) as error:
            faults.append(error)
    if not faults:
        return list(ids)
    kind = NotFound if all(isinstance(fault, NotFound) for fault in faults) else UsageError
    others = " of the others" if len(faults) < len(references) else ""
    raise kind("\n".join([*map(str, faults), f"Nothing{others} was changed."]))


def open_reader() -> StoreReads:
    """Open the store that the settings name, for a command that reads and is over."""
    chosen = settings.load()
    return StoreReads(connect_briefly(chosen), chosen.prefix)

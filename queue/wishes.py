"""What a user wishes of a job that is at work, as its owner hears it; and how saves are wished for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pi0q.jobs.errors import NotFound
from pi0q.jobs.state import State


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a user asks of a job's owner, as each report hears it."""

    #: How it is to end: `cancel`, `stop` or nothing.
    end: str = ""
    #: A save that no checkpoint has answered yet, by its name (see `Record.save_wish`); 0 for none.
    save: int = 0
    #: Whether that checkpoint is to be kept.
    pin: bool = False
    #: Steps whose checkpoints are kept.
    kept: tuple[int, ...] = ()

    @classmethod
    def of(cls, answer: Sequence[Any]) -> Wishes:
        """As report.lua says it."""
        end, save, pin, kept = answer
        return cls(end=str(end), save=int(save), pin=bool(pin), kept=tuple(json.loads(kept or "[]")))


class SaveWishes:
    """The part of the store that is about saves."""

    def _run(self, script: str, *args: str | int) -> Any:
        raise NotImplementedError

    def save(self, job_id: str, *, text: str, pin: bool = False, at_least: int = 0) -> tuple[State, int]:
        """Asks the owner of a running job for a checkpoint; its state and the wish's name, 0 where it does not run.

        `at_least` is the name that an earlier call got: asked again it is the same wish, also where the server lost it.
        Raises NotFound.
        """
        state, wish = self._run("save", job_id, at_least, text, int(pin))
        if not state:
            raise NotFound(f"There is no job {job_id}. `pi0q ls --all` lists every job.")
        return State(state), int(wish)

    def keep(self, job_id: str, step: int, *, on: bool) -> tuple[int, ...]:
        """Pins the checkpoint of a step, or ends that; all steps that are kept now. Raises NotFound."""
        kept = self._run("keep", job_id, step, int(on))
        if not kept:
            raise NotFound(f"There is no job {job_id}. `pi0q ls --all` lists every job.")
        return tuple(json.loads(kept))

"""A run's saves as its user sees them: the wishes for one, each answered once, and what they cost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from pi0q.jobs import saving
from pi0q.jobs.record import Record, Saved
from pi0q.queue.wishes import Wishes
from pi0q.workers.run.pins import Pins
from pi0q.workers.run.progress import Progress

CANT = "this LeRobot can't be hooked: it saves only by its own save_freq"


class Demand:
    """Hears wishes from the reporter's thread, events from the trainer's, and what was sealed from the third.

    A wish is passed on once to each trainer that lives while it is open, as a signal that is understood only after its
    `start`; the save that came of it says so, and once that is sealed the wish is answered.
    """

    def __init__(self, record: Record, progress: Progress, pins: Pins, say: Callable[[str], None]) -> None:
        self.record, self.progress, self.pins, self.say = record, progress, pins, say
        self._lock = threading.RLock()
        self._wish, self._served = Wishes(), record.save_served
        #: Whether the living trainer saves on demand; None while that is not known.
        self._able: bool | None = None
        self._asked = 0
        self._signal: Callable[[], None] = lambda: None
        #: Step of a save -> the wish that it answers once it is sealed.
        self._answers: dict[int, int] = {}
        self._told = set[int]()

    # -- from outside -------------------------------------------------------------------------------

    def hear(self, wishes: Wishes) -> None:
        """What a report heard; the same wish is heard until it is answered."""
        with self._lock:
            self.pins.set({*wishes.kept, *self._just_pinned(wishes)})
            if wishes.save > self._served:
                self._wish = wishes
                self._pass_on()

    def _just_pinned(self, wishes: Wishes) -> set[int]:
        """The one that answered, until the queue has heard so."""
        step = self.progress.fields.get("save_step")
        return {step} if wishes.pin and step is not None and self._served >= wishes.save > 0 else set()

    def resumed(self, resume: Saved | None) -> None:
        """A wish that its runner did not live to answer: what is resumed from may be as new as was wished."""
        with self._lock:
            open_wish = self.record.save_wish
            if resume and open_wish > self._served and resume.step >= self.record.save_at:
                self._answer(open_wish, step=resume.step)

    # -- from the trainer ---------------------------------------------------------------------------

    def begin(self, signal: Callable[[], None]) -> None:
        """A new trainer was started; `signal` asks it for a save, and would kill it before its `start`."""
        with self._lock:
            self._signal, self._able, self._asked = signal, None, 0
            self._answers.clear()
            self.progress.update(save_able="starting")

    def event(self, event: Mapping[str, Any]) -> None:
        """Folds one event of the hook."""
        kind = event.get("event")
        with self._lock:
            if kind == "start":
                self._able = bool(event.get("hooked", True))
                self.progress.update(save_able="yes" if self._able else "no")
                self._pass_on()
            elif kind == "saved":
                if event.get("wanted"):
                    self._answers[int(event["step"])] = self._wish.save
                self._cost(event)

    def sealed(self, saved: Saved) -> None:
        """It is vouched for."""
        with self._lock:
            if wish := self._answers.pop(saved.step, 0):
                self._answer(wish, step=saved.step)

    def unsealed(self, step: int, why: str) -> None:
        """It could not be vouched for."""
        with self._lock:
            if wish := self._answers.pop(step, 0):
                self._answer(wish, detail=f"the checkpoint of step {step} could not be vouched for: {why}")

    # -- what follows -------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        if self._able is None or self._wish.save <= max(self._served, self._asked):
            return
        if not self._able:
            self._answer(self._wish.save, detail=CANT)
            return
        self._asked = self._wish.save
        self._signal()

    def _answer(self, wish: int, *, step: int | None = None, detail: str = "") -> None:
        if wish <= self._served:
            return
        self._served = wish
        if step is not None and self._wish.pin and self._wish.save == wish:
            self.pins.add(step)
        self.progress.update(save_served=wish, save_step=step, save_detail=detail)
        self.say(detail or f"checkpoint {step} is what was asked for")

    def _cost(self, event: Mapping[str, Any]) -> None:
        if not (cost := event.get("cost_s")):
            return
        self.progress.update(save_seconds=float(cost))
        for what, words in enumerate(
            saving.words(self.record.spec, float(cost), self.progress.fields.get("step_seconds"))
        ):
            if words and what not in self._told:
                self._told.add(what)
                self.say(words)

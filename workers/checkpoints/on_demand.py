"""Checkpoints that the user asked for: each request is answered once; and what a save costs."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping
from typing import Any

from pi0q.jobs.estimates import save_cost
from pi0q.jobs.record import Record, Saved
from pi0q.queue.store_types import UserRequests
from pi0q.workers.checkpoints.pins import Pins
from pi0q.workers.host import process_tree
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress

log = logging.getLogger(__name__)

NOT_HOOKED = "this LeRobot can't be hooked: it saves only by its own save_freq"


class CheckpointRequests(TrainerListener):
    """Takes requests from the reporter's thread, events from the supervisor's, and seals from the sealer's.

    A request is passed on once to each trainer that lives while it is open, as SIGUSR1, which would kill the trainer
    before its `start` event. The save that follows says that it was requested; once it is sealed it is the answer.
    """

    def __init__(self, record: Record, progress: Progress, pins: Pins) -> None:
        self.record, self.progress, self.pins = record, progress, pins
        self._lock = threading.RLock()
        self._request, self._served = UserRequests(), record.save_served
        self._pid = 0
        #: Whether the present trainer saves on demand; None until its `start` event.
        self._able: bool | None = None
        #: The last request that was passed on to the present trainer.
        self._passed_on = 0
        #: Step of a save -> the request that it answers once it is sealed.
        self._answers: dict[int, int] = {}
        #: Hints about the cost of saves that were logged.
        self._logged = set[int]()

    # -- from the user --------------------------------------------------------------------------------

    def on_requests(self, requests: UserRequests) -> None:
        """Handle the user's requests in a report's answer; a request comes again until it is answered."""
        with self._lock:
            self.pins.set({*requests.pinned_steps, *self._just_pinned(requests)})
            if requests.save > self._served:
                self._request = requests
                self._pass_on()

    def _just_pinned(self, requests: UserRequests) -> set[int]:
        """Return the step that answered a request with `--pin`, until the queue lists it among the pinned ones."""
        step = self.progress.fields.get("save_step")
        return {step} if requests.pin and step is not None and self._served >= requests.save > 0 else set()

    def on_resume(self, checkpoint: Saved | None) -> None:
        """Answer a request that an earlier runner left open, if the checkpoint resumed from is as new as requested."""
        with self._lock:
            request = self.record.save_wish
            if checkpoint and request > self._served and checkpoint.step >= self.record.save_at:
                self._answer(request, step=checkpoint.step)

    # -- from the trainer -----------------------------------------------------------------------------

    def on_start(self, pid: int) -> None:
        with self._lock:
            self._pid, self._able, self._passed_on = pid, None, 0
            self._answers.clear()
            self.progress.update(save_able="starting")

    def on_event(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            if event.get("event") == "start":
                self._able = bool(event.get("hooked", True))
                self.progress.update(save_able="yes" if self._able else "no")
                self._pass_on()
            elif event.get("event") == "saved":
                if event.get("wanted"):
                    self._answers[int(event["step"])] = self._request.save
                self._take_cost(event)

    def on_sealed(self, saved: Saved | None) -> None:
        with self._lock:
            if saved and (request := self._answers.pop(saved.step, 0)):
                self._answer(request, step=saved.step)

    def on_seal_failed(self, step: int, why: str) -> None:
        with self._lock:
            if request := self._answers.pop(step, 0):
                self._answer(request, detail=f"Could not verify checkpoint {step}: {why}")

    # -- what follows -------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        if self._able is None or self._request.save <= max(self._served, self._passed_on):
            return
        if not self._able:
            self._answer(self._request.save, detail=NOT_HOOKED)
            return
        self._passed_on = self._request.save
        process_tree.send(self._pid, signal.SIGUSR1)

    def _answer(self, request: int, *, step: int | None = None, detail: str = "") -> None:
        if request <= self._served:
            return
        self._served = request
        if step is not None and self._request.pin and self._request.save == request:
            self.pins.add(step)
        self.progress.update(save_served=request, save_step=step, save_detail=detail)
        log.info("%s", detail or f"checkpoint {step} is the requested one")

    def _take_cost(self, event: Mapping[str, Any]) -> None:
        if not (cost := event.get("cost_s")):
            return
        self.progress.update(save_seconds=float(cost))
        hints = save_cost.words(self.record.spec, float(cost), self.progress.fields.get("step_seconds"))
        for number, hint in enumerate(hints):
            if hint and number not in self._logged:
                self._logged.add(number)
                log.info("%s", hint)

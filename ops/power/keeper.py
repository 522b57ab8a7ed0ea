"""Start switched-off boxes while jobs wait that fit them. Runs on the queue's machine, as a part of `pi0q up`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Protocol

from pi0q.jobs.notices import Message
from pi0q.ops.power import plan, state_file
from pi0q.ops.power.autodl_api import ApiError, Container, Refused
from pi0q.ops.power.plan import Need, ReleaseSoon, RentedBox, Start, TooPoor
from pi0q.ops.power.state_file import Linked, State
from pi0q.queue.reading.values import BoxStatus, BoxView, FleetView, JobView

logger = logging.getLogger(__name__)

#: Seconds between two looks at the queue; AutoDL is asked when a job waits, and once in so many looks besides.
EVERY, QUIET_LOOKS = 30.0, 120
#: Jobs for which it is remembered that the balance did not cover them.
MOST_TOLD = 100


class Account(Protocol):
    """The API of whoever rents the containers out. Each call raises ApiError."""

    def containers(self) -> Mapping[str, Container]:
        """Return all containers by id."""

    def price(self, container: str) -> float | None:
        """Return CNY an hour."""

    def balance(self) -> float | None:
        """Return CNY that can be spent."""

    def power_on(self, container: str, start_command: str) -> None:
        """Switch a container on."""


@dataclass(frozen=True, kw_only=True)
class Outlets:
    """Where the keeper tells what it does."""

    #: A line for the log.
    say: Callable[[str], None]
    #: A message for people; never raises.
    tell: Callable[[Message], None]
    #: What a box costs, CNY an hour.
    price: Callable[[str, float], None]


class PowerKeeper:
    """Looks at the queue and at the account, starts boxes, warns."""

    def __init__(self, account: Account, read: Callable[[], FleetView], home: Path, outlets: Outlets) -> None:
        self.account, self.read, self.home, self.outlets = account, read, home, outlets
        self._quiet = QUIET_LOOKS

    def run(self, stopping: threading.Event, errors: tuple[type[Exception], ...]) -> None:
        """Look until `stopping`; a server that raises one of `errors` is asked again."""
        while not stopping.wait(EVERY):
            try:
                self.look()
            except errors as error:
                logger.warning("The queue does not answer (%s); no box is started meanwhile.", type(error).__name__)

    def look(self) -> None:
        """Look once. Raises what the queue's client raises; what AutoDL refuses is told in the log."""
        state = state_file.read(self.home)
        view = self.read()
        needs = waiting(view)
        self._quiet += 1
        if not state.boxes or (not needs and self._quiet < QUIET_LOOKS):
            return
        self._quiet = 0
        try:
            boxes = self._rented(state, view)
            for soon in plan.releases(boxes, view.now_ms):
                self._warn(state, soon)
            if needs:
                self._start(state, needs, boxes, view.now_ms)
        except ApiError as error:
            logger.warning("AutoDL: %s. No box is started; it is asked again in %.0f s.", error, EVERY)
        state.write(self.home)

    def _rented(self, state: State, view: FleetView) -> list[RentedBox]:
        listed = self.account.containers()
        known = {box.name: box for box in view.boxes}
        found = []
        for name, linked in state.boxes.items():
            box, container = known.get(name), listed.get(linked.instance)
            if container is None:
                continue
            if linked.price is None or view.now_ms - linked.price_ms > plan.DAY_MS:
                self._ask_price(name, linked, view.now_ms)
            found.append(
                RentedBox(
                    box=name,
                    instance=linked.instance,
                    power=container.power,
                    cards_mib=_cards_mib(box) if box else (),
                    is_up=box is not None and box.status not in (BoxStatus.STOPPED, BoxStatus.UNREACHABLE),
                    price=linked.price,
                    off_ms=container.off_ms,
                )
            )
        return found

    def _ask_price(self, box: str, linked: Linked, now_ms: int) -> None:
        price = self.account.price(linked.instance)
        linked.price, linked.price_ms = price or linked.price, now_ms
        if price is not None:
            self.outlets.price(box, price)

    def _start(self, state: State, needs: Iterable[Need], boxes: list[RentedBox], now_ms: int) -> None:
        paused = {name for name, linked in state.boxes.items() if linked.not_before_ms > now_ms}
        for act in plan.starts(needs, boxes, balance=self.account.balance(), paused=paused):
            if isinstance(act, TooPoor):
                self._tell_poor(state, act)
            else:
                self._power_on(state, act, now_ms)

    def _power_on(self, state: State, act: Start, now_ms: int) -> None:
        linked = state.boxes[act.box.box]
        try:
            self.account.power_on(act.box.instance, state.start_command)
        except ApiError as error:
            pause = linked.fail(now_ms)
            self.outlets.say(f"{act.box.box} could not be started ({error}); it is tried again in {pause:.0f} s.")
            if error.kind is Refused.TOKEN:
                raise
            return
        linked.pause, linked.not_before_ms, linked.told_days = 0.0, 0, None
        price = f", {act.box.price:.2f} CNY an hour" if act.box.price else ""
        self.outlets.say(f"{act.box.box} is started for job {act.need.job}{price}.")
        self.outlets.tell(
            Message(
                title=f"{act.box.box} is started",
                body=f"Job {act.need.job} waits and fits it{price}: pi0q why {act.need.job}",
            )
        )

    def _tell_poor(self, state: State, act: TooPoor) -> None:
        if act.need.job in state.told_poor:
            return
        state.told_poor = [*state.told_poor, act.need.job][-MOST_TOLD:]
        text = (
            f"{act.box.box} is not started for job {act.need.job}: that would cost about {act.cost:.2f} CNY and the "
            f"account has {act.balance:.2f}."
        )
        self.outlets.say(text)
        self.outlets.tell(Message(title="The balance does not cover a job", body=f"{text}\nFix: top the account up"))

    def _warn(self, state: State, soon: ReleaseSoon) -> None:
        linked = state.boxes[soon.box.box]
        if linked.told_days == soon.days_left:
            return
        linked.told_days = soon.days_left
        when = f"in {soon.days_left} days" if soon.days_left else "today"
        text = f"AutoDL releases {soon.box.box} ({soon.box.instance}) {when}, with its disks: it has been off too long."
        self.outlets.say(text)
        self.outlets.tell(Message(title=f"{soon.box.box} is lost {when}", body=f"{text}\nFix: switch it on once"))


def _cards_mib(box: BoxView) -> tuple[int, ...]:
    """Return what a box has of cards with its GPU on: one that was last on without it shows none."""
    return tuple(card.total_mib for card in box.cards) or (box.staging.cards_mib if box.staging else ())


def waiting(view: FleetView) -> list[Need]:
    """Return the queued jobs in queue order."""
    return [_need(job, view.now_ms) for job in view.queue]


def _need(job: JobView, now_ms: int) -> Need:
    left = max(0, (job.steps or 0) - (job.step or 0))
    # A record may hold any number; one that is none would pass each comparison with the balance.
    known = bool(job.steps) and job.step_seconds is not None and isfinite(job.step_seconds) and job.step_seconds > 0
    return Need(
        job=job.id,
        gpus=job.gpus,
        vram_mib=job.vram_mib,
        waited_seconds=max(0.0, (now_ms - (job.queued_ms or now_ms)) / 1000),
        seconds=left * job.step_seconds if known and job.step_seconds else None,
    )

"""Tell people what happens in the queue: looks whenever something changed, sends, remembers what was sent.

Runs on the queue's machine (`pi0q up` starts it where PI0Q_NOTIFY is set) and stops nothing: a service that does not
answer is asked again later, and gets what it missed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis

from pi0q.jobs import notices
from pi0q.jobs.errors import BadRecord, NotFound
from pi0q.jobs.notices import Notice
from pi0q.jobs.record import Record
from pi0q.ops.notify import state_file
from pi0q.ops.notify.state_file import Sent
from pi0q.ops.notify.targets import Send
from pi0q.queue import box_status
from pi0q.queue.box_status import Announced
from pi0q.queue.idle_policy import Phase, minutes
from pi0q.queue.store import Store, await_news

logger = logging.getLogger(__name__)

#: Seconds between two looks at the most; and from a change to the look, so that what comes together is one message.
SLOWEST, SETTLE = 30.0, 2.0
#: Seconds between two messages to one service at the least.
BETWEEN = 10.0
#: Seconds before a service that failed is asked again: doubled each time up to the second number.
FIRST_PAUSE, LAST_PAUSE = 10.0, 600.0
#: Ended jobs that are looked at.
ENDED = 200
#: Notices that are kept for services that do not answer.
MOST_PENDING = 1000
STATE_FILE = "notify.json"


@dataclass
class Target:
    """One service, and when it may be asked again."""

    send: Send
    #: On the monotonic clock, seconds.
    not_before: float = 0.0
    pause: float = FIRST_PAUSE


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is sent where."""

    #: Kinds that are sent where the job does not say otherwise.
    usual: Collection[str]
    targets: Mapping[str, Target]
    #: Seconds after which a silent box counts as lost.
    silent_seconds: float


@dataclass
class Pending:
    """What happened and may still have to be sent."""

    notices: list[Notice] = field(default_factory=list)

    def add(self, notice: Notice) -> None:
        """Add a notice, once."""
        if all(one.key != notice.key for one in self.notices):
            self.notices = sorted([*self.notices, notice], key=lambda one: one.at_ms)[-MOST_PENDING:]


class Notifier:
    """Looks at the queue and sends messages."""

    def __init__(self, store: Store, choice: Choice, home: Path) -> None:
        self.store, self.choice = store, choice
        self.file = home / STATE_FILE
        self.state = state_file.read(self.file)
        self.pending = Pending()
        self._stamps: dict[str, str] = {}

    def run(self, stopping: threading.Event) -> None:
        """Look and send until `stopping`."""
        pubsub = None
        while not stopping.is_set():
            try:
                pubsub = pubsub or self.store.subscribe("changes")
                self.look()
                self.send(time.monotonic())
                await_news(pubsub, None, SLOWEST if not self.pending.notices else BETWEEN, stopping)
            except redis.RedisError:
                pubsub = None
            stopping.wait(SETTLE)

    def look(self) -> None:
        """Find out what happened since the last look."""
        now_ms = self.store.now_ms()
        new = {label for label in self.choice.targets if label not in self.state.targets}
        for label in new:
            # A service that is new gets no history.
            self.state.targets[label] = Sent(until_ms=now_ms)
        for notice in [*self._of_jobs(), *self._of_boxes(now_ms), *self._of_the_queue(now_ms)]:
            self.pending.add(notice)
        self.state.write(self.file)

    def _of_jobs(self) -> list[Notice]:
        stamps = self.store.stamps(ended=ENDED)
        changed = [job for job, stamp in stamps.items() if self._stamps.get(job) != stamp]
        oldest = min((sent.until_ms for sent in self.state.targets.values()), default=0)
        found = list[Notice]()
        for job_id in changed:
            try:
                job = self.store.get(job_id)
            except (NotFound, BadRecord):
                continue
            saved = self.state.saved.get(job_id)
            chosen = notices.chosen(job)
            found += [
                notice
                for notice in notices.of_job(job, after_ms=oldest, saved_before=saved)
                if notices.wanted(notice, self.choice.usual, chosen)
            ]
            if job.checkpoint:
                self.state.saved[job_id] = job.checkpoint.step
        self._stamps = stamps
        self.state.saved = {job: step for job, step in self.state.saved.items() if job in stamps}
        return found

    def _of_boxes(self, now_ms: int) -> list[Notice]:
        boxes = self.store.boxes()
        up = box_status.names_up(boxes, self.choice.silent_seconds)
        lost = [
            box["name"]
            for box in boxes
            if box["name"] in self.state.boxes and box["name"] not in up and box.get("status") != "stopped"
        ]
        found = [notices.box_lost(name, [job.name for job in self._trained_on(name)], now_ms) for name in lost]
        found += [notices.box_back(name, now_ms) for name in self.state.lost if name in up]
        found += self._of_idle_boxes(boxes, now_ms)
        self.state.lost = sorted({*self.state.lost, *lost} - up)
        self.state.boxes = sorted(up)
        return [one for one in found if notices.wanted(one, self.choice.usual, None)]

    def _of_idle_boxes(self, boxes: Iterable[Announced], now_ms: int) -> Iterator[Notice]:
        told, self.state.leaving = self.state.leaving, {}
        for box in boxes:
            name, outlook = box["name"], box_status.outlook(box)
            before, phase = told.get(name, ""), outlook.phase.value if outlook else ""
            if outlook and outlook.phase in (Phase.LEAVING, Phase.OFF):
                self.state.leaving[name] = phase
                if before != phase:
                    leaves = outlook.phase is Phase.LEAVING
                    when = minutes(outlook.seconds)
                    yield notices.box_leaves(name, when, now_ms) if leaves else notices.box_off(name, now_ms)
            elif before == Phase.LEAVING.value:
                why = "; ".join((*outlook.why, outlook.failed)).rstrip("; ") if outlook else ""
                yield notices.box_stays(name, why, now_ms)

    def _trained_on(self, box: str) -> list[Record]:
        return self.store.listed([job.id for job in self.store.owned(box)])

    def _of_the_queue(self, now_ms: int) -> list[Notice]:
        counts = self.store.page(live=1, ended=0).counts
        busy = counts.active + counts.queued > 0
        found = [notices.queue_empty(now_ms)] if self.state.busy and not busy else []
        self.state.busy = busy
        return [one for one in found if notices.wanted(one, self.choice.usual, None)]

    def send(self, now: float) -> None:
        """Send each service what it lacks; `now` on the monotonic clock, seconds."""
        for label, target in self.choice.targets.items():
            sent = self.state.targets[label]
            due = [notice for notice in self.pending.notices if sent.lacks(notice)]
            if not due or now < target.not_before:
                continue
            if self._sends(label, target, due):
                sent.add(due)
                target.pause, target.not_before = FIRST_PAUSE, now + BETWEEN
                self.state.write(self.file)
            else:
                logger.warning("%s took no message; it is asked again in %.0f s.", label, target.pause)
                target.not_before = now + target.pause
                target.pause = min(LAST_PAUSE, 2 * target.pause)
        self._forget()

    def _sends(self, label: str, target: Target, due: list[Notice]) -> bool:
        try:
            return target.send(notices.message(due))
        except Exception as error:
            # Its text may hold the address, which is a secret.
            logger.warning("%s failed with %s.", label, type(error).__name__)
            return False

    def _forget(self) -> None:
        """Drop what every service has got."""
        targets = self.state.targets
        self.pending.notices = [
            notice
            for notice in self.pending.notices
            if any(targets[label].lacks(notice) for label in self.choice.targets)
        ]

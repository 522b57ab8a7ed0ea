"""Look for waiting jobs that fit, judge each against what the box has free, and claim the first that may be taken."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pi0q.jobs.outcome import OUTCOMES, Next
from pi0q.jobs.record import Record
from pi0q.queue import capacity, refusals
from pi0q.queue.affinity import WarmBox
from pi0q.queue.capacity import CardRoom
from pi0q.queue.refusals import Drained, Problem, Refusal, ServerRestarted, StartsFail, WithoutCards
from pi0q.queue.schedule import UNKNOWN
from pi0q.queue.schedule_view import at_most, busy_text
from pi0q.queue.store_types import Claimant, Claimed, Offer, Reservation
from pi0q.queue.waiting_index import FoundJob
from pi0q.workers.agent.context import BoxContext
from pi0q.workers.agent.recovery import Recovery
from pi0q.workers.agent.reservations import Reservations
from pi0q.workers.agent.run_watcher import StartFailures
from pi0q.workers.claims import fit
from pi0q.workers.claims.admission import Admission
from pi0q.workers.claims.fit import BoxState, Fit
from pi0q.workers.claims.judged_jobs import FAR_SECONDS, Circumstances, JudgedJob, JudgedJobs, judged
from pi0q.workers.host.probe import Host
from pi0q.workers.storage import tool_caches
from pi0q.workers.storage.disk_needs import DiskNeeds
from pi0q.workers.storage.eviction import Evictor
from pi0q.workers.storage.inventory import Item
from pi0q.workers.trainer import interpreter

logger = logging.getLogger(__name__)

#: Answers to a claim that concern the box or the server: it claims no job at all.
NO_CLAIMS: dict[str, Refusal] = {"drained": Drained(), "regrouping": ServerRestarted()}
#: Jobs that the first answer of the server brings, and each further one of the same look.
FIRST_PAGE, NEXT_PAGE = 8, 50
#: Jobs that one claim offers to take: the first that still waits is the box's.
OFFERED = 8
#: Jobs whose preflight one box asks for before their turn, at a time.
AHEAD = 10


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A job that fits, and every cache that may be evicted for it."""

    job: Record
    fit: Fit
    evictable: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round of judging goes by."""

    host: Host
    state: BoxState
    now_ms: int


class ClaimLoop:
    """The claims of one box."""

    def __init__(self, context: BoxContext, recovery: Recovery, start_failures: StartFailures) -> None:
        self.context, self.recovery, self.start_failures = context, recovery, start_failures
        self.admission = Admission(context.settings, context.store, context.identity)
        self.caches = Evictor(context.settings, context.store, box=context.name, spec=self.admission.spec)
        self.disk_needs = DiskNeeds(context.settings, context.name)
        self.jobs = JudgedJobs()
        self.reservations = Reservations(context)
        #: Why the box takes no job at all; None if it does.
        self.blocked: Refusal | None = None
        #: What each GPU has for one more training, in the order of the measurement.
        self.cards: tuple[CardRoom, ...] = ()
        #: Whether the last look ended before it had seen all jobs that fit.
        self.unfinished = False
        #: The job that the server has woken this box for.
        self.called = ""
        self._reserved_until = 0.0
        self._asked_ahead_at = -FAR_SECONDS
        #: Waiting jobs that this box owned last; None where this round has not read them.
        self._former: list[Record] | None = None

    @property
    def refusals(self) -> dict[str, list[Refusal]]:
        """Why waiting jobs that fit the GPUs are not taken here, by job; not of those behind many others."""
        return self.jobs.refusals

    def announced_cards(self, host: Host) -> Sequence[CardRoom]:
        """Return what each GPU has for one more training, as of the last look; before it, what is measured."""
        if len(self.cards) == len(host.gpus):
            return self.cards
        return [
            CardRoom(total_mib=gpu.total_mib, measured_mib=gpu.free_mib, free_mib=gpu.free_mib) for gpu in host.gpus
        ]

    def busy(self, host: Host, owned: Sequence[Record]) -> str:
        """Return how long each GPU will be busy, as a box announces it."""
        known, cards = {job.id: job for job in owned}, self.announced_cards(host)
        held = [[known.get(job) for job in card.jobs] for card in cards]
        return busy_text(held)

    def check_trainer(self) -> None:
        """Search for LeRobot's interpreter where none was found, and start its health check."""
        if isinstance(self.context.trainer, interpreter.NoTrainer):
            self.context.trainer = interpreter.find(self.context.settings)
        # Without cards nothing is trained here, and LeRobot's imports may be more than such a container has memory for.
        if self.context.without_cards(self.context.measure()) is None:
            self.admission.begin(self.context.trainer)

    def claim(self) -> None:
        """Claim waiting jobs in the queue's order while there are free slots and one that fits.

        A look through very many jobs is left `unfinished` when the next heartbeat is near.
        """
        page, give_up = FIRST_PAGE, time.monotonic() + self.context.settings.timing.beat / 2
        self.unfinished = True
        self.reservations.refresh()
        self.jobs.plan = self.reservations.plan
        while not self.context.stopping.is_set() and time.monotonic() < give_up:
            if not self._round(page):
                self.unfinished = False
                return
            page = NEXT_PAGE

    @property
    def fetches(self) -> bool:
        """Whether the box is to fetch what waiting jobs read, since it has no card now."""
        return isinstance(self.blocked, WithoutCards) and self.blocked.fetches

    def settle_inputs(self) -> None:
        """See to the jobs that this box refuses for what they read, and to those that are held for it."""
        inputs, trainer = self.admission.inputs, self.context.trainer
        inputs.settle(self.refusals, self.context.settings.timing.silent)
        if not isinstance(trainer, interpreter.NoTrainer):
            inputs.look_again(trainer, self.admission.spec)

    def resume(self, requeued: Iterable[str]) -> None:
        """Prepare the first claims of a worker that has just started; `requeued` jobs were interrupted here."""
        store = self.context.store
        own = store.formerly_owned(self.context.name)
        self.caches.catch_up(self.context.measure().data, own, store.owned(self.context.name))
        first = {*requeued, *(job.id for job in own if self._interrupted_here(job))}
        known = store.records(sorted(first))
        # The queue tells their places later.
        self.jobs.add(known, {job.id: FoundJob(id=job.id, place=job.created_ms, change=-1) for job in known})
        self.jobs.first = {job.id for job in known}
        self._reserve_turn()

    # -- one look ------------------------------------------------------------------------------------

    def _round(self, page: int) -> bool:
        """Look at the queue and claim at most one job; return whether to look again at once."""
        owned = self.context.store.owned(self.context.name)
        host = self.context.measure()
        self.blocked, self._former = self._blocked(host), None
        state = self._box_state(host, owned)
        self.cards = state.cards()
        full = state.used_slots >= state.slots
        if self.blocked is not None or (full and not any(card.jobs and card.usable_mib for card in self.cards)):
            self._look(None, page)
            return False
        free = tuple(sorted((card.usable_mib for card in self.cards if card.jobs or not full), reverse=True))
        taken = tuple(card.jobs for card in self.cards)
        kept = tuple((one.job_id, one.cards) for one in state.reserved)
        now = Circumstances(free=free, taken=taken, kept=kept, disk_mib=host.data.free_mib, trainer=self._trainer())
        self.jobs.notice(now)
        reserved = self._reserved()
        more, now_ms = (False, self.context.store.now_ms()) if reserved else self._look(free, page)
        due = self.jobs.due(time.monotonic())
        if reserved:
            due = [job for job in due if job.found.id in self.jobs.first]
        candidates = self._judge(due, Round(host=host, state=state, now_ms=now_ms))
        if candidates:
            return self._claim(candidates, host)
        return more

    def _look(self, free: tuple[int, ...] | None, page: int) -> tuple[bool, int]:
        """Learn of the next jobs that fit; return whether there are more, and the server's clock in milliseconds."""
        store, jobs = self.context.store, self.jobs
        called, self.called = self.called, ""
        answer = store.next_candidates(
            self.context.name, free, jobs.position, limit=page, unchecked=self._ahead(), called=called
        )
        jobs.position = answer.position
        if not answer.waiting:
            jobs.clear()
        if new := jobs.unread(answer.found):
            jobs.add(store.records(new), new)
        if answer.unchecked:
            self.admission.preflight_ahead(store.records(answer.unchecked))
        self._drop_what_waits_no_more()
        return answer.more, answer.now_ms

    def _ahead(self) -> int:
        """Return of how many jobs the box would ask the preflight before their turn: a few at each beat."""
        now = time.monotonic()
        if now - self._asked_ahead_at < self.context.settings.timing.beat * 0.8:
            return 0
        self._asked_ahead_at = now
        return 0 if isinstance(self.context.trainer, interpreter.NoTrainer) else AHEAD

    def _drop_what_waits_no_more(self) -> None:
        now = time.monotonic()
        if now - self.jobs.checked_at >= FAR_SECONDS:
            self.jobs.checked_at = now
            known = self.jobs.ids
            waiting = self.context.store.still_waiting(known)
            self.jobs.drop(job_id for job_id in known if job_id not in waiting)

    def _trainer(self) -> object:
        return (self.context.trainer, self.admission.findings)

    def _blocked(self, host: Host) -> Refusal | None:
        """Return why the box claims nothing at all."""
        if self.context.server_trouble:
            return Problem(text=self.context.server_trouble.partition("\n")[0])
        if self.context.drain:
            return NO_CLAIMS["drained"]
        if without := self.context.without_cards(host):
            return without
        return StartsFail() if self.start_failures.pausing else None

    # -- whose turn it is ---------------------------------------------------------------------------

    def _reserved(self) -> bool:
        """Return whether only the jobs that a restart interrupted here may be claimed."""
        if not self.jobs.first or time.monotonic() >= self._reserved_until:
            return False
        waiting = self.context.store.still_waiting(sorted(self.jobs.first))
        self.jobs.drop(self.jobs.first - waiting)
        return bool(self.jobs.first)

    def _reserve_turn(self) -> None:
        self._reserved_until = time.monotonic() + self.context.settings.timing.stalled

    def _interrupted_here(self, job: Record) -> bool:
        return job.box == self.context.name and job.reason is not None and OUTCOMES[job.reason].next is Next.REQUEUE

    # -- one claim ----------------------------------------------------------------------------------

    def _judge(self, due: Sequence[JudgedJob], now: Round) -> list[Candidate]:
        """Judge these jobs, in order; return the first that fit."""
        candidates = list[Candidate]()
        for job in due:
            verdict = self._evaluate(job.record, now)
            if isinstance(verdict, Candidate):
                candidates.append(verdict)
                # If another box takes it or the claim is refused, it is judged again.
                job.refusals, job.judged_at = (), None
            else:
                judged(job, verdict, time.monotonic())
                if refusals.lasts(verdict):
                    self.reservations.give_up(job.found.id)
            if len(candidates) >= OFFERED:
                break
        self.disk_needs.shown_plans = {
            job_id: plan for job_id, plan in self.disk_needs.shown_plans.items() if job_id in self.jobs
        }
        return candidates

    def _claim(self, candidates: Sequence[Candidate], host: Host) -> bool:
        """Claim the first of these jobs that still waits; return whether to look at the queue again."""
        who = self.context.identity
        claimant = Claimant(box=who.name, boot=who.boot, lease_seconds=self.context.settings.lease_seconds)
        answer = self.context.store.claim_first([self._offer(one, host) for one in candidates], claimant)
        if isinstance(answer, Claimed):
            self.context.on_claim(answer.job_id, answer.epoch)
            won = next(one for one in candidates if one.job.id == answer.job_id)
            logger.info("claimed %s %s (claim %d)", won.job.id, won.job.name, answer.epoch)
            self.caches.make_room(won.job, answer.epoch, won.fit.evict, won.evictable)
            self.jobs.drop([won.job.id])
            return True
        if answer in NO_CLAIMS:
            self.blocked = NO_CLAIMS[answer]
            # The jobs that come first must not lose their turn by this.
            self._reserve_turn()
            return False
        if answer == "reserved":
            self.reservations.refresh()
        if answer == "gone":
            self.jobs.drop(one.job.id for one in candidates)
        return True

    def _offer(self, candidate: Candidate, host: Host) -> Offer:
        job, fits = candidate.job, candidate.fit
        return Offer(
            job_id=job.id,
            reservation=Reservation(promises=fits.promises, gpus=[gpu.uuid for gpu in fits.gpus]),
            text=_measured(fits, host),
            at_least=self.recovery.least_epoch(job.id),
            at_most=None if (end := at_most(job)) == UNKNOWN else end,
        )

    def _box_state(self, host: Host, owned: Iterable[Record]) -> BoxState:
        settings = self.context.settings
        full = host.system.free_mib < settings.system_disk_reserve_mib
        tools = tool_caches.found(tool_caches.home()) if full else []
        promises, mine = self.context.store.promises(fit.resources(host)), {record.id: record for record in owned}
        # Containers on one machine may see the same card.
        others = {job for gpu in host.gpus for job in promises[gpu.resource][1]} - set(mine)
        sharing = (
            [job.id for job in self.context.store.listed(sorted(others)) if capacity.shares(job)] if others else []
        )
        return BoxState(
            name=self.context.name,
            host=host,
            promises=promises,
            owned=mine,
            sharing=frozenset(sharing),
            slots=self.context.slots,
            reserved=self.reservations.here(host),
            wait_for_box=settings.wait_for_box,
            system_reserve_mib=settings.system_disk_reserve_mib,
            system_commands=tuple((command, mib) for _, mib, command in tools),
        )

    def _evaluate(self, job: Record, now: Round) -> Candidate | list[Refusal]:
        """Return the job as a candidate if it may be claimed, else why not."""
        state = now.state
        view = fit.JobView(
            record=job,
            disk_need=self.disk_needs.need_of(job, self.admission.spec(job), state.host),
            waited_seconds=(now.now_ms - (job.queued_ms or now.now_ms)) / 1000,
            vram_mib=self.admission.vram_mib(job),
            at_most=at_most(job),
            problems=self.admission.problems(job, self.context.trainer, state.host, now_ms=now.now_ms),
        )
        verdict, evictable = fit.evaluate(view, state), tuple[Item, ...]()
        if fit.lacks_only_data_disk(verdict, state.host):
            evictable = self.caches.evictable_for(job, self._waiting(), state.owned.values())
            verdict = fit.evaluate(view, state, evictable)
        if isinstance(verdict, list):
            self.admission.preflight_ahead([job])
            return verdict
        if (refusal := self.admission.preflight_refusal(job)) is not None:
            return [refusal]
        if (refusal := self._left_to_another(job, state)) is not None:
            return [refusal]
        return Candidate(job=job, fit=verdict, evictable=evictable)

    def _left_to_another(self, job: Record, state: BoxState) -> Refusal | None:
        """Return why a job that fits is left for a moment to a box that need not download what it reads."""
        spec = self.admission.spec(job)
        own = job.box == state.name or any(one.job_id == job.id for one in state.reserved)
        if own or isinstance(spec, str) or not state.host.gpus:
            return None
        reads, here = self.disk_needs.reads(job, spec)
        largest = max(gpu.total_mib for gpu in state.host.gpus)
        return self.admission.warm_boxes.refusal(job, reads, WarmBox(name=state.name, card_mib=largest, warm=here))

    def _waiting(self) -> list[Record]:
        """Return the waiting jobs whose caches the box should keep: those that it found, and those that it ran."""
        known = {job.found.id: job.record for job in self.jobs.in_order()}
        if self._former is None:
            self._former = self.context.store.formerly_owned(self.context.name)
        return [*known.values(), *(job for job in self._former if job.id not in known)]


def _measured(fits: Fit, host: Host) -> str:
    """Return what the job's history says of the measurements that the claim is based on."""
    gpus = ", ".join(
        f"{gpu.name} with {gpu.free_mib / 1024:.1f} of {gpu.total_mib / 1024:.1f} GiB free"
        + (" (simulated)" if gpu.simulated else "")
        for gpu in fits.gpus
    )
    disk = str(fits.lacking) if fits.lacking else f"disk {host.data.free_mib / 1024:.1f} GiB free"
    return f"measured {gpus or 'no GPU needed'}; {disk}"

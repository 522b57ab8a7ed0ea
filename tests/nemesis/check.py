"""What must hold of every round. Pure: a history comes in, violations come out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.nemesis.history import ENDED, Call, Happened, History, Known, Life
from tests.nemesis.plan import FENCE

#: Seconds for which a runner may miss a renewal without having to stop. The last one may have been up to a
#: second and a half before the outage began: a report a second, and one that hangs.
TOLERATED = FENCE - 2.0
#: Two outages with less than this between them, seconds, are one: no renewal need fit in between.
BREATH = 1.5
#: Seconds after which a call that no fault held up shows that the machine had no time for it.
SLOW = 0.4
#: What ends a training by hitting a process of the job.
HITS = {"kill_trainer", "kill_runner", "kill_both", "term_runner", "cancel", "hold_job"}
#: What ends every training of a box.
ENDS_BOX = {"crash", "clock", "drain_now"}
#: What keeps a box from its server, and what keeps all boxes.
BOX_AWAY = {"refuse", "hold", "swallow", "stop_box", "alone"}
SERVER_AWAY = {"kill_server", "stop_server", "restore_server", "promote"}
#: Seconds in which a worker has seen what became of a runner.
SETTLED = 2.0
#: Failures that no second attempt would cure.
FINAL = {"oom": "cuda_out_of_memory", "nan": "non_finite_loss"}
MAX_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A promise that was broken."""

    #: I1, I2, I3, I4, I6, healthy, alive.
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


def check(history: History) -> list[Violation]:
    """Everything that went wrong."""
    found: list[Violation] = []
    for known in history.jobs:
        lives = sorted((life for life in history.lives if life.job == known.id), key=lambda life: life.begin)
        for rule, texts in (
            ("I1", one_end(history, known)),
            ("I1", none_after_the_end(history, known, lives)),
            ("I2", one_at_a_time(history, lives)),
            ("I2", no_late_writes(history, known)),
            ("I3", little_lost(known, lives)),
            ("I6", no_vain_retries(history, known)),
            ("healthy", no_healthy_killed(history, known, lives)),
        ):
            found += [
                Violation(rule=rule, text=f"job {known.number} ({known.id}, {known.job.name}) {text}") for text in texts
            ]
    found += [Violation(rule="I4", text=text) for text in history.left]
    found += [Violation(rule="I4", text=text) for box, text in history.strays if not unknowable(history, box)]
    found += [Violation(rule="alive", text=text) for text in history.died]
    return found


# -- I1: each accepted job comes to exactly one end ---------------------------------------------------


def one_end(history: History, known: Known) -> Iterator[str]:
    if not known.there:
        if known.accepted is not None and not may_be_forgotten(history, known):
            yield "was accepted and is not there any more"
        return
    if known.state not in ENDED:
        lives = "; ".join(how_far(history, life) for life in history.lives if life.job == known.id)
        yield f"did not end: {known.state}, {' '.join(known.history[-6:])}; {lives or 'it was never run'}"
        return
    ends = accepted_ends(history, known.id)
    back = rollbacks(history)
    for earlier, later in pairwise(ends):
        if not any(earlier.t0 <= fault.t1 and fault.t0 <= (later.t1 or later.t0) for fault in back):
            yield f"ended twice: {earlier.args[1]} and {later.args[1]}"
    if len({call.args[1] for call in ends} | {known.state}) > 1 and not cancelled(history, known):
        yield f"has two ends: {', '.join(call.args[1] for call in ends)}, and now it is {known.state}"
    if not back and sum(entry.split(":")[0] in ENDED for entry in known.history) != 1:
        yield f"ended more than once or never in its own history: {' '.join(known.history)}"
    yield from unfit_end(history, known)


def how_far(history: History, life: Life) -> str:
    """Where a trainer stood when all was over, for whoever must find out why."""
    sealed = max((seal.step for seal in history.sealed if (seal.job, seal.box) == (life.job, life.box)), default=None)
    return f"epoch {life.epoch} on {life.box}: step {life.last}, done {life.done}, vouched for {sealed}"


def unfit_end(history: History, known: Known) -> Iterator[str]:
    """An end that nothing in the plan accounts for."""
    if known.state == "cancelled" and not cancelled(history, known):
        yield "was cancelled and nobody had wished so"
    if known.state == "succeeded" and known.job.fails:
        yield "succeeded though its trainer fails"
    if known.state == "succeeded" and known.step != known.job.steps:
        yield f"succeeded at step {known.step} of {known.job.steps}"
    if known.state == "failed":
        kills = sum(fault.kind in ("kill_trainer", "kill_both") and fault.job == known.id for fault in history.faults)
        wanted = {"error": "trainer_failed"}.get(known.job.fails) or FINAL.get(known.job.fails)
        if known.reason == "trainer_killed" and kills >= MAX_ATTEMPTS:
            return
        if known.reason in ("trainer_failed", "trainer_killed") and wanted == "trainer_failed":
            return
        if known.reason != wanted:
            yield f"failed with {known.reason}" + (
                f" instead of {wanted}" if wanted else ", and it had nothing to fail of"
            )


def none_after_the_end(history: History, known: Known, lives: list[Life]) -> Iterator[str]:
    """No trainer begins once the queue has been told of the job's end."""
    for end in accepted_ends(history, known.id):
        for life in lives:
            undone = any(fault.t1 > end.t0 and fault.t0 < life.begin for fault in rollbacks(history))
            if end.t1 is not None and life.begin > end.t1 and not undone:
                late = life.begin - end.t1
                yield f"had {end.args[1]} {late:.2f} s before a trainer of epoch {life.epoch} began on {life.box}"


def accepted_ends(history: History, job: str) -> list[Call]:
    return [
        call
        for call in history.calls
        if call.script == "move" and call.job == job and _accepted(call) and str(call.answer[1]) in ENDED
    ]


def rollbacks(history: History) -> list[Happened]:
    return [fault for fault in history.faults if fault.kind in ("restore_server", "promote", "kill_server")]


def cancelled(history: History, known: Known) -> bool:
    return any(fault.kind == "cancel" and fault.job == known.id for fault in history.faults)


def may_be_forgotten(history: History, known: Known) -> bool:
    """Older data know nothing of a job that came after the copy and that no box ever had."""
    claimed = any(call.script == "claim" and call.job == known.id for call in history.calls)
    assert known.accepted is not None
    return not claimed and any(
        fault.since is not None and fault.since < known.accepted < fault.t1 for fault in history.faults
    )


# -- I2: one owner at a time --------------------------------------------------------------------------


def one_at_a_time(history: History, lives: list[Life]) -> Iterator[str]:
    """Nothing is begun by a trainer, or vouched for, once a later one has begun; on one box nothing overlaps at all."""
    for number, earlier in enumerate(lives):
        for later in lives[number + 1 :]:
            if later.begin == earlier.begin:
                continue
            late = [act for act in earlier.acts if act.t0 > later.begin]
            if not late and earlier.box == later.box:
                late = [act for act in earlier.acts if act.t1 is not None and act.t1 > later.begin]
            if late:
                yield (
                    f"{late[0].kind} {late[0].step} of the trainer of epoch {earlier.epoch} on {earlier.box} was "
                    f"{late[0].t0 - later.begin:+.2f} s after the trainer of epoch {later.epoch} on {later.box} began"
                )
                break
    for life, after in pairwise(lives):
        if life.box == after.box:
            continue
        for seal in history.sealed:
            if (
                seal.job == life.job
                and seal.box == life.box
                and after.begin < seal.t < _back_on(life.box, lives, after)
            ):
                yield f"checkpoint {seal.step} was vouched for on {seal.box} after {after.box} had begun"


def _back_on(box: str, lives: list[Life], after: Life) -> float:
    """When a trainer of the job was on this box again; a box that claims it seals what it finds before that."""
    return min(
        (life.begin - 2.0 for life in lives if life.box == box and life.begin > after.begin), default=float("inf")
    )


def no_late_writes(history: History, known: Known) -> Iterator[str]:
    """No write of an older owner is accepted after the claim of a newer one was answered."""
    claims = [
        (int(call.answer[1]), call.args[1], call.t1)
        for call in history.calls
        if call.script == "claim" and call.job == known.id and call.t1 is not None and call.answer[0] == "claimed"
    ]
    for call in history.calls:
        if call.script not in ("move", "report") or call.job != known.id or not _accepted(call):
            continue
        epoch = int(call.args[3 if call.script == "move" else 1] or 0)
        if not epoch:
            continue
        for newer, box, claimed in claims:
            if claimed >= call.t0 or newer < epoch or (newer == epoch and box == call.box):
                continue
            undone = any(claimed < fault.t1 and fault.t0 < call.t0 for fault in rollbacks(history))
            if (newer == epoch and undone) or (undone and call.script == "move"):
                continue
            yield (
                f"a {call.script} of epoch {epoch} by {call.box} was accepted {call.t0 - claimed:.2f} s after "
                f"{box} had claimed it under epoch {newer}"
            )
            break


def _accepted(call: Call) -> bool:
    return call.t1 is not None and isinstance(call.answer, list) and bool(call.answer) and call.answer[0] == 1


# -- I3: what an interruption costs -------------------------------------------------------------------


def little_lost(known: Known, lives: list[Life]) -> Iterator[str]:
    """A resume on a box where the job was before repeats no more than one interval of saves and the step at hand."""
    for number, life in enumerate(lives):
        before = [other.last for other in lives[:number] if other.box == life.box and other.last is not None]
        if life.first is None or not before:
            continue
        lost, freq = before[-1] - (life.first - 1), known.job.save_freq
        if lost > freq + 1:
            yield f"lost {lost} steps on {life.box}: was at {before[-1]}, went on at {life.first}, saves every {freq}"


# -- I4: nothing of an ended job is left --------------------------------------------------------------


def unknowable(history: History, box: str) -> bool:
    """Whether a process without any mark may have been left there: its runner was killed when its worker was not there.

    Then the kernel gives it to PID 1, and nothing tells whose it was. A container's end ends it as well.
    """
    ends = [fault.t0 for fault in history.faults if fault.box == box and fault.kind in ("kill_worker", "term_worker")]
    kills = [fault.t0 for fault in history.faults if fault.box == box and fault.kind in ("kill_runner", "kill_both")]
    return any(end < kill + SETTLED for end in ends for kill in kills)


# -- I6: what can't be cured is not tried again -------------------------------------------------------


def no_vain_retries(history: History, known: Known) -> Iterator[str]:
    for call in history.calls:
        moved = call.script == "move" and call.job == known.id and call.args[1] == "queued" and _accepted(call)
        if moved and call.args[5] in FINAL.values():
            yield f"was tried again after {call.args[5]}"
    if known.state == "failed" and known.reason in FINAL.values() and known.attempt > MAX_ATTEMPTS:
        yield f"took {known.attempt} attempts to fail with {known.reason}"


# -- no healthy trainer is killed ---------------------------------------------------------------------


def no_healthy_killed(history: History, known: Known, lives: list[Life]) -> Iterator[str]:
    """Each training that did not come to its end was ended by something that is able to."""
    for number, life in enumerate(lives):
        if life.done or (known.job.fails and known.job.fails_at <= _reached(life)):
            continue
        later = [other.begin for other in lives[number + 1 :]]
        ends = [end.t1 for end in accepted_ends(history, known.id) if end.t1 is not None and end.t1 > life.begin]
        until = min([*later, *ends, known.ended or history.ended or float("inf")])
        if not any(_ends(fault, life, until) for fault in history.faults) and not _was_away(history, life, until):
            yield (
                f"was at step {_reached(life)} under epoch {life.epoch} on {life.box} when its trainer ended, "
                f"{life.begin - history.begin:.1f} to {until - history.begin:.1f} s, and nothing was able to end it"
            )


def _reached(life: Life) -> int:
    return max((act.step for act in life.acts), default=0)


def _ends(fault: Happened, life: Life, until: float) -> bool:
    hit = (fault.kind in HITS and fault.job == life.job) or (fault.kind in ENDS_BOX and fault.box == life.box)
    # A wish that came before the trainer did is carried out on it as well.
    return hit and fault.t0 <= until and (fault.kind in ("cancel", "hold_job") or fault.t1 >= life.begin - 1.0)


def _was_away(history: History, life: Life, until: float) -> bool:
    """Whether the box could not have renewed its lease for so long that it had to stop, around this life."""
    spans = [
        (fault.t0, fault.t1)
        for fault in history.faults
        if (fault.kind in BOX_AWAY and fault.box == life.box)
        or fault.kind in SERVER_AWAY
        or (fault.kind == "stop_runner" and fault.job == life.job and fault.box == life.box)
    ]
    for begin, end in joined([*spans, *history.stalls, *slow(history)]):
        if end - begin >= TOLERATED and begin <= until and end >= life.begin - 1.0:
            return True
    return False


def slow(history: History) -> list[tuple[float, float]]:
    """Calls that took long though nothing was done to the cluster meanwhile: so did any renewal, on this machine."""
    found = [(call.t0, call.t1 or call.failed) for call in history.calls]
    return [
        (begin, end)
        for begin, end in found
        if end is not None
        and end - begin > SLOW
        and not any(fault.t0 <= end and fault.t1 >= begin for fault in history.faults)
    ]


def joined(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Outages, those as one that leave no time for a renewal between them."""
    whole: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if whole and begin - whole[-1][1] < BREATH:
            whole[-1] = (whole[-1][0], max(whole[-1][1], end))
        else:
            whole.append((begin, end))
    return whole

"""`pi0q checkpoint`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click

from pi0q.jobs.errors import UsageError
from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.queue import job_text
from pi0q.queue.commands.common import INTERRUPTED, leave_after_interrupt, open_store
from pi0q.queue.current_user import user
from pi0q.queue.store import Store, await_news

#: Seconds after which it looks again, whether or not it heard of anything new.
SLOWEST = 5.0
#: Seconds in which a box says whether its trainer saves on demand; an older pi0q never does.
OLD_SECONDS = 30.0


@click.command()
@click.argument("job", metavar="ID")
@click.option("--no-wait", is_flag=True, help="Return at once; without it, when the checkpoint is verified.")
@click.option("--pin", is_flag=True, help="Keep this checkpoint, whatever checkpoints.keep says.")
@click.option("--unpin", type=int, metavar="STEP", help="Unpin the checkpoint of this step.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def checkpoint(job: str, no_wait: bool, pin: bool, unpin: int | None, as_json: bool) -> None:
    """Save a running job at the end of its next step; the training goes on.

    \b
      pi0q checkpoint grab_box               save, and come back when it is verified
      pi0q checkpoint grab_box --pin         and keep it for good; without a trainer: its newest one
      pi0q checkpoint grab_box --unpin 1200  let that one go when newer ones are verified
    """
    store = open_store()
    job_id = store.resolve(job)
    if unpin is not None:
        if pin or no_wait:
            raise UsageError("--unpin STEP saves nothing: it goes with neither --pin nor --no-wait.")
        _unpin(store, store.get(job_id), unpin, as_json=as_json)
        return
    wait = CheckpointRequest(store, job_id, pin=pin, say=not as_json)
    try:
        good = wait.begin() and (no_wait or wait.follow())
    except KeyboardInterrupt:
        click.echo(f"\nStopped waiting; {wait.name} saves all the same.", err=True)
        leave_after_interrupt(INTERRUPTED)
    if as_json:
        job_text.print_json(wait.answer())
    sys.exit(0 if good else 1)


def _unpin(store: Store, record: Record, step: int, *, as_json: bool) -> None:
    if step not in record.pinned_steps:
        pinned = ", ".join(map(str, record.pinned_steps)) or "none"
        raise UsageError(f"The checkpoint of step {step} of {record.name} is not pinned; pinned are: {pinned}.")
    kept = store.pin(record.id, step, on=False)
    if as_json:
        job_text.print_json({"id": record.id, "kept_steps": list(kept)})
    else:
        click.echo(f"Unpinned. Step {step} will be deleted by the normal retention rule.")


@dataclass
class CheckpointRequest:
    """A request for a checkpoint, and the wait for it."""

    store: Store
    job_id: str
    pin: bool
    #: Whether a person reads along.
    say: bool

    def __post_init__(self) -> None:
        self.before = self.record = self.store.get(self.job_id)
        self.name, self.wish, self._told = self.record.name, 0, ""

    def begin(self) -> bool:
        """Make the request; return whether there is something to wait for, or done already."""
        self._ask()
        if self.wish:
            self.store.durable()
            joined = " It was requested before; this is the same save." if self.wish == self.before.save_wish else ""
            self.tell(f"{self.name} saves at the end of its next step and goes on.{joined}")
            return True
        self.record = self.store.get(self.job_id)
        saved = self.record.checkpoint
        if self.pin and saved:
            self.store.pin(self.job_id, saved.step, on=True)
            self.tell(f"Not running. Pinned the latest verified checkpoint (step {saved.step}) instead.")
            return True
        self.tell(nothing_to_save(self.record), err=True)
        return False

    def follow(self) -> bool:
        """Wait for the checkpoint that answers; return whether there is one."""
        if not self.wish:
            return True
        first_seen = time.monotonic()
        listening: Any = None
        import redis

        while True:
            try:
                listening = listening or self.store.subscribe("changes")
                self.record = self.store.get(self.job_id)
                old = time.monotonic() - first_seen > OLD_SECONDS and not self.record.save_able
                over = self._look(old=old)
                if over is not None:
                    return over
                await_news(listening, self.job_id, SLOWEST)
            except redis.RedisError:
                self._tell_once("The queue can't be reached; the request is kept. Retrying …")
                listening = None
                with suppress(redis.RedisError):
                    self.store.client.connection_pool.disconnect()
                time.sleep(1.0)

    def _ask(self) -> None:
        _, wish = self.store.request_checkpoint(
            self.job_id, text=f"{user()} asks for a checkpoint", pin=self.pin, at_least=self.wish
        )
        self.wish = wish or self.wish

    def _look(self, *, old: bool) -> bool | None:
        """Return whether the request was met; None while it is open."""
        job, saved = self.record, self.record.checkpoint
        newer = saved and saved != self.before.checkpoint and saved.step >= job.save_at
        if job.save_served >= self.wish:
            self.tell(job.save_detail or done(job), err=bool(job.save_detail))
            return not job.save_detail
        if job.state in ENDED:
            self.tell(f"{self.name} has {job.state} meanwhile." + (f" {done(job)}" if newer else ""), err=not newer)
            return bool(newer)
        if job.state not in OWNED and newer:
            self.tell(f"{self.name} was handed back meanwhile ({job.detail}). {done(job)}")
            return True
        if job.state is not State.RUNNING:
            now = f"{job.label} ({job.detail or job.phase})"
            self._tell_once(f"{self.name} is {now}; it saves when it trains again …")
        elif job.save_wish < self.wish:
            # The server came back with older data: repeat the same request.
            self._ask()
        elif old:
            self.tell(f"{job.box} runs an older pi0q, which can't save on demand: upgrade it there, then ask again. "
                      f"{newest(job)}", err=True)  # fmt: skip
            return False
        elif job.phase:
            self._tell_once(f"{job.phase} …")
        return None

    def tell(self, text: str, *, err: bool = False) -> None:
        if self.say or err:
            click.echo(text, err=err)

    def _tell_once(self, text: str) -> None:
        if text != self._told:
            self._told = text
            if self.say:
                click.echo(text, err=True)

    def answer(self) -> dict[str, Any]:
        """What `--json` prints."""
        job = self.store.get(self.job_id)
        return {
            "id": job.id,
            "state": job.state.value,
            "saved": bool(self.wish) and job.save_served >= self.wish and not job.save_detail,
            "detail": job.save_detail,
            "checkpoint": vars(job.checkpoint) if job.checkpoint else None,
            "save_seconds": job.save_seconds,
            "kept_steps": list(job.pinned_steps),
        }


def done(job: Record) -> str:
    """What a person reads of the checkpoint that there is now."""
    saved = job.checkpoint
    if saved is None:
        return "It has no verified checkpoint."
    cost = f"; the training stood still for {job_text.span(job.save_seconds)}" if job.save_seconds else ""
    kept = ", pinned" if saved.step in job.pinned_steps else ""
    return f"Step {saved.step} is saved and verified, {saved.bytes / 1e6:.0f} MB{kept}{cost}.\n{job.box}: {saved.path}"


def newest(job: Record) -> str:
    """Its newest verified checkpoint, in words."""
    saved = job.checkpoint
    return (
        f"Its newest verified checkpoint is step {saved.step} on {job.box}." if saved else "It has no checkpoint yet."
    )


SAID: dict[State, Callable[[Record], str]] = {
    State.SUCCEEDED: lambda job: f"{job.name} has succeeded: there is nothing to save any more.",
    State.FAILED: lambda job: f"{job.name} has failed: there is nothing to save any more.",
    State.CANCELLED: lambda job: f"{job.name} was cancelled: there is nothing to save any more.",
    State.CLAIMED: lambda job: f"{job.name} was just claimed by {job.box}: there is nothing new to save yet.",
    State.PREPARING: lambda job: (
        f"{job.name} is being prepared on {job.box} ({job.phase}): there is nothing new to save yet."
    ),
}


def nothing_to_save(job: Record) -> str:
    """Why a job that has no trainer can't be saved, and what there is."""
    said = SAID.get(job.state)
    why = said(job) if said else f"{job.name} is {job.label} and does not train: there is nothing to save."
    return f"{why} {newest(job)}"

"""What users ask of the queue: submit, cancel, hold, priority, checkpoints, drain. Each request is one Lua script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pi0q.jobs.errors import NotFound, UsageError
from pi0q.jobs.record import to_hash
from pi0q.jobs.state import State
from pi0q.queue import celery_message, placement, user_limits
from pi0q.queue.placement import Placement
from pi0q.queue.store_base import StoreBase, state_of

if TYPE_CHECKING:
    from pi0q.jobs.cost import Money, Price
    from pi0q.jobs.signing.job_signature import JobSignature
    from pi0q.jobs.spec import Priority

#: Seconds in which the same file of the same user counts as the same submit.
TWIN_SECONDS = 30
#: Milliseconds that the server has to write a new job to its disk before it is called accepted.
DURABLE_MS = 2000


class StoreRequests(StoreBase):
    """Requests of users. The owner of a job learns of them with its next report."""

    def submit(self, job_id: str, fields: Mapping[str, Any], *, text: str, key: str = "", continues: str = "") -> str:
        """Puts record and message down in one step; the id of the job that is there now.

        That is another than `job_id` where a job of the same `key` came in the last TWIN_SECONDS and lives, or one
        lives that continues the same job. Raises Pi0qError where the server's limit for this user is reached.
        """
        written, user = json.dumps(to_hash(fields), ensure_ascii=False), user_limits.user_of(self.client)
        answer = self._run("submit", job_id, written, text, key, TWIN_SECONDS * 1000, continues, user)
        return user_limits.check(str(answer), user)

    def submit_trials(self, sweep_id: str, records: Sequence[Mapping[str, Any]], *, text: str) -> int:
        """Queue trials of a sweep whose record is there; return how many are new. Sent twice, each is made once."""
        written = [[one["id"], to_hash(one)] for one in records]
        sent = json.dumps(written, ensure_ascii=False)
        return int(self._run("submit_trials", sweep_id, sent, text, user_limits.user_of(self.client)))

    def placements(
        self,
        needs: Sequence[Mapping[str, int]],
        silent_seconds: float,
        choices: Sequence[Mapping[str, Any]] | None = None,
        shapes: Sequence[Sequence[str]] | None = None,
    ) -> list[Placement]:
        """Where jobs with these needs (`needs` of their records) could run, by the boxes heard of since then.

        Args:
            choices: The boxes that their files choose (`choice` of their records).
            shapes: The keys of their shapes (`measured_peaks.shapes`), for what they will take; none without.

        It takes as long with a thousand boxes as with ten; boxes that are silent are left out from then on.
        """
        count = len(needs)
        wanted = json.dumps(placement.asked(needs, choices or [{}] * count, shapes or [()] * count))
        answer = self._run("placement", int(silent_seconds * 1000), wanted, placement.ANSWERED)
        return placement.from_answer(needs, answer)

    def durable(self) -> bool:
        """Whether all that this client wrote is on the server's disk; True where the server can't tell (before 7.2)."""
        try:
            local, _ = self.client.execute_command("WAITAOF", 1, 0, DURABLE_MS)
        except Exception as error:
            # Either client's error of a command that the server does not know.
            if type(error).__name__ not in ("ResponseError", "CommandRefused"):
                raise
            return True
        return int(local) >= 1

    def sign(self, job_id: str, seen: Mapping[str, str], signature: JobSignature, *, text: str) -> str:
        """Put a signature on a job that is still as `seen`, its raw record; return signed, changed or ended.

        Raises NotFound.
        """
        covered = [seen.get(name, "") for name in ("spec", "starts_from", "continues")]
        answer = str(self._run("sign", job_id, *covered, to_hash({"signature": signature})["signature"], text))
        if not answer:
            raise NotFound(f"There is no job {job_id}. `pi0q ls --all` lists every job.")
        return answer

    def cancel(self, job_id: str, *, text: str) -> State:
        """End a job that no box owns, or ask its owner to; return its state now. Raises NotFound."""
        return state_of(job_id, self._run("request_stop", job_id, "cancel", text))

    def request_handback(self, job_id: str, *, text: str) -> State:
        """Ask the owner of a job to save it and hand it back to the queue; return its state now. Raises NotFound."""
        return state_of(job_id, self._run("request_stop", job_id, "stop", text))

    def discard(self, job_id: str, *, text: str) -> bool:
        """Remove a job whose record cannot be read; return whether it is gone.

        False: a box has it and is asked to end it first. Raises NotFound.
        """
        answer = str(self._run("discard", job_id, text))
        if not answer:
            raise NotFound(f"There is no job {job_id}. `pi0q ls --all` lists every job.")
        return answer == "removed"

    def hold(self, job_id: str, *, text: str) -> State:
        """Keep a job out of the queue until `release`; its owner saves it first. Return its state now.

        `text` says who holds it. Raises NotFound.
        """
        return state_of(job_id, self._run("hold", job_id, text))

    def release(self, job_id: str) -> State:
        """End a hold; return the job's state now. Raises NotFound."""
        return state_of(job_id, self._run("hold", job_id, ""))

    def bump(self, job_id: str, priority: Priority, *, text: str) -> State:
        """Change a job's priority, now and whenever it is queued again; return its state. Raises NotFound."""
        queue = celery_message.queue_key(priority.step)
        return state_of(job_id, self._run("bump", job_id, priority.value, queue, text))

    def request_checkpoint(self, job_id: str, *, text: str, pin: bool = False, at_least: int = 0) -> tuple[State, int]:
        """Ask the owner of a running job for a checkpoint; return the job's state and the request's name.

        The name is 0 where the job does not run. `at_least` is the name that an earlier call returned: it stays the
        same request, also where the server lost it. Raises NotFound.
        """
        state, request = self._run("request_checkpoint", job_id, at_least, text, int(pin))
        return state_of(job_id, state), int(request)

    def pin(self, job_id: str, step: int, *, on: bool) -> tuple[int, ...]:
        """Pin the checkpoint of a step, or unpin it; return all pinned steps. Raises NotFound."""
        pinned = self._run("pin", job_id, step, int(on))
        if not pinned:
            raise NotFound(f"There is no job {job_id}. `pi0q ls --all` lists every job.")
        return tuple(json.loads(pinned))

    def retry_postrun(self, job_id: str, *, text: str) -> None:
        """Ask the boxes that have post-run tasks of this job to try them now."""
        self._run("retry_postrun", job_id, text)

    def forget_box(self, box: str, silent_seconds: float) -> None:
        """Remove what a box announced. Raises NotFound, and UsageError while it is up or owns a job.

        `silent_seconds`: as in `box_status.is_up`.
        """
        answer = str(self._run("forget_box", box, int(silent_seconds * 1000)))
        if not answer:
            raise NotFound(self._no_box(box))
        if answer == "up":
            raise UsageError(f"{box} is up; nothing was changed.\nFix: stop its worker first: pi0q box stop, on {box}")
        if answer == "owns":
            raise UsageError(
                f"{box} still holds the lease of a job; nothing was changed.\n"
                f"Fix: wait until the lease ends (10 minutes), then pi0q boxes rm {box}"
            )

    def set_price(self, box: str, price: Price | None) -> None:
        """Write what a box costs an hour; None for nothing known. Raises NotFound."""
        if not self._run("price", box, json.dumps(price.to_json()) if price else ""):
            raise NotFound(self._no_box(box))

    def offer_price(self, box: str, price: Price, source: str) -> bool:
        """Write what a box costs by one of cost.SOURCES; False where its price was set by hand. Raises NotFound."""
        answer = self._run("price", box, json.dumps(price.to_json()), source)
        if not answer:
            raise NotFound(self._no_box(box))
        return bool(answer == 1)

    def keep_on(self, box: str, seconds: float) -> None:
        """Have a box not switch itself off for so long from now; 0 ends that. Raises NotFound."""
        if not self._run("keep_on", box, int(seconds * 1000)):
            raise NotFound(self._no_box(box))

    def set_budget(self, user: str, budget: Money | None) -> bool:
        """Write what the jobs of a user may cost from now on; None ends that. Return False where there was none."""
        return bool(self._run("budget", user, json.dumps(budget.to_json()) if budget else ""))

    def _no_box(self, box: str) -> str:
        known = ", ".join(map(str, self.client.zrange(self.prefix + "boxes", 0, -1))) or "none so far"
        return f"There is no box {box}; nothing was changed. Known are: {known}."

    def drain(self, box: str, mode: str, *, text: str) -> None:
        """Keep a box from new jobs (`drain`), have it hand back its jobs as well (`now`), or end that ("").

        Raises NotFound.
        """
        if not self._run("drain", box, mode, text):
            raise NotFound(self._no_box(box))

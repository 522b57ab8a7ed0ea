"""pi0q from Python: submit jobs, wait for them, read their logs, checkpoints and curves, look at the fleet.

    from pi0q.queue import client

    job = client.submit("grab_box.yaml", overrides={"train.seed": 2})
    job.wait()
    print(job.checkpoints()[0].step, job.curve()[-1].loss)

The queue is the one that `PI0Q_REDIS_URL` or the settings file names; `Queue(settings)` is another. Every function
raises what the command prints: `UsageError` and `SpecError` (nothing was changed), `NotFound`, `QueueUnreachable`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.printable import printable
from pi0q.jobs.state import ENDED, State
from pi0q.queue import settings as all_settings
from pi0q.queue import stored_curves
from pi0q.queue.reading import details, views
from pi0q.queue.reading.values import BoxView, CheckpointView, FleetView, JobView

if TYPE_CHECKING:
    from pi0q.jobs.curve import Point
    from pi0q.jobs.spec import Spec
    from pi0q.queue.settings import Settings
    from pi0q.queue.store_reads import StoreReads
    from pi0q.queue.user_store import UserStore

T = TypeVar("T")
#: Seconds between two looks at a job that is waited for.
POLL_SECONDS = 2.0


class JobFailed(Pi0qError):
    """A job that was waited for did not succeed; `job` is its last view."""

    def __init__(self, job: JobView) -> None:
        self.job = job
        told = f": {job.detail}" if job.detail else ""
        super().__init__(f"{job.name} ({job.id}) {job.state.label}{told}\n{job.next_step}".strip())


class Job:
    """A job on the queue. Each method asks the server anew."""

    def __init__(self, queue: Queue, job_id: str) -> None:
        self._queue = queue
        #: 12 hexadecimal digits, the same for life.
        self.id = job_id

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def view(self) -> JobView:
        """Return what is known of the job now: state, progress, loss, box, why it waits. Raises NotFound."""
        return self.details().job

    def details(self) -> details.JobDetails:
        """Return everything: view, history, checkpoints, curve and the end of its log. Raises NotFound."""
        return self._queue.ask(lambda store: details.read(store, self.id, self._queue.silent_seconds))

    def wait(self, timeout: float | None = None, *, check: bool = True) -> JobView:
        """Wait until the job has ended; return its last view.

        Args:
            timeout: Seconds; None for as long as it takes.
            check: Raise JobFailed where it did not succeed.

        Raises:
            JobFailed: it failed or was cancelled.
            TimeoutError: it has not ended after `timeout` seconds; it goes on.
            QueueUnreachable: the server does not answer; the job goes on.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        while (record := self._queue.ask(lambda store: store.get(self.id))).state not in ENDED:
            left = POLL_SECONDS if give_up is None else give_up - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{record.name} ({self.id}) is {record.state.label} after {timeout:.0f} s")
            time.sleep(min(POLL_SECONDS, left))
        view = views.job_view(record)
        if check and view.state is not State.SUCCEEDED:
            raise JobFailed(view)
        return view

    def logs(self) -> str:
        """Return the last 32 KiB of the training's log; control characters are written as escapes."""
        return printable(self._queue.ask(lambda store: store.tail(self.id))[0])

    def follow(self, poll_seconds: float = POLL_SECONDS) -> Iterator[str]:
        """Yield what is added to the log until the job has ended."""
        seen = 0
        while True:
            # The state is read before the log, so that nothing written before the end is missed.
            over = self._queue.ask(lambda store: store.get(self.id)).state in ENDED
            text, total = self._queue.ask(lambda store: store.tail(self.id))
            if total > seen:
                yield printable(text.encode()[-(total - seen) :].decode(errors="replace"))
                seen = total
            if over:
                return
            time.sleep(poll_seconds)

    def checkpoints(self) -> tuple[CheckpointView, ...]:
        """Return the verified checkpoints on its box or in its copies, newest first."""
        return self._queue.ask(lambda store: details.checkpoints(store.get(self.id)))

    def curve(self) -> tuple[Point, ...]:
        """Return loss, learning rate and step time by step, 1,000 points at the most, exact at both ends."""
        return self._queue.ask(lambda store: stored_curves.read(store, self.id))

    def cancel(self) -> State:
        """End the job for good, or ask its box to; return its state now."""
        from pi0q.queue.current_user import user

        return self._queue.change(lambda store: store.cancel(self.id, text=f"cancelled by {user()}"))


class Queue:
    """One queue. Nothing is asked before the first method is called."""

    def __init__(self, settings: Settings | None = None) -> None:
        """`settings`: those of this process when left out. Raises UsageError for settings that can't be read."""
        self.settings = settings or all_settings.load()
        self._store: StoreReads | None = None

    @property
    def silent_seconds(self) -> float:
        """Return the seconds after which a box without a heartbeat counts as unreachable."""
        return self.settings.timing.silent

    def submit(
        self,
        spec: str | Path | Mapping[str, Any] | Spec,
        *,
        overrides: Mapping[str, Any] | None = None,
        again: bool = False,
    ) -> Job:
        """Queue a training; return once it is on the server.

        Args:
            spec: The path of a job file, its content as a mapping, or a Spec.
            overrides: Values in place of the file's, as `--set`: {"train.seed": 2}.
            again: Queue it even if the same job was queued less than 30 s ago; otherwise that one is returned.

        Raises:
            SpecError: with all faults of the job; nothing was queued.
        """
        import json

        from pi0q.jobs.schema.overrides import read
        from pi0q.queue.commands.submit import queue_quietly

        changes = read([f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()])
        with self._explained():
            (job,) = queue_quietly([_spec(spec, changes)], self.settings, again=again)
        return Job(self, str(job["id"]))

    def job(self, reference: str) -> Job:
        """Return the job of an id, the beginning of one, or a name. Raises NotFound, UsageError."""
        return Job(self, self.ask(lambda store: store.resolve(reference)))

    def jobs(self, *, ended: int = views.MOST_ENDED) -> tuple[JobView, ...]:
        """Return all jobs that have not ended and the newest `ended` ends (-1 for all), in the order of `pi0q ls`."""
        return self.fleet(live=-1, ended=ended).jobs

    def boxes(self) -> tuple[BoxView, ...]:
        """Return the boxes with their cards and the jobs on them."""
        return self.fleet(live=-1, ended=0).boxes

    def fleet(self, *, live: int = views.MOST_LIVE, ended: int = views.MOST_ENDED) -> FleetView:
        """Return boxes and jobs, read at one moment; `live` and `ended` as in `reading.views.read`."""
        return self.ask(lambda store: views.read(store, self.silent_seconds, live=live, ended=ended))

    def ask(self, question: Callable[[StoreReads], T]) -> T:
        """Return what a question to the store answers. Raises QueueUnreachable where the server can't be asked."""
        from pi0q.queue.connection import connect_briefly
        from pi0q.queue.store_reads import StoreReads

        if self._store is None:
            self._store = StoreReads(connect_briefly(self.settings), self.settings.prefix)
        with self._explained():
            return question(self._store)

    def change(self, act: Callable[[UserStore], T]) -> T:
        """Return what a request to the store answers, by the client that sends nothing twice."""
        from pi0q.queue.connection import connect
        from pi0q.queue.user_store import UserStore

        with self._explained():
            return act(UserStore(connect(self.settings), self.settings.prefix))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise QueueUnreachable for the errors of both clients."""
        try:
            yield
        except Exception as error:
            if not type(error).__module__.startswith(("redis.", "pi0q.queue.resp_protocol")):
                raise
            from pi0q.queue.connection import explain

            raise explain(error, self.settings) from None  # type: ignore[arg-type]


def submit(
    spec: str | Path | Mapping[str, Any] | Spec, *, overrides: Mapping[str, Any] | None = None, again: bool = False
) -> Job:
    """Queue a training on the queue of the settings, as `Queue.submit`."""
    return Queue().submit(spec, overrides=overrides, again=again)


def job(reference: str) -> Job:
    """Return a job by id, by the beginning of one, or by name, as `Queue.job`."""
    return Queue().job(reference)


def jobs(*, ended: int = views.MOST_ENDED) -> tuple[JobView, ...]:
    """Return the jobs, as `Queue.jobs`."""
    return Queue().jobs(ended=ended)


def boxes() -> tuple[BoxView, ...]:
    """Return the boxes, as `Queue.boxes`."""
    return Queue().boxes()


def _spec(spec: str | Path | Mapping[str, Any] | Spec, changes: Sequence[Any]) -> Spec:
    from pi0q.jobs.spec import Spec, parse

    if isinstance(spec, Spec):
        return spec
    if isinstance(spec, Mapping):
        import json

        # JSON is YAML: a mapping is checked as its file would be.
        return parse(json.dumps(spec), filename="job", overrides=changes)
    from pi0q.queue.submission import load

    return load(str(spec), overrides=changes)

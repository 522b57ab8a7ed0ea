"""What the stories share: a job in its middle, its good end, and what must hold of it on all boxes of a cluster."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

from celery.events.state import State as Flower

from pi0q.jobs.record import Record
from pi0q.queue import celery_app, settings
from tests.rig.cluster import PATIENCE, Box, Cluster, gone, wait

STEPS, FREQ = 60, 20
#: A step at which one checkpoint is there and the next is far.
MIDDLE = 24
#: What each claim that comes to its training writes into the history.
ONE_LIFE = "claimed preparing running"


def begun(cluster: Cluster, box: Box, name: str = "grab_box", *, steps: int = STEPS, **more: Any) -> str:
    """A job that is at MIDDLE on this box, its first checkpoint sealed and known to the queue.

    From there on it takes its time until the story asks how it `went_on`.
    """
    cluster.slow_down(MIDDLE)
    job = cluster.submit(name, steps=steps, save_freq=FREQ, **more)
    box.sealed(job, FREQ)
    box.steps(job, MIDDLE)
    cluster.until(job, lambda record: record.checkpoint)
    return job


def went_on(
    cluster: Cluster, box: Box, job: str, *, lives: int = 2, resumed_at: int | None = None, steps: int = STEPS
) -> Record:
    """It succeeds, each trainer after the other, as one WandB run; nothing of it is left.

    The last trainer began at `resumed_at`, or else where it must: at the newest checkpoint of the one before it.
    """
    cluster.speed_up()
    done = cluster.ends(job)
    assert (str(done.state), done.step) == ("succeeded", steps)
    assert len(box.trainers_came_one_by_one(job)) == lives
    if resumed_at is None:
        went_on_from_its_checkpoint(box, job)
    else:
        assert box.events(job, "ready")[-1]["step"] == resumed_at
    assert {event["run_id"] for event in box.events(job, "wandb")} == {f"pi0q-{job}"}
    assert done.wandb_run_id == f"pi0q-{job}"
    assert done.checkpoint and done.checkpoint.step == steps
    nothing_left(cluster, job)
    return done


def went_on_from_its_checkpoint(box: Box, job: str) -> None:
    """No more is lost than the steps since the last save, and one that was not vouched for yet."""
    *_, last = (index for index, event in enumerate(box.events(job)) if event["event"] == "ready")
    began = box.events(job)[last]["step"]
    before = [event["step"] for event in box.events(job)[:last] if event["event"] == "step"][-1]
    assert began > 0 and began % FREQ == 0 and 0 <= before - began < 2 * FREQ


def nothing_left(cluster: Cluster, job: str) -> None:
    """No promise and no process of the job, on any box, and no entry of an older epoch behind a newer one's."""
    wait(lambda: not any(box.processes(job) for box in cluster.boxes), f"the end of all processes of {job}")
    assert promised(cluster, job) == []
    epochs = [event.epoch for event in cluster.store.get(job).history]
    assert epochs == sorted(epochs)


def promised(cluster: Cluster, job: str) -> list[str]:
    """What is promised to the job."""
    keys = cluster.store.client.scan_iter(f"{cluster.prefix}promises:*")
    return [str(key) for key in keys if cluster.store.client.hexists(key, job)]


def states(record: Record) -> str:
    return " ".join(str(event.state) for event in record.history if not event.text.startswith("its message was lost"))


def reasons(record: Record) -> list[str]:
    return [str(event.reason) for event in record.history if event.reason]


def claimed_at(record: Record, epoch: int) -> int:
    """When this epoch began, by the server's clock, ms."""
    return next(event.at_ms for event in record.history if event.epoch == epoch and str(event.state) == "claimed")


def moments(box: Box, job: str) -> list[float]:
    """When the job's trainers on this box did something, by the machine's clock, seconds."""
    return [float(event["t"]) for event in box.events(job)]


def manifests(box: Box, job: str) -> dict[str, int]:
    """Each checkpoint of the job on this box that is vouched for, and the epoch that did."""
    found = (box.run_dir(job) / "output" / "checkpoints").glob("*/pi0q.manifest.json")
    return {path.parent.name: int(json.loads(path.read_text())["epoch"]) for path in found}


def dies(pid: int) -> None:
    """Waits for the end of a process that nobody reaps for us."""
    wait(lambda: gone(pid), f"the end of process {pid}")


@contextlib.contextmanager
def flower(cluster: Cluster) -> Iterator[Callable[[str], list[str]]]:
    """What Flower shows of a job meanwhile: the workers' events, folded by Celery's own State as Flower does it.

    Gives a function: the job -> each state in which Flower had it, in turn.
    """
    app = celery_app.make(settings.load(cluster.env(cluster.place / "flower")))
    folded, shown = Flower(), dict[str, list[str]]()
    ready, over = threading.Event(), threading.Event()

    def hear(event: dict[str, Any]) -> None:
        folded.event(event)
        if job := event.get("uuid"):
            shown.setdefault(job, []).append(str(folded.tasks[job].state))

    def listen() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": hear})
            with receiver.consumer_context() as (own, *_):
                ready.set()
                while not over.is_set():
                    with contextlib.suppress(TimeoutError):
                        own.drain_events(timeout=0.3)

    thread = threading.Thread(target=listen, name="flower")
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield lambda job: list(shown.get(job, []))
    finally:
        over.set()
        thread.join()
        app.close()

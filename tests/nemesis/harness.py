"""A cluster of three boxes, and what does to it what a plan says."""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pi0q.jobs.errors import Pi0qError
from pi0q.queue import celery_message
from tests.nemesis import plan as plans
from tests.nemesis.history import ENDED, Happened, History, Known, read
from tests.nemesis.plan import Fault, Plan
from tests.rig import machine
from tests.rig.cluster import Box, Cluster, gone, resume, wait
from tests.rig.damages import DAMAGES, inject
from tests.rig.server import Server

WITNESS = Path(__file__).parent / "witness"
#: Seconds that jobs may come no further once everything is well again, until they have ended. Seconds in which the
#: machine itself stood still do not count: a rented one stood for more than a minute.
LIMIT = 120.0
#: What a job that comes further lets be written.
PROGRESS = {"begin", "stepping", "saving", "manifest", "done"}
#: Seconds in which all that an ended job held must be gone.
TIDY = 120.0
#: Seconds that a fault waits for its moment before it is left out.
PATIENCE = 3.0
#: Seconds without CPU for the rig's clock thread that count as the machine's fault.
STALL = 0.4
#: What the witness's grandchild without a mark is known by, to us alone.
STRAY = "pi0q-stray"
LINK_FAULTS = {"refuse", "hold", "swallow"}
RUN_FAULTS = {"kill_trainer", "kill_runner", "kill_both", "term_runner", "stop_trainer", "stop_runner", "alone"}
SERVER_FAULTS = {"kill_server", "stop_server", "restore_server", "promote"}


class Harness:
    """Lives over many rounds; one that failed is closed and another opened."""

    def __init__(self, place: Path) -> None:
        self.place = place
        server = Server.start(place / "server" / "data")
        self.cluster = Cluster(place, server, witness=WITNESS)
        self.retired: list[Server] = []
        self.boxes: dict[str, Box] = {}
        self._seen: dict[str, int] = {}
        self._copies = 0
        for name in plans.BOXES:
            record = place / f"{name}.record.jsonl"
            self.boxes[name] = self.cluster.box(
                name,
                slots=plans.SLOTS,
                gpus=[plans.CARDS[name]],
                linked=True,
                contained=True,
                PI0Q_LEASE_SECONDS=str(plans.LEASE),
                PI0Q_WAIT_FOR_BOX="0.5",
                FAKE_STEP_SECONDS=str(plans.STEP),
                FAKE_RECORD=str(record),
            )
        wait(self._ready, "three boxes", self._told)

    def _ready(self) -> bool:
        """Return whether each box is up and has inspected its trainer: jobs wait for that, however slow the disk is."""
        ready = sum(box.get("status") == "ready" for box in self.cluster.store.boxes()) == len(self.boxes)
        return ready and all((box.home / "trainer.json").exists() for box in self.boxes.values())

    def _told(self) -> str:
        return "".join(box.log[-2000:] for box in self.boxes.values())

    def news(self, name: str) -> list[dict[str, Any]]:
        """What a box's processes wrote since the last look."""
        file = self.place / f"{name}.record.jsonl"
        if not file.exists():
            return []
        with file.open("rb") as stream:
            stream.seek(self._seen.get(name, 0))
            whole = stream.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._seen[name] = self._seen.get(name, 0) + len(whole) + 1
        return [json.loads(line) for line in whole.split(b"\n")]

    def play(self, plan: Plan) -> History:
        """One round from its first submit until everything has ended and is tidy."""
        for name in self.boxes:
            self.news(name)
        return Round(self, plan).play()

    def copy_place(self) -> Path:
        self._copies += 1
        return self.place / f"copy-{self._copies}"

    def close(self) -> None:
        self.cluster.close()
        for server in (*self.retired, self.cluster.server):
            server.stop()


class Round:
    """One plan on a harness."""

    def __init__(self, harness: Harness, plan: Plan) -> None:
        self.harness, self.cluster, self.plan = harness, harness.cluster, plan
        self.begin = time.monotonic()
        self.history = History(seed=plan.seed, begin=self.begin)
        self.records: dict[str, list[dict[str, Any]]] = {name: [] for name in harness.boxes}
        self.known: dict[int, Known] = {}
        #: Where each job's newest trainer is: job -> (box, pid inside).
        self.lives: dict[str, tuple[str, int]] = {}
        #: When each job first came to a moment, and where: (job, moment) -> (time, box).
        self.moments: dict[tuple[str, str], tuple[float, str]] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._asked = 0.0
        self._progressed = 0.0
        self._waiting = [fault for fault in plan.faults if fault.moment]
        #: Faults that last, and what ends each of them.
        self._lasting: dict[str, Happened] = {}
        self._undo: dict[str, Callable[[], None]] = {}
        self._down: set[str] = set()
        self._copy: tuple[float, Path] | None = None
        #: Ids of the damaged records of this round.
        self._damaged: list[str] = []
        self._quick = self._client()
        self._over = threading.Event()

    # -- the round --------------------------------------------------------------------------------

    def play(self) -> History:
        clock = threading.Thread(target=self._watch_the_clock, daemon=True)
        clock.start()
        for number, job in enumerate(self.plan.jobs):
            self._at(job.at, lambda number=number: self._submit(number))  # type: ignore[misc]
        for fault in self.plan.faults:
            if fault.kind == "restore_server":
                self._at(0.3 if fault.moment else max(0.2, fault.at - float(fault.note)), self._copy_server)
            if not fault.moment:
                self._at(fault.at, lambda fault=fault: self._hit(fault))  # type: ignore[misc]
        while (self._agenda or self._waiting) and not self._all_over():
            self._look()
            self._wait_for_moments()
            while self._agenda and self._agenda[0][0] <= time.monotonic():
                heapq.heappop(self._agenda)[2]()
            time.sleep(0.02)
        self.history.missed += len(self._waiting)
        self._heal()
        self._await_the_end()
        self._await_tidiness()
        self._look()
        for name, records in self.records.items():
            read(self.history, name, records)
        self._over.set()
        clock.join()
        self._clean()
        return self.history

    def _at(self, seconds: float, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (self.begin + seconds, self._count, do))

    def _after(self, seconds: float, do: Callable[[], None]) -> None:
        self._at(time.monotonic() - self.begin + seconds, do)

    def _watch_the_clock(self) -> None:
        before = time.monotonic()
        while not self._over.wait(0.05):
            now = time.monotonic()
            if now - before > STALL:
                self.history.stalls.append((before, now))
            before = now

    def _look(self) -> None:
        for name, records in self.records.items():
            fresh = self.harness.news(name)
            records += fresh
            for record in fresh:
                self._note(name, record)

    def _note(self, box: str, record: dict[str, Any]) -> None:
        kind, job, at = record["e"], record.get("job", ""), record["t"]
        if kind in PROGRESS:
            self._progressed = max(self._progressed, at)
        if kind == "begin":
            if job in self.lives:
                self.moments.setdefault((job, "resumed"), (at, box))
            self.lives[job] = (box, record["pid"])
        elif kind == "answer" and record["script"] == "claim" and record["answer"][0] == "claimed":
            claim = next(
                call for call in reversed(self.records[box])
                if call["e"] == "call" and (call["pid"], call["n"]) == (record["pid"], record["n"])
            )  # fmt: skip
            self.moments.setdefault((claim["args"][0], "claimed"), (at, box))
        elif kind in ("stepping", "saving"):
            self.moments.setdefault((job, kind), (at, box))

    def _wait_for_moments(self) -> None:
        for fault in list(self._waiting):
            known = self.known.get(fault.job)
            moment = self.moments.get((known.id, fault.moment)) if known else None
            if moment:
                self._waiting.remove(fault)
                self._after(fault.at, lambda fault=fault, box=moment[1]: self._hit(fault, box))  # type: ignore[misc]
            elif time.monotonic() > self.begin + plans.STAGE + PATIENCE:
                self._waiting.remove(fault)
                self.history.missed += 1

    def _submit(self, number: int) -> None:
        job = self.plan.jobs[number]
        known = Known(id="", number=number, job=job, accepted=None)
        with contextlib.suppress(Pi0qError, redis.RedisError):
            known.id = self.cluster.submit(
                job.name,
                steps=job.steps,
                save_freq=job.save_freq,
                gib=job.gib,
                priority=job.priority,
                # Jobs that are alike in everything would count as one that was submitted twice.
                flags={"wandb": {"enable": False}, "seed": self.plan.seed * 10 + number, "log_freq": 50},
                checkpoints={"every": None, "keep": 2},
            )
            known.accepted = time.monotonic()
            self.known[number] = known
            self.history.jobs.append(known)

    def _all_over(self) -> bool:
        """Whether every job has ended, so that the faults to come would hit nothing."""
        if len(self.known) < len(self.plan.jobs) or SERVER_FAULTS & self._lasting.keys():
            return False
        if time.monotonic() < self._asked + 0.1:
            return False
        self._asked = time.monotonic()
        return all(map(self._ended, self.known.values()))

    def _ended(self, known: Known) -> bool:
        if known.ended is None:
            with contextlib.suppress(redis.RedisError):
                state = self._state(known)
                if state in ENDED or (state is None and self._lasting == {} and self.history.healed):
                    known.ended = time.monotonic()
        return known.ended is not None

    def _state(self, known: Known) -> str | None:
        state = self._quick.hget(f"{self.cluster.prefix}job:{known.id}", "state")
        return None if state is None else str(state)

    def _client(self) -> redis.Redis:
        url = self.cluster.server.url
        return redis.Redis.from_url(url, decode_responses=True, socket_timeout=0.5, retry=Retry(NoBackoff(), 0))

    # -- faults -----------------------------------------------------------------------------------

    def _hit(self, fault: Fault, box: str = "") -> None:
        job = self.known[fault.job].id if fault.job in self.known else ""
        aimed = self.harness.boxes.get(box or fault.box) if fault.box else None
        done: Happened | None = None
        began = time.monotonic()
        with contextlib.suppress(redis.RedisError, Pi0qError, ProcessLookupError):
            if aimed and fault.kind in RUN_FAULTS:
                # Where no run is to be hit on this box, the next one will do.
                others = [other for other in self.harness.boxes.values() if other is not aimed and not box]
                runs = (self._hit_run(fault, one, job if box else "") for one in (aimed, *others))
                done = next(filter(None, runs), None)
            elif aimed:
                done = self._hit_box(fault, aimed)
            elif fault.kind in SERVER_FAULTS:
                done = self._hit_server(fault)
            else:
                done = self._hit_job(fault, job)
        if done is None:
            self.history.missed += 1
            return
        done.t0, done.t1 = began, time.monotonic()
        self.history.faults.append(done)

    def _hit_box(self, fault: Fault, box: Box) -> Happened | None:
        done = Happened(kind=fault.kind, t0=0.0, t1=0.0, box=box.name)
        kind = fault.kind
        if kind == "junk":
            for key in (celery_message.QUEUE, celery_message.box_key(box.name)):
                self.cluster.store.client.lpush(self.cluster.prefix + key, "rubbish")
            return done
        if kind == "cut":
            assert box.link
            box.link.cut()
            return done
        if kind in LINK_FAULTS:
            assert box.link
            if box.link.state != "open":
                return None
            {"refuse": box.link.refuse, "hold": box.link.hold, "swallow": box.link.swallow}[kind]()
            return self._lasts(fault, done, box.link.heal)
        if kind in ("drain", "drain_now"):
            self.cluster.store.drain(box.name, "now" if kind == "drain_now" else "drain", text="nemesis")
            return self._lasts(fault, done, lambda: self._undrain(box))
        if box.name in self._down or not box.worker_pid:
            return None
        if kind == "kill_spare":
            return done if _signal(box.spare_runner(), signal.SIGKILL) else None
        if kind == "stop_worker":
            pid = box.worker_pid
            _signal(pid, signal.SIGSTOP)
            return self._lasts(fault, done, lambda: resume(pid))
        if kind == "stop_box":
            box.freeze()
            return self._lasts(fault, done, box.thaw)
        return self._end_worker(fault, box, done)

    def _end_worker(self, fault: Fault, box: Box, done: Happened) -> Happened:
        self._down.add(box.name)
        if fault.kind == "kill_worker":
            box.kill()
        elif fault.kind == "term_worker":
            _signal(box.worker_pid, signal.SIGTERM)
        else:
            box.crash()
            if fault.kind == "clock":
                box.set_clock(fault.note)
        return self._lasts(fault, done, lambda: self._restart(box))

    def _hit_run(self, fault: Fault, box: Box, job: str) -> Happened | None:
        """A process of a run: of the job that the fault is about, else of any that trains on the box."""
        done = Happened(kind=fault.kind, t0=0.0, t1=0.0, box=box.name)
        here = [known for known, (where, _) in self.lives.items() if where == box.name]
        for done.job in [job] if job else reversed(here):
            trainer = box.pid(self.lives[done.job][1]) if done.job in here else 0
            try:
                runner = box.runner(done.job)
            except (OSError, ValueError):
                continue
            if trainer and not gone(trainer) and done.job in _marked(trainer):
                break
            if runner and fault.kind not in ("kill_trainer", "stop_trainer") and "runner" in _command(runner):
                break
        else:
            return None
        if fault.kind in ("kill_trainer", "stop_trainer"):
            runner = 0
        if fault.kind == "alone":
            return self._leave_alone(fault, box, runner, done)
        if fault.kind in ("stop_runner", "stop_trainer"):
            pid = runner or trainer
            if not _signal(pid, signal.SIGSTOP):
                return None
            return self._lasts(fault, done, lambda: resume(pid))
        hit = _signal(runner, signal.SIGTERM if fault.kind == "term_runner" else signal.SIGKILL)
        if fault.kind in ("kill_trainer", "kill_both"):
            hit = _signal(trainer, signal.SIGKILL) or hit
        return done if hit else None

    def _leave_alone(self, fault: Fault, box: Box, runner: int, done: Happened) -> Happened | None:
        """The runner stands still and its box is cut off: nobody but the trainer itself can stop the trainer."""
        assert box.link
        if box.link.state != "open" or not _signal(runner, signal.SIGSTOP):
            return None
        link = box.link
        link.hold()

        def over() -> None:
            # First the runner: what it says after its lease must be refused.
            resume(runner)
            link.heal()

        return self._lasts(fault, done, over)

    def _hit_server(self, fault: Fault) -> Happened | None:
        if SERVER_FAULTS & self._lasting.keys():
            return None
        done, server = Happened(kind=fault.kind, t0=0.0, t1=0.0), self.cluster.server
        if fault.kind == "kill_server":
            server.kill()
            return self._lasts(fault, done, server.restart)
        if fault.kind == "stop_server":
            server.pause()
            return self._lasts(fault, done, server.resume)
        if fault.kind == "restore_server":
            if self._copy is None:
                return None
            done.since, copy = self._copy
            server.restore(copy)
            return done
        replica = server.replica(self.harness.copy_place() / "data")
        server.kill()
        replica.promote()
        self.harness.retired.append(server)
        self.cluster.follow(replica)
        self._quick = self._client()
        return done

    def _copy_server(self) -> None:
        if not SERVER_FAULTS & self._lasting.keys() and self._copy is None:
            self._copy = (time.monotonic(), self.cluster.server.keep(self.harness.copy_place()))

    def _hit_job(self, fault: Fault, job: str) -> Happened | None:
        if not job or SERVER_FAULTS & self._lasting.keys():
            return None
        if fault.kind == "lose_message":
            # Most are taken from the queue at once; one that waits will do as well.
            ids = (job, *(known.id for known in self.known.values()))
            waiting = [each for each in ids if self.cluster.store.get(each).state.value == "queued"]
            job = (waiting or [job])[0]
        store, prefix = self.cluster.store, self.cluster.prefix
        if fault.kind == "damage":
            return self._damage(fault, job)
        raw = store.client.hget(f"{prefix}job:{job}", "message")
        owner = str(store.client.hget(f"{prefix}job:{job}", "box") or "box-a")
        keys = [prefix + key for key in (*celery_message.QUEUE_KEYS, celery_message.box_key(owner))]
        if fault.kind == "cancel":
            store.cancel(job, text="nemesis wishes so")
        elif fault.kind == "save":
            store.request_checkpoint(job, text="nemesis wishes so")
        elif fault.kind == "hold_job":
            store.hold(job, text="by nemesis")
            held = Happened(kind=fault.kind, t0=0.0, t1=0.0, box=owner, job=job)
            return self._lasts(fault, held, lambda: self._release(job))
        elif raw is None:
            return None
        elif fault.kind == "lose_message":
            if not sum(int(store.client.lrem(key, 0, str(raw))) for key in keys):
                return None
        else:
            for key in keys[-2:]:
                store.client.lpush(key, str(raw))
        return Happened(kind=fault.kind, t0=0.0, t1=0.0, box=owner, job=job)

    def _damage(self, fault: Fault, job: str) -> Happened:
        """Has a record that no pi0q can have written wait in the queue; no box may run it, or stop at it."""
        field, text = DAMAGES[fault.note]
        spec = self.cluster.store.get(job).spec
        self._damaged.append(inject(self.cluster.store, dict(spec), **{field: text}))
        return Happened(kind=fault.kind, t0=0.0, t1=0.0, box="", job=job)

    # -- what lasts, and its end ------------------------------------------------------------------

    def _lasts(self, fault: Fault, done: Happened, undo: Callable[[], object]) -> Happened:
        key = fault.kind if fault.kind in SERVER_FAULTS else f"{fault.kind} {self._count}"
        self._lasting[key] = done

        def over() -> None:
            if self._lasting.pop(key, None) is not None:
                undo()
                done.t1 = time.monotonic()

        self._undo[key] = over
        self._after(fault.seconds, over)
        return done

    def _undrain(self, box: Box) -> None:
        # The first try may find a connection that a fault has broken.
        for _ in range(3):
            with contextlib.suppress(redis.RedisError, Pi0qError):
                self.cluster.store.drain(box.name, "", text="nemesis")
                return

    def _release(self, job: str) -> None:
        for _ in range(3):
            with contextlib.suppress(redis.RedisError, Pi0qError):
                self.cluster.store.release(job)
                return

    def _restart(self, box: Box, patience: float = 5.0) -> None:
        if box.worker.poll() is None:
            # It was told to stop and takes its time.
            with contextlib.suppress(Exception):
                box.worker.wait(patience)
        if box.worker.poll() is not None:
            box.start()
            self._down.discard(box.name)

    def _heal(self) -> None:
        """Everything is well again: lines, processes, server, workers."""
        for over in list(self._undo.values()):
            over()
        if not self.cluster.server.alive:
            self.cluster.server.restart()
        for box in self.harness.boxes.values():
            assert box.link
            box.link.heal()
            box.thaw()
            if box.name in self._down:
                self._restart(box, LIMIT)
            elif box.worker.poll() is not None:
                said = box.log[-600:]
                self.history.died.append(f"the worker of {box.name} ended with {box.worker.returncode}: {said}")
                box.start()
        for box in self.harness.boxes.values():
            # Also one that was not drained in this round: older data may say so again.
            self._undrain(box)
        for known in self.known.values():
            # Likewise older data may hold it again.
            self._release(known.id)
        self.history.healed = time.monotonic()

    def _await_the_end(self) -> None:
        for known in self.known.values():
            # A server with older data may have forgotten that it ended, and boxes that knew may have been away.
            if known.ended is not None and self.cluster.store.raw(known.id).get("state") not in ENDED:
                known.ended = None
        idle, before, progressed = 0.0, time.monotonic(), self._progressed
        while not all(map(self._ended, self.known.values())):
            self._look()
            now = time.monotonic()
            idle = idle + min(now - before, STALL) if progressed == self._progressed else 0.0
            before, progressed = now, self._progressed
            if idle > LIMIT:
                break
            time.sleep(0.05)
        self.history.ended = time.monotonic()
        for known in self.known.values():
            with contextlib.suppress(Pi0qError):
                record = self.cluster.store.get(known.id)
                known.state, known.reason = str(record.state.value), str(record.reason or "")
                known.attempt, known.step = record.attempt, record.step or 0
                known.history = [f"{event.state.value}:{event.reason or ''}" for event in record.history]
                continue
            known.there = False

    def _await_tidiness(self) -> None:
        give_up = time.monotonic() + TIDY
        while (left := [*self._held(), *self._left()]) and time.monotonic() < give_up:
            time.sleep(0.1)
        self.history.left = [text for _, _, text in left if STRAY not in text]
        self.history.strays = [(box, text) for box, _, text in left if STRAY in text]
        for _, pid, text in left:
            if STRAY in text:
                # The cluster lives on.
                _signal(pid, signal.SIGKILL)

    def _held(self) -> Iterator[tuple[str, int, str]]:
        """What the queue still keeps for jobs."""
        store, prefix = self.cluster.store, self.cluster.prefix
        if mib := self.cluster.promised():
            yield "", 0, f"{mib} MiB are still promised"
        for key in ("leases", *(f"owned:{name}" for name in self.harness.boxes)):
            kind = store.client.zcard if key == "leases" else store.client.scard
            if count := kind(prefix + key):
                yield "", 0, f"{count} jobs in {key}"

    def _left(self) -> Iterator[tuple[str, int, str]]:
        """Processes of a box besides its worker and the runner that waits: box, pid, what."""
        for box in self.harness.boxes.values():
            spare = 0
            for process in box.processes():
                with contextlib.suppress(psutil.Error):
                    words = process.cmdline()
                    if process.status() == psutil.STATUS_ZOMBIE or "pi0q.queue.cli" in words:
                        continue
                    spare += "pi0q.workers.runner.runner_main" in words
                    if "pi0q.workers.runner.runner_main" not in words or spare > 1:
                        yield box.name, process.pid, f"{box.name}: process {process.pid} {' '.join(words)[:200]}"

    def _clean(self) -> None:
        """What the next round has no use for. A round that failed is left as it is by `keep`."""
        self._quick.close()
        for job in self._damaged:
            self.cluster.store.discard(job, text="removed by nemesis")
        self.harness.retired = [server for server in self.harness.retired if not _retire(server)]

    def keep(self, place: Path) -> None:
        """What a person wants who looks into a failed round."""
        keep(self.harness, place)


def tidy(harness: Harness) -> None:
    """Removes the runs of a round that is over, and copies of the server's data."""
    for box in harness.boxes.values():
        for run in box.home.glob("runs/*"):
            shutil.rmtree(run, ignore_errors=True)
    for copy in harness.place.glob("copy-*"):
        if copy / "data" != harness.cluster.server.data:
            shutil.rmtree(copy, ignore_errors=True)


def keep(harness: Harness, place: Path) -> None:
    """Copies logs and records of a failed round, without checkpoints."""
    place.mkdir(parents=True, exist_ok=True)
    for file in harness.place.rglob("*"):
        if file.is_file() and file.suffix in (".log", ".out", ".jsonl", ".json") and "checkpoints" not in file.parts:
            target = place / file.relative_to(harness.place)
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                shutil.copyfile(file, target)


def _retire(server: Server) -> bool:
    server.stop()
    return True


def _signal(pid: int, signum: signal.Signals) -> bool:
    if not pid or gone(pid):
        return False
    os.kill(pid, signum)
    return True


def _marked(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).environ().get("PI0Q_JOB", "")
    return ""


def _command(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline())
    return ""


def contained() -> bool:
    return not machine.refusal()

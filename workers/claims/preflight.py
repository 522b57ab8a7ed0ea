"""Preflight: check what a job needs of the Hub and of trackers before a GPU is claimed, off the claiming thread.

    questions(job) -> check (a thread, a process for each route to the Hub) -> conclude -> the record, for every box

A mistake that only the user can fix ends the job and names the fix. What is wrong with this box, or with the network,
only keeps the job from this box for now.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import redis

from pi0q.jobs import dataset, postrun, replicas, transition
from pi0q.jobs.dataset import DatasetInfo
from pi0q.jobs.dataset_checks import checks
from pi0q.jobs.dataset_checks.finding import Finding
from pi0q.jobs.estimates import job_needs
from pi0q.jobs.outcome import MAX_REST_SECONDS, OUTCOMES, Next, Reason
from pi0q.jobs.record import Record
from pi0q.jobs.safety.findings import Use, describe
from pi0q.jobs.safety.pretrained import judge
from pi0q.jobs.spec import Spec
from pi0q.queue import box_status
from pi0q.queue.refusals import PreflightDelay, PreflightRuns, Refusal
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.claims import hub_dataset
from pi0q.workers.claims.peaks import RememberedPeaks
from pi0q.workers.host.model_files import code_hashes
from pi0q.workers.hub import access, snapshots
from pi0q.workers.hub import requirements as fetches
from pi0q.workers.hub.access_main import USES
from pi0q.workers.hub.errors import HubError
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.hub.session import Pins
from pi0q.workers.network import swanlab_key, wandb_key
from pi0q.workers.network.wandb_key import WANDB
from pi0q.workers.trainer.interpreter import TrainerPython

logger = logging.getLogger(__name__)

#: Preflights that run at the same time.
CONCURRENT = 2
#: Jobs whose result is kept in memory.
MAX_REMEMBERED = 2000
#: Reasons that another account might not meet: a private repository looks like none.
_OF_ACCOUNT = frozenset({Reason.NEEDS_ACCESS, Reason.NOT_ON_HUB})


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is to be asked outside for one job."""

    #: Repositories that are not known to be complete on this box.
    fetches: tuple[Fetch, ...] = ()
    #: The repository that the trained policy is pushed to, owner/name; "" if none.
    push: str = ""
    #: The Hub repository that its checkpoints are copied to, owner/name; "" if none.
    copies: str = ""
    #: Whether the WandB key matters.
    wandb: bool = False
    #: Whether the SwanLab key matters.
    swanlab: bool = False

    def __bool__(self) -> bool:
        return bool(self.fetches or self.push or self.copies or self.wandb or self.swanlab)


def questions(job: Record, spec: Spec, *, laid: Callable[[Fetch, str], bool], lerobot: str = "") -> Questions:
    """Return what to ask. Pure but for `laid`: whether a repository is complete on this box at a commit."""
    wanted = fetches.wanted(spec, resuming=job.checkpoint is not None, lerobot=lerobot)
    missing = tuple(one for one in wanted if not (one.pin in job.pins and laid(one, job.pins[one.pin])))
    return Questions(
        fetches=missing,
        push=postrun.push_to(spec) or "",
        copies=replicas.repository(replicas.place_of(spec)),
        wandb="wandb" in fetches.talks_to(spec),
        swanlab=spec.tracking.swanlab and spec.tracking.mode == "online" and not spec.rehearsal,
    )


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a preflight."""

    #: Why the job can't run anywhere: its reason and what its user can do.
    refused: HubError | None = None
    #: Why the preflight could not be completed here now, and for how long the job is left alone.
    unavailable: str = ""
    retry_seconds: float = 0.0
    #: What is wrong with its dataset.
    findings: tuple[Finding, ...] = ()
    #: The dataset's facts, where they are known.
    facts: DatasetInfo | None = None
    #: MiB of VRAM that the job needs by its dataset's own images; 0 where they say nothing of it.
    vram_mib: int = 0
    #: Bytes of the job's repositories, by pin, where the Hub told them.
    sizes: Mapping[str, int] = field(default_factory=dict)
    #: State of the WandB key, see wandb_key.WandB; "" if it was not asked.
    wandb: str = ""
    #: What the user should know.
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the entry for the record; nothing empty, which a Lua script would write as something else."""
        fields = {"ok": True, "seconds": round(self.seconds, 1), "notes": list(self.notes), "wandb": self.wandb}
        fields["dataset"] = asdict(self.facts) if self.facts else None
        fields |= {"sizes": dict(self.sizes), "vram_mib": self.vram_mib or None}
        return {name: value for name, value in fields.items() if value not in ("", None, [], {})}


# -- what follows from the answers: pure -------------------------------------------------------------


def conclude(
    heard: access.AccessReport, key: wandb_key.WandB | None, spec: Spec, *, push: str, unsafe: HubError | None = None
) -> Result:
    """Return what follows from the answers of the Hub and of WandB; `unsafe`: of the files that the Hub showed."""
    facts = DatasetInfo.read(heard.info) if heard.info is not None else None
    passing = next((one for one in heard.errors if _may_pass(one)), None)
    return Result(
        refused=_mistake(heard, facts, spec, push, unsafe),
        unavailable=passing.why if passing else "",
        retry_seconds=max(OUTCOMES[passing.reason].rest_seconds, passing.asked_seconds) if passing else 0.0,
        facts=facts,
        vram_mib=job_needs.estimate(spec, images=facts.images).vram_mib if facts and facts.images else 0,
        sizes=heard.sizes,
        wandb=key.state if key else "",
        notes=(*heard.notes, *_push_note(heard, push), *_wandb_note(key)),
    )


def _may_pass(refused: HubError) -> bool:
    return OUTCOMES[refused.reason].next is Next.RETRY_LATER


def _mistake(
    heard: access.AccessReport, facts: DatasetInfo | None, spec: Spec, push: str, unsafe: HubError | None
) -> HubError | None:
    """Return the first mistake that only the user can fix."""
    of_repository = next((one for one in heard.errors if not _may_pass(one)), None)
    return (
        of_repository
        or unsafe
        or _unfit_dataset(facts, spec)
        or refused_copies(heard, replicas.place_of(spec))
        or _refused_push(heard, push)
    )


def unsafe_files(heard: access.AccessReport, spec: Spec, lerobot: str, allowed_code: frozenset[str]) -> HubError | None:
    """Return why LeRobot of this version may not read these repositories: it would run code that they bring."""
    brought = {fetch.repo_id for fetch, _, _ in heard.models if fetch.kind != "base"}
    for fetch, sha, files in heard.models:
        use = USES[fetch.kind] if spec.train.get("policy.path") or fetch.kind != "base" else Use.WEIGHTS
        found = judge(use, replace(files, allowed_code=allowed_code), lerobot)
        name = f"{fetch.repo_id} at {sha[:8]}"
        if found.findings:
            return _unsafe(describe(name, found.findings))
        if unseen := sorted(found.code_from - brought):
            return _unsafe(f"{name} runs code of {', '.join(unseen)}, which pi0q does not fetch and so can't check")
    return None


def _unsafe(why: str) -> HubError:
    return HubError(reason=Reason.UNSAFE_WEIGHTS, why=why, detail=why)


def _unfit_dataset(facts: DatasetInfo | None, spec: Spec) -> HubError | None:
    why = dataset.fault(facts, spec.train) if facts else ""
    if not why:
        return None
    why = why[0].upper() + why[1:]
    return HubError(reason=Reason.SPEC_REFUSED, why=why, detail=why)


def _refused_push(heard: access.AccessReport, push: str) -> HubError | None:
    if heard.push != "refused":
        return None
    why = f"The trained policy can't be pushed to {push}: {heard.push_why}"
    cure = "Run `hf auth login` on the box, or correct policy.repo_id, then submit again."
    return HubError(reason=Reason.NEEDS_ACCESS, why=why, detail=f"{why}. {cure}")


def refused_copies(heard: access.AccessReport, target: str) -> HubError | None:
    """Return why the copies that the user asked for can't be made; None if they can, or nobody could say."""
    if heard.copies not in ("refused", "public"):
        return None
    why = f"Checkpoints can't be copied to {target}: {heard.copies_why}"
    public = heard.copies == "public"
    cure = "Make it private in its settings" if public else "Run `hf auth login` on the box"
    reason = Reason.SPEC_REFUSED if public else Reason.NEEDS_ACCESS
    return HubError(reason=reason, why=why, detail=f"{why}. {cure}, or correct checkpoints.copy_to, then submit again.")


def _push_note(heard: access.AccessReport, push: str) -> list[str]:
    if not push or heard.push in ("ok", "refused"):
        return []
    return [f"could not check whether {push} can be pushed to ({heard.push_why or 'the Hub was not reached'})"]


def _wandb_note(key: wandb_key.WandB | None) -> list[str]:
    if key is None or key.state == "ok":
        return []
    return [f"WandB: {WANDB[key.state]}; the run is kept on the box (offline)"]


def _swanlab_note(key: swanlab_key.SwanLab | None) -> list[str]:
    if key is None or key.state == "ok":
        return []
    return [f"SwanLab: {swanlab_key.WRONG[key.state]}; the run is kept on the box until that is fixed"]


def facts_of(job: Record) -> DatasetInfo | None:
    """Return the facts of its dataset that any box found out."""
    return DatasetInfo.of_any(job.preflight)


# -- the preflights of a box ---------------------------------------------------------------------------


@dataclass
class _Delay:
    """A job whose preflight is repeated later."""

    why: str
    until: float
    seconds: float


@dataclass
class Preflight:
    """The preflights of one box."""

    settings: Settings
    store: Store
    box: str
    #: Measured VRAM of earlier jobs; None where nobody asks for it.
    peaks: RememberedPeaks | None = None
    #: Finds what was read of a job's dataset on this box.
    local: hub_dataset.LocalContents = lambda _: None
    #: What would read what is fetched; None until the box has found it.
    trainer: TrainerPython | None = None
    _passed: set[str] = field(default_factory=set)
    _running: set[str] = field(default_factory=set)
    _delays: dict[str, _Delay] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pool: ThreadPoolExecutor | None = None

    @property
    def lerobot(self) -> str:
        """Version of LeRobot that would read what is fetched; "" until the box has found its trainer."""
        return self.trainer.lerobot if self.trainer else ""

    def online(self, job: Record, spec: Spec) -> bool:
        """Return whether the job needs anything of the network."""
        return bool(questions(job, spec, laid=self._laid, lerobot=self.lerobot))

    def refusal(self, job: Record, spec: Spec, *, ahead: bool = False) -> Refusal | None:
        """Return why the job may not be claimed yet, None if it may; start its preflight where nobody has.

        `ahead`: the box has no room for it now; what another box found out is enough.
        """
        if job.id in self._passed or job.preflight.get(self.box, {}).get("ok") or self.trained_here(job):
            return None
        if ahead and any(found.get("ok") for found in job.preflight.values()):
            return None
        asked = questions(job, spec, laid=self._laid, lerobot=self.lerobot)
        if not asked:
            self._pass(job.id)
            return None
        return self._start(job, spec, asked)

    def _start(self, job: Record, spec: Spec, asked: Questions) -> Refusal | None:
        with self._lock:
            # It may have ended since.
            if job.id in self._passed:
                return None
            delay = self._delays.get(job.id)
            if delay and (left := delay.until - time.monotonic()) > 0:
                return PreflightDelay(why=delay.why, seconds=round(left))
            if job.id not in self._running:
                self._running.add(job.id)
                self._pool = self._pool or ThreadPoolExecutor(CONCURRENT, thread_name_prefix="preflight")
                self._pool.submit(self._run, job, spec, asked)
        return PreflightRuns()

    def trained_here(self, job: Record) -> bool:
        """Return whether it ran on this box already: what it needs was here, and the run reports what is missing."""
        return job.box == self.box and job.started_ms is not None

    def _laid(self, fetch: Fetch, sha: str) -> bool:
        return snapshots.is_complete(fetch, self.settings.hf_home, sha)

    def _pass(self, job_id: str) -> None:
        if len(self._passed) >= MAX_REMEMBERED:
            self._passed.clear()
        self._passed.add(job_id)

    def _run(self, job: Record, spec: Spec, asked: Questions) -> None:
        began = time.monotonic()
        try:
            result = self.check(job, spec, asked)
            self._act(job, replace(result, seconds=time.monotonic() - began))
        except redis.RedisError as error:
            logger.warning("preflight of %s: can't reach the queue (%s); it is repeated", job.id, error)
        except Exception:
            # A fault of ours must keep no job from its run, which asks for all of it again.
            logger.exception("preflight of %s failed; the job may be claimed without it", job.id)
            self._pass(job.id)
        finally:
            with self._lock:
                self._running.discard(job.id)

    def check(self, job: Record, spec: Spec, asked: Questions) -> Result:
        """Ask the Hub and the trackers; up to a minute."""
        with ThreadPoolExecutor(2) as pool, tempfile.TemporaryDirectory(prefix="pi0q-dataset-") as meta:
            key = (
                pool.submit(wandb_key.wandb, self.settings, os.environ, user_home=Path.home()) if asked.wandb else None
            )
            tracker = (
                pool.submit(swanlab_key.check, self.settings, os.environ, user_home=Path.home())
                if asked.swanlab
                else None
            )
            heard = access.ask(
                asked.fetches,
                self.settings,
                pins=Pins(job.pins, job.uncompared),
                push=asked.push,
                copies=asked.copies,
                meta_dir=Path(meta) if self.trainer else None,
            )
            unsafe = unsafe_files(heard, spec, self.lerobot, code_hashes(self.settings))
            result = conclude(heard, key.result() if key else None, spec, push=asked.push, unsafe=unsafe)
            result = replace(result, notes=(*result.notes, *_swanlab_note(tracker.result() if tracker else None)))
            if images := result.facts.images if result.facts else None:
                peak = self.peaks.find(spec, images) if self.peaks else None
                estimate = job_needs.estimate(spec, images=images, peak=peak, base=job.base)
                result = replace(result, vram_mib=estimate.vram_mib)
            if result.refused or self.trainer is None or job.started_ms is not None:
                return result
            found = hub_dataset.findings(heard, spec, self.trainer, Path(meta), self.local)
            return replace(result, findings=found)

    def _act(self, job: Record, result: Result) -> None:
        refused = result.refused
        if refused and refused.reason in _OF_ACCOUNT and self._others_may(job.id):
            self.store.record_preflight(job.id, self.box, {"ok": False, "why": refused.why})
            self._delay(job.id, f"{refused.why} (another box may)", MAX_REST_SECONDS)
        elif refused:
            detail = f"preflight: {refused.detail}"
            logger.info("%s %s: %s", job.id, job.name, detail)
            self.store.move(job.id, transition.refused(refused.reason, detail))
        elif result.findings:
            self._refuse_dataset(job, result.findings)
        elif result.unavailable:
            self._delay(job.id, result.unavailable, result.retry_seconds)
        else:
            with self._lock:
                self._delays.pop(job.id, None)
            if self.store.record_preflight(job.id, self.box, result.to_json()):
                self._pass(job.id)

    def _refuse_dataset(self, job: Record, found: tuple[Finding, ...]) -> None:
        """End the job where its file is what has to change; else keep it until its user lets it go on."""
        why = f"preflight: {checks.sentence(found)}"
        logger.info("%s %s: %s", job.id, job.name, why)
        if all(finding.in_file for finding in found):
            self.store.move(job.id, transition.refused(checks.reason(found), why))
        else:
            self.store.move(job.id, transition.held_for_input(f"dataset: {checks.sentence(found)}", {}))

    def _others_may(self, job_id: str) -> bool:
        """Return whether a box that is up may yet be allowed with its own account what this one's is refused."""
        results = self.store.get(job_id).preflight
        others = box_status.names_up(self.store.boxes(), self.settings.timing.silent) - {self.box}
        unheard = any(results.get(name, {}).get("ok") is not False for name in others)
        return unheard or any(found.get("ok") for name, found in results.items() if name != self.box)

    def _delay(self, job_id: str, why: str, seconds: float) -> None:
        with self._lock:
            before = self._delays.get(job_id)
            pause = min(MAX_REST_SECONDS, max(seconds, 2 * before.seconds if before else 0.0))
            self._delays[job_id] = _Delay(why=why, until=time.monotonic() + pause, seconds=pause)

    def close(self) -> None:
        """Cancel the preflights that have not begun; wait for none."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

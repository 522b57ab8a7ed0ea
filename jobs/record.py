"""What is known of a job: its record, as it lies in Redis and as the commands show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from pi0q.jobs.outcome import IN_THE_FILE, OUTCOMES, Reason
from pi0q.jobs.state import State


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint whose manifest is written."""

    step: int
    #: Directory on the box, `…/checkpoints/000010`.
    path: str
    #: SHA-256 of its `pi0q.manifest.json`.
    manifest: str
    #: Bytes of all its files.
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of a job's history."""

    #: Milliseconds since 1970 on the server's clock.
    at_ms: int
    state: State
    epoch: int
    box: str | None
    reason: Reason | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """A job as the queue knows it. Times are milliseconds since 1970 on the server's clock."""

    id: str
    name: str
    state: State
    #: low, normal, high or urgent.
    priority: str
    #: Who submitted it, user@host.
    submitter: str
    #: The validated job file, `Spec.to_json()`.
    spec: Mapping[str, Any]
    #: gpus, vram_mib (per GPU), disk_mib.
    needs: Mapping[str, int]
    created_ms: int
    updated_ms: int
    #: When the trainer first started.
    started_ms: int | None = None
    ended_ms: int | None = None
    #: When it last came into the queue.
    queued_ms: int | None = None
    reason: Reason | None = None
    #: What happened in the words of whoever saw it.
    detail: str = ""
    #: What was seen of its trainer's last end: reason, cure with the numbers of the case, seen (in words), same.
    evidence: Mapping[str, Any] = field(default_factory=dict)
    #: Grows by one with each claim; only its holder may write.
    epoch: int = 0
    #: Tries that counted, the present one included.
    attempt: int = 0
    #: Runs in a row that ended without a new checkpoint.
    fruitless: int = 0
    #: Seconds that it rests in the queue before it is tried again, where its reason asks for that.
    rest_seconds: float = 0.0
    #: Its owner, or the last one: the box that has its checkpoints.
    box: str | None = None
    #: Start of that box when it claimed the job, see workers/identity.py.
    boot: str = ""
    #: UUIDs of the GPUs promised to it.
    gpus: tuple[str, ...] = ()
    #: What a running job does now, in words: `downloading 3.1/14 GB`, `compiling`, `saving`.
    phase: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    lr: float | None = None
    #: Seconds a step, over the last steps.
    step_seconds: float | None = None
    eta_seconds: float | None = None
    vram_peak_mib: int | None = None
    #: VRAM that its trainer holds now: the part of the promise that is already in the measured use.
    vram_now_mib: int = 0
    #: Data-disk space that it already took.
    disk_now_mib: int = 0
    checkpoint: Saved | None = None
    #: Its newest copy elsewhere that was verified there: `path` is …/JOB/000010 in a directory or hf://owner/name.
    copied: Saved | None = None
    #: Why no newer checkpoint is copied, or how far that is; "" when nothing is behind.
    copy_detail: str = ""
    #: Seconds by which a save holds its training up: the mean of the last ones.
    save_seconds: float | None = None
    #: The newest wish for a save, and the newest one that was answered: milliseconds on the server's clock, 0 for none.
    save_wish: int = 0
    save_served: int = 0
    #: The step it was at when that was wished, and the step of the checkpoint that answered.
    save_at: int = 0
    save_step: int | None = None
    #: Why the wish could not be fulfilled; empty where it was.
    save_detail: str = ""
    #: Whether its trainer saves on demand: `starting`, `yes`, `no`; empty where its box can't tell.
    save_able: str = ""
    #: Steps whose checkpoints are kept until their user says otherwise.
    kept_steps: tuple[int, ...] = ()
    wandb_run_id: str | None = None
    wandb_url: str | None = None
    #: Where an offline WandB run lies on the box.
    wandb_dir: str | None = None
    #: The push of the trained policy once it succeeded: state (pending, done, failed), repo, url, detail, tries.
    push: Mapping[str, Any] = field(default_factory=dict)
    #: The copy of its last checkpoint, where it was still to be made at the job's end: state, detail, tries.
    copy: Mapping[str, Any] = field(default_factory=dict)
    #: WandB runs that were kept on boxes, by box: state (pending, done, failed), mb, detail, tries.
    wandb_sync: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Hub repositories and the commits they were pinned to at the first claim.
    pins: Mapping[str, str] = field(default_factory=dict)
    #: Version of the LeRobot that made its checkpoint.
    lerobot: str = ""
    #: What was found before a claim, by box: ok, why not, seconds, notes, wandb, dataset (its facts).
    preflight: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: The rehearsal before the run itself: ok, seconds, detail, box. Empty: there was none.
    rehearsal: Mapping[str, Any] = field(default_factory=dict)
    #: After a disk ran low: `checkpoint_mib` as far as it is known, `free`: box -> MiB that must be free there before
    #: it takes the job again.
    disk_plan: Mapping[str, Any] = field(default_factory=dict)
    #: What a user asked of its owner: `cancel` or nothing.
    wish: str = ""
    #: Who keeps it out of the queue; "" if nobody.
    held: str = ""
    #: The ended job that it goes on from, and the one that goes on from it; "" if none.
    continues: str = ""
    continued: str = ""
    #: Where the runner keeps everything of it.
    run_dir: str | None = None
    history: tuple[Event, ...] = ()

    @property
    def cure(self) -> str:
        """One sentence on the reason, empty where there is none."""
        if not self.reason:
            return ""
        told = self.evidence.get("cure") if self.evidence.get("reason") == self.reason.value else ""
        return str(told or OUTCOMES[self.reason].cure)

    @property
    def advice(self) -> str:
        """What its user can do now: the cure, and how an ended job goes on from what it saved; "" where nothing is."""
        shown = self.cure if self.state in (State.FAILED, State.QUEUED, State.WAITING) else ""
        if self.state not in (State.FAILED, State.CANCELLED) or self.continued:
            return shown
        start = f"from step {self.checkpoint.step}" if self.checkpoint else "from step 0: nothing was saved"
        mended = " --file FILE" if self.reason in IN_THE_FILE else ""
        return f"{shown} `pi0q retry {self.id}{mended}` goes on {start}.".strip()

    def to_json(self) -> dict[str, Any]:
        """What `pi0q show --json` prints."""
        shown = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in _SAVED:
            shown[name] = vars(saved) if (saved := getattr(self, name)) else None
        # JSON knows no NaN: a diverged loss.
        shown |= {name: None for name in _FLOATS if not isfinite(shown[name] or 0.0)}
        shown["gpus"], shown["kept_steps"] = list(self.gpus), list(self.kept_steps)
        shown["history"] = [vars(event) for event in self.history]
        return shown


_INTS = ("created_ms", "updated_ms", "started_ms", "ended_ms", "queued_ms", "epoch", "attempt", "fruitless",
         "step", "steps", "vram_peak_mib", "vram_now_mib", "disk_now_mib", "save_wish", "save_served", "save_at",
         "save_step")  # fmt: skip
_FLOATS = ("loss", "lr", "step_seconds", "eta_seconds", "rest_seconds", "save_seconds")
_JSON = ("spec", "needs", "pins", "gpus", "preflight", "rehearsal", "disk_plan", "push", "wandb_sync", "copy",
         "kept_steps", "evidence")  # fmt: skip
_SAVED = ("checkpoint", "copied")
_TEXTS = ("id", "name", "priority", "submitter", "detail", "box", "phase", "wandb_run_id", "wandb_url",
          "wandb_dir", "wish", "held", "continues", "continued", "run_dir", "boot", "lerobot",
          "save_detail", "save_able", "copy_detail")  # fmt: skip


def from_hash(fields: Mapping[str, str], history: list[str] | None = None) -> Record:
    """The record in a Redis hash; a field that is absent or empty takes its default."""
    values: dict[str, Any] = {name: fields[name] for name in _TEXTS if fields.get(name)}
    values |= {name: int(float(fields[name])) for name in _INTS if fields.get(name)}
    values |= {name: float(fields[name]) for name in _FLOATS if fields.get(name)}
    values |= {name: json.loads(fields[name]) for name in _JSON if fields.get(name)}
    values["state"] = State(fields["state"])
    values["gpus"] = tuple(values.get("gpus", ()))
    values["reason"] = reason_of(fields.get("reason"))
    values["kept_steps"] = tuple(int(step) for step in values.get("kept_steps", ()))
    values |= {name: Saved(**json.loads(fields[name])) for name in _SAVED if fields.get(name)}
    values["history"] = tuple(event_from(line) for line in history or ())
    return Record(**{"submitter": "", "spec": {}, "needs": {}, "priority": "normal", "updated_ms": 0, **values})


def reason_of(text: str | None) -> Reason | None:
    """The reason of this name; None where there is none, or one of a newer pi0q."""
    return next((reason for reason in Reason if reason.value == text), None)


def event_from(line: str) -> Event:
    """One history entry as the Lua scripts write it."""
    raw = json.loads(line)
    return Event(
        at_ms=int(raw["at_ms"]),
        state=State(raw["state"]),
        epoch=int(raw["epoch"]),
        box=raw.get("box") or None,
        reason=reason_of(raw.get("reason")),
        text=raw.get("text", ""),
    )


def to_hash(values: Mapping[str, Any]) -> dict[str, str]:
    """The inverse for a few fields at a time: what a report or a transition writes."""
    return {name: _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Saved):
        return json.dumps(vars(value))
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
